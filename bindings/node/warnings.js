'use strict';

/** Tells of a lease that was given back because nobody could reach it any more. */
function warnForgotten({ key, token }) {
  const message = `the lease of ${JSON.stringify(key)} (token ${token}) was dropped without release; it is given back`;
  process.emitWarning(message, { type: 'LockWarning', code: 'DLOCK_FORGOTTEN' });
}

module.exports = { warnForgotten };
