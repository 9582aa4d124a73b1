'use strict';

// Knows inside which `withLock` body a call is made. The engine needs it while a client is being closed, when a body may still acquire more. It also
// lets us warn of a body that waits for the key it holds itself, which is nearly always a deadlock.

const { AsyncLocalStorage } = require('node:async_hooks');
const { Lease } = require('./lease.js');
const { warnOfDeadlock } = require('./warnings.js');

// Before Node 24, tracking bodies costs a third of the time of acquire and release (measured with 500 keys at once); since then the cost is too small
// to measure. So older versions track bodies only where people look for mistakes.
const tracking = Number.parseInt(process.versions.node, 10) >= 24 || ['development', 'test'].includes(process.env.NODE_ENV);

/** The innermost body that the running code belongs to: { session, lease, outer, warned }. */
const bodies = tracking ? new AsyncLocalStorage() : undefined;

/** Wraps `fn` so that everything it calls belongs to the body of its lease. */
function asBody(session, fn) {
  if (bodies === undefined) return fn;
  return (lease) => bodies.run({ session, lease, outer: openBody(bodies.getStore()), warned: false }, fn, lease);
}

// What the engine gets in place of a lease's number: outside of any body, and where bodies are not tracked.
const [NO_BODY, UNKNOWN] = [0, -1];

/** The caller as the engine knows it: the number of the lease of the innermost body around the running code. */
function inside() {
  if (bodies === undefined) return UNKNOWN;
  const body = openBody(bodies.getStore());
  return body === undefined ? NO_BODY : Lease.numberOf(body.lease);
}

/** Warns, once for each body, if the running code is about to wait (`waits` says so) for a key that a body around it holds. */
function warnOfOwnBody(session, key, waits) {
  for (let body = openBody(bodies?.getStore()); body !== undefined; body = body.outer) {
    if (body.session !== session || body.lease.key !== key) continue;
    if (body.warned || !waits()) return;
    warnOfDeadlock(key, warnOfOwnBody);
    body.warned = true;
    return;
  }
}

/**
 * The innermost body, from this one outwards, that still holds its lease. It unlinks bodies that have ended: code that they started may run for ever
 * and would keep them in memory.
 */
function openBody(body) {
  const skipEnded = (next) => {
    while (next !== undefined && !next.lease.valid) next = next.outer;
    return next;
  };
  const innermost = skipEnded(body);
  for (let inner = innermost; inner !== undefined; inner = inner.outer) inner.outer = skipEnded(inner.outer);
  return innermost;
}

module.exports = { asBody, inside, openBody, warnOfOwnBody };
