'use strict';

// Calls into the engine, and their outcomes. The engine wakes the event loop once for many outcomes, and `drain` takes all of them.

const { isMainThread } = require('node:worker_threads');
// Not the globals: jsdom, Electron and fake clocks replace those.
const { setImmediate, setInterval } = require('node:timers');
const native = require('./load.js');
const { onAbort } = require('./aborts.js');
const { readFor } = require('./direct.js');
const { errorOf } = require('./errors.js');
const { atExit } = require('./farewell.js');

// What the engine writes for each outcome: call, kind, and four more numbers. `drain.rs` has the same lists.
const STRIDE = 6;
const [, FLAG, GRANTED, BUSY, RELEASED, ANSWER, FAILED, LOST, HAPPENED] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
const STATUSES = ['releasing', 'released', 'not_held', 'unknown', 'lost', 'held'];

// How far a call has got when it returns to JavaScript. `direct.rs` has the same list.
const [, OVER, ON_SOCKET] = [0, 1, 2];

const BATCH = 1024;

// How many calls may be over at once before the event loop has its turn. It is one count for all callers, since JavaScript does not
// tell which async function asks. They take a millisecond (ADR 18), for which timers and sockets wait.
const AT_ONCE = 64;

/** Calls without an outcome so far, by number. @type {Map<number, {resolve, reject, made, unlisten}>} */
const pending = new Map();
/** What to call when a lease is lost, by number. An entry keeps its lease reachable. @type {Map<number, () => void>} */
const watched = new Map();

/** What to call when there are events, or logs, by number. @type {Map<number, () => void>} */
const happenings = new Map();

const bridge = new native.Bridge(drain);

// Calls and leases share one counter: a lease has the number of the call that acquired it.
let lastId = 0;
const nextId = () => (lastId += 1);

atExit(() => (isMainThread ? bridge.shutdown() : bridge.end()));

// Keeps the event loop alive while a call waits or a body runs, and only then.
const anchor = setInterval(() => {}, 2 ** 31 - 1).unref();
let busy = 0;

function keepAlive() {
  busy += 1;
  if (busy === 1) anchor.ref();
}

function endKeepAlive() {
  busy -= 1;
  if (busy === 0) anchor.unref();
}

/** An error as the engine describes it, not yet an object of an error class. */
class Described {
  constructor(text) {
    this.text = text;
  }
}

/**
 * Starts a call and returns a promise of its outcome.
 * @param {(id: number) => number | void} start hands the call to the engine under that number, and returns how far it has got
 * @param {Function} [made] see `outcome`
 */
async function call(start, made) {
  const id = nextId();
  const progress = start(id);
  try {
    return await outcome(id, progress, made);
  } catch (failure) {
    throw explained(failure);
  }
}

/**
 * Returns a promise of the outcome of a call that was just started. The awaiting function turns what it is rejected with into an error, with
 * `explained`: an error made in the drain would have a stack without the callers.
 * @param {number} id the call's number
 * @param {number | void} progress how far the call has got
 * @param {Function} [made] turns a grant, or the status after a release, into what the caller gets; what it refers to stays reachable meanwhile
 * @param {AbortSignal} [signal] aborting it gives the call up
 */
function outcome(id, progress, made, signal) {
  return new Promise((resolve, reject) => {
    const waiting = { resolve, reject, made, unlisten: undefined };
    pending.set(id, waiting);
    keepAlive();
    if (signal) waiting.unlisten = giveUpOnAbort(signal, id, reject);
    if (progress === OVER) deliverSoon(id);
    if (progress === ON_SOCKET) readFor(bridge, id, deliverIfOver);
  });
}

function giveUpOnAbort(signal, id, reject) {
  const giveUp = (reason) => {
    if (!pending.delete(id)) return;
    endKeepAlive();
    bridge.cancel(id);
    reject(reason);
  };
  try {
    return onAbort(signal, id, giveUp);
  } catch (error) {
    // The signal takes no listeners.
    giveUp(error);
    return undefined;
  }
}

/** The error that the caller of a failed call gets. */
const explained = (failure) => (failure instanceof Described ? errorOf(failure.text) : failure);

/** How many calls were over at once in this turn of the event loop. */
let atOnce = 0;

/** Arrays for one drain each. Two drains overlap if user code in one of them runs the event loop itself, as `deasync` does. */
const spare = [];

/**
 * Delivers all outcomes, in order. User code runs in here: listeners of `lease.signal`, and observers. It may abort a call whose grant comes
 * next, and it may throw; still every outcome is delivered, or its grant released.
 */
function drain() {
  const items = spare.pop() ?? new Float64Array(BATCH * STRIDE);
  let count;
  do {
    count = bridge.drain(items);
    for (let at = 0; at < count * STRIDE; at += STRIDE) deliver(items, at);
  } while (count === BATCH);
  spare.push(items);
}

function deliver(items, at) {
  const id = items[at];
  const kind = items[at + 1];
  if (kind === LOST) return guarded(reportLoss, id);
  if (kind === HAPPENED) return guarded(reportEvents, id);
  const text = kind === ANSWER || kind === FAILED ? bridge.text(id) : undefined;
  const waiting = pending.get(id);
  if (waiting === undefined) {
    // The call was given up, perhaps a moment ago by user code in this very drain.
    if (kind === GRANTED) bridge.discard(id);
    return undefined;
  }
  pending.delete(id);
  endKeepAlive();
  try {
    waiting.unlisten?.();
    if (kind === FAILED) return waiting.reject(new Described(text));
    return waiting.resolve(valueAt(items, at, text, waiting.made));
  } catch (error) {
    // The others are delivered all the same.
    if (kind === GRANTED) bridge.discard(id);
    return waiting.reject(error);
  }
}

/** Delivers the outcome of a call that is over, and of no other. */
function deliverOne(id) {
  const items = spare.pop() ?? new Float64Array(BATCH * STRIDE);
  if (bridge.take(id, items)) deliver(items, 0);
  spare.push(items);
}

/** Delivers the outcome of a call that was over at once. Now and then the event loop has its turn first. */
function deliverSoon(id) {
  if (atOnce === 0) setImmediate(() => (atOnce = 0));
  atOnce += 1;
  if (atOnce <= AT_ONCE) deliverOne(id);
  else setImmediate(deliverOne, id);
}

/** Delivers the outcome of a call for which something was read, once it is over. */
function deliverIfOver(id, progress) {
  if (progress === OVER) deliverOne(id);
}

/** Calls user code. What it throws becomes an uncaught exception, as with any listener, and does not stop the drain. */
function guarded(report, ...values) {
  try {
    report(...values);
  } catch (error) {
    setImmediate(() => {
      throw error;
    });
  }
}

function valueAt(items, at, text, made) {
  switch (items[at + 1]) {
    case FLAG:
      return items[at + 2] === 1;
    case GRANTED:
      return made(items[at], items[at + 2], items[at + 3], items[at + 4], items[at + 5]);
    case BUSY:
      return null;
    case RELEASED:
      return made(STATUSES[items[at + 2]]);
    case ANSWER:
      return JSON.parse(text);
    default:
      return undefined; // DONE
  }
}

function reportLoss(id) {
  const report = watched.get(id);
  watched.delete(id);
  report?.();
}

const reportEvents = (id) => happenings.get(id)?.();

module.exports = {
  DEFAULT_CHOSEN: native.DEFAULT_CHOSEN,
  bridge,
  call,
  endKeepAlive,
  explained,
  guarded,
  happenings,
  keepAlive,
  nextId,
  outcome,
  version: native.VERSION,
  watched,
};
