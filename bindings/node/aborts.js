'use strict';

// Adds one listener to each signal, however many calls the signal gives up. With a listener for each call, Node would warn of a leak when a hundred
// calls wait for the same shutdown signal.

/** For each signal our listener, and the calls that it gives up by number. */
const signals = new WeakMap();

/**
 * Calls `giveUp(reason)` when the signal aborts. Returns a function that cancels this.
 * @param {AbortSignal} signal one that has not aborted
 * @param {number} id
 * @param {(reason: unknown) => void} giveUp
 */
function onAbort(signal, id, giveUp) {
  const known = signals.get(signal) ?? listen(signal);
  known.calls.set(id, giveUp);
  return () => {
    known.calls.delete(id);
    if (known.calls.size > 0 || signals.get(signal) !== known) return;
    signals.delete(signal);
    signal.removeEventListener('abort', known.hear);
  };
}

function listen(signal) {
  const calls = new Map();
  const hear = () => {
    signals.delete(signal);
    for (const giveUp of calls.values()) giveUp(reasonOf(signal));
  };
  const known = { calls, hear };
  signal.addEventListener('abort', hear, { once: true });
  signals.set(signal, known);
  return known;
}

/** Why the signal aborted. Signals that are not Node's may have no reason. */
function reasonOf(signal) {
  return signal.reason ?? Object.assign(new Error('This operation was aborted'), { name: 'AbortError', code: 'ABORT_ERR' });
}

module.exports = { onAbort, reasonOf };
