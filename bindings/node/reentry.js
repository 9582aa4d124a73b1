'use strict';

// Who may enter a reentrant lock again: what runs in a body of its `withLock`.

const { AsyncLocalStorage } = require('node:async_hooks');
const { Lease } = require('./lease.js');

/** The innermost body that the running code belongs to: { lock, lease, outer }. Made for the first reentrant lock: it is not free. */
let bodies;

/** Has what `fn` calls belong to a body of this lock. */
function asHolder(lock, fn) {
  bodies ??= new AsyncLocalStorage();
  return (lease) => bodies.run({ lock, lease, outer: underWay(bodies.getStore()) }, fn, lease);
}

/** The lease of the body that the running code belongs to, entered once more. */
function enterAgain(lock) {
  let body = bodies?.getStore();
  while (body !== undefined && !(body.lock === lock && Lease.enter(body.lease))) body = body.outer;
  return body?.lease;
}

/** Forgets bodies that have ended: what they leave behind may go on for ever. */
function underWay(body) {
  let next = body;
  while (next !== undefined && !next.lease.valid) next = next.outer;
  return next;
}

module.exports = { asHolder, enterAgain };
