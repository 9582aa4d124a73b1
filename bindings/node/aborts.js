'use strict';

// One listener of ours a signal, however many calls it gives up: a hundred waits for one shutdown signal are no leak that Node should warn of.

/** What each signal gives up, by the call's number, and our listener. */
const signals = new WeakMap();

/**
 * Has `giveUp(reason)` called when the signal aborts. Returns what takes that back.
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

/** Why it aborted. Signals that are not Node's may not say. */
function reasonOf(signal) {
  return signal.reason ?? Object.assign(new Error('This operation was aborted'), { name: 'AbortError', code: 'ABORT_ERR' });
}

module.exports = { onAbort, reasonOf };
