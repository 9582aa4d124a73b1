'use strict';

// Knows in which body a call is made: for the engine, which lets a body acquire more while its client is being closed, and to notice a body that
// waits for the key it holds itself: as a rule it waits for ever.

const { AsyncLocalStorage } = require('node:async_hooks');
const { Lease } = require('./lease.js');

// To know in whose body a call is made costs a third of acquire and release before Node 24 (measured with 500 keys at once), and since then
// no more than such a measurement can see. So older versions look only where people look for mistakes.
const watching = Number.parseInt(process.versions.node, 10) >= 24 || ['development', 'test'].includes(process.env.NODE_ENV);

/** The innermost body that the running code belongs to: { session, lease, outer, warned }. */
const bodies = watching ? new AsyncLocalStorage() : undefined;

/** Has what `fn` calls belong to the body of its lease. */
function asBody(session, fn) {
  if (bodies === undefined) return fn;
  return (lease) => bodies.run({ session, lease, outer: underWay(bodies.getStore()), warned: false }, fn, lease);
}

// What the engine is told where there is no body, and where nobody can know.
const [NO_BODY, UNKNOWN] = [0, -1];

/** Who makes the running call, for the engine: the number of the lease of the innermost body around it. */
function inside() {
  if (bodies === undefined) return UNKNOWN;
  const body = underWay(bodies.getStore());
  return body === undefined ? NO_BODY : Lease.numberOf(body.lease);
}

/** Called by who is about to wait for a key. */
function warnOfOwnBody(session, key) {
  for (let body = underWay(bodies?.getStore()); body !== undefined; body = body.outer) {
    if (body.session !== session || body.lease.key !== key) continue;
    if (!body.warned) {
      const message = `a body that holds ${JSON.stringify(key)} waits for it: unless it ends without the answer, that is for ever`;
      process.emitWarning(message, { type: 'LockWarning', code: 'DLOCK_NESTED', ctor: warnOfOwnBody });
    }
    body.warned = true;
    return;
  }
}

/** The body, or the nearest around it, that still holds its lease. Forgets the others: work that bodies leave behind may go on for ever. */
function underWay(body) {
  const skipEnded = (next) => {
    while (next !== undefined && !next.lease.valid) next = next.outer;
    return next;
  };
  const innermost = skipEnded(body);
  for (let inner = innermost; inner !== undefined; inner = inner.outer) inner.outer = skipEnded(inner.outer);
  return innermost;
}

module.exports = { asBody, inside, warnOfOwnBody };
