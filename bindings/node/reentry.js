'use strict';

// Lets code inside a `withLock` body of a reentrant lock acquire that lock again.

const { AsyncLocalStorage } = require('node:async_hooks');
const { openBody } = require('./bodies.js');
const { Lease } = require('./lease.js');

/** The innermost body that the running code belongs to: { lock, lease, outer }. Made for the first reentrant lock, because it has a cost. */
let bodies;

/** Wraps `fn` so that everything it calls belongs to a body of this lock. */
function asHolder(lock, fn) {
  bodies ??= new AsyncLocalStorage();
  return (lease) => bodies.run({ lock, lease, outer: openBody(bodies.getStore()) }, fn, lease);
}

/** Enters the lease of the body that the running code belongs to once more, and returns it; undefined if there is none. */
function enterAgain(lock) {
  let body = bodies?.getStore();
  while (body !== undefined && !(body.lock === lock && Lease.enter(body.lease))) body = body.outer;
  return body?.lease;
}

module.exports = { asHolder, enterAgain };
