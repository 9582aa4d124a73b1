'use strict';

// A signal that begins a drain, for programs that ask for it. By itself the package listens to none.

const { constants } = require('node:os');
const { inspect } = require('node:util');
const { isMainThread } = require('node:worker_threads');
const { classes } = require('./errors.js');

const END = ['SIGTERM', 'SIGINT'];

/** Who waits for each signal. One listener of ours a signal, however many clients it closes. */
const waiting = new Map();
/** Drains under way. The signal is put off until the last of them has ended. */
let drains = 0;

/**
 * Has the first of these signals call `close`; returns a function that takes that back. What the signal would have done without us is put off
 * until then, or until a second one comes; where others listen to it, the process is theirs to end.
 */
function closeOnSignal(close, signals = END) {
  checkSignals(signals);
  const end = () => signals.forEach((name) => forget(name, hear));
  async function hear(name) {
    end();
    drains += 1;
    try {
      await close();
    } finally {
      drains -= 1;
      if (drains === 0 && process.listenerCount(name) === 0) process.kill(process.pid, name);
    }
  }
  signals.forEach((name) => listen(name, hear));
  return end;
}

function listen(name, hear) {
  if (!waiting.has(name)) {
    waiting.set(name, new Set());
    process.on(name, tell);
  }
  waiting.get(name).add(hear);
}

function forget(name, hear) {
  const those = waiting.get(name);
  if (!those?.delete(hear) || those.size > 0) return;
  waiting.delete(name);
  process.off(name, tell);
}

function tell(name) {
  for (const hear of [...waiting.get(name)]) hear(name);
}

function checkSignals(signals) {
  const known = Array.isArray(signals) && signals.every((name) => Object.hasOwn(constants.signals, name));
  if (!known) throw classes.InvalidOptions.because('signals', inspect(signals, { maxStringLength: 80 }), 'an array of names such as "SIGTERM"');
  if (isMainThread) return;
  const message = 'closeOnSignal: signals reach the main thread only; close the client of a worker from there';
  throw new classes.LockError(message, { code: 'NOT_MAIN_THREAD', operation: 'closeOnSignal' });
}

module.exports = { closeOnSignal };
