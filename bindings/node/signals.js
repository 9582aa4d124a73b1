'use strict';

// Closes clients on a signal, for programs that ask for it. Without that the package listens to no signals.

const { constants } = require('node:os');
const { inspect } = require('node:util');
const { isMainThread } = require('node:worker_threads');
const { classes } = require('./errors.js');

const END = ['SIGTERM', 'SIGINT'];

/** What each signal closes. A signal gets one listener of ours, however many clients it closes. */
const closing = new Map();
/** How many closes are under way. The signal takes its usual effect when the last of them has ended. */
let drains = 0;

/**
 * Calls `close` at the first of these signals. Returns a function that cancels this. The signal takes its usual effect after `close`, or when
 * a second one comes. If the program has listeners of its own for the signal, they decide whether the process ends.
 */
function closeOnSignal(close, signals = END) {
  checkSignals(signals);
  const end = () => signals.forEach((name) => forget(name, begin));
  async function begin(name) {
    end();
    drains += 1;
    try {
      await close();
    } finally {
      drains -= 1;
      if (drains === 0 && process.listenerCount(name) === 0) process.kill(process.pid, name);
    }
  }
  signals.forEach((name) => listen(name, begin));
  return end;
}

function listen(name, begin) {
  if (!closing.has(name)) {
    closing.set(name, new Set());
    process.on(name, onSignal);
  }
  closing.get(name).add(begin);
}

function forget(name, begin) {
  const begins = closing.get(name);
  if (!begins?.delete(begin) || begins.size > 0) return;
  closing.delete(name);
  process.off(name, onSignal);
}

function onSignal(name) {
  for (const begin of [...closing.get(name)]) begin(name);
}

function checkSignals(signals) {
  const known = Array.isArray(signals) && signals.every((name) => Object.hasOwn(constants.signals, name));
  if (!known) throw classes.InvalidOptions.because('signals', inspect(signals, { maxStringLength: 80 }), 'an array of names such as "SIGTERM"');
  if (isMainThread) return;
  const message = 'closeOnSignal: only the main thread gets signals; close the client of a worker from there';
  throw new classes.LockError(message, { code: 'NOT_MAIN_THREAD', operation: 'closeOnSignal' });
}

module.exports = { closeOnSignal };
