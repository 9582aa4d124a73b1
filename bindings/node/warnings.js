'use strict';

// What the package warns of, as process warnings of the type `LockWarning`.

/** Warns of a held lease that was dropped: no code can reach it any more. */
function warnDropped({ key, token }) {
  const message = `the lease of ${JSON.stringify(key)} (token ${token}) was dropped without release; the engine releases it`;
  process.emitWarning(message, { type: 'LockWarning', code: 'DLOCK_FORGOTTEN' });
}

/**
 * Warns of a body that waits for a key which it holds itself.
 * @param {string} key
 * @param {Function} caller the warning's stack begins below it
 */
function warnOfDeadlock(key, caller) {
  const name = JSON.stringify(key);
  const message = `deadlock: code inside withLock(${name}) is waiting to acquire ${name} again`;
  process.emitWarning(message, { type: 'LockWarning', code: 'DLOCK_NESTED', ctor: caller });
}

/** Warns of an observer that threw. */
function warnOfObserver({ kind, key }, words, detail) {
  const message = `the observer of ${JSON.stringify(kind)} for lock ${JSON.stringify(key)} failed: ${words}`;
  process.emitWarning(message, { type: 'LockWarning', code: 'DLOCK_OBSERVER', detail });
}

module.exports = { warnDropped, warnOfDeadlock, warnOfObserver };
