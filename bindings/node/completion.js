'use strict';

// Calls into the engine and their outcomes. The engine wakes us once for many outcomes; `drain` takes all of them.

const { isMainThread } = require('node:worker_threads');
// Not the globals: jsdom, Electron and fake clocks replace those.
const { setImmediate, setInterval } = require('node:timers');
const native = require('./load.js');
const { onAbort } = require('./aborts.js');
const { errorOf } = require('./errors.js');
const { atExit } = require('./farewell.js');

// What the engine writes for each outcome: call, kind, and four more numbers. `drain.rs` has the same lists.
const STRIDE = 6;
const [, FLAG, GRANTED, BUSY, RELEASED, ANSWER, FAILED, LOST, HAPPENED] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
const STATUSES = ['releasing', 'released', 'not_held', 'unknown', 'lost', 'held'];

const BATCH = 1024;

/** Calls that were not answered yet, by number. @type {Map<number, {resolve, reject, made, unlisten}>} */
const pending = new Map();
/** Whom to tell of a lease's loss, by number. Being watched keeps a lease reachable. @type {Map<number, () => void>} */
const watched = new Map();

/** Whom to tell that there are events, or logs, by number. @type {Map<number, () => void>} */
const happenings = new Map();

const bridge = new native.Bridge(drain);

// Both are numbered from one counter: the call that gets a lease gives it its number.
let lastId = 0;
const nextId = () => (lastId += 1);

atExit(() => (isMainThread ? bridge.shutdown() : bridge.leave()));

// Keeps the event loop alive while somebody needs it, and only then.
const anchor = setInterval(() => {}, 2 ** 31 - 1).unref();
let busy = 0;

function keepAlive() {
  busy += 1;
  if (busy === 1) anchor.ref();
}

function letGo() {
  busy -= 1;
  if (busy === 0) anchor.unref();
}

/** An error in the engine's words. */
class Described {
  constructor(text) {
    this.text = text;
  }
}

/**
 * Starts a call and promises its outcome.
 * @param {(id: number) => void} start hands the call to the engine under that number
 * @param {Function} [made] see `outcome`
 */
async function call(start, made) {
  const id = nextId();
  start(id);
  try {
    return await outcome(id, made);
  } catch (failure) {
    throw explained(failure);
  }
}

/**
 * Promises the outcome of a call that was just started. What it is rejected with is for `explained`, where the callers that wait for it
 * are on the stack again: in the drain an error would know nothing of them.
 * @param {number} id the call's number
 * @param {Function} [made] turns a grant, or the status after a release, into what the caller gets; keeps alive whatever it refers to
 * @param {AbortSignal} [signal] gives the call up
 */
function outcome(id, made, signal) {
  return new Promise((resolve, reject) => {
    const waiting = { resolve, reject, made, unlisten: undefined };
    pending.set(id, waiting);
    keepAlive();
    if (signal) waiting.unlisten = giveUpOnAbort(signal, id, reject);
  });
}

function giveUpOnAbort(signal, id, reject) {
  const giveUp = (reason) => {
    if (!pending.delete(id)) return;
    letGo();
    bridge.cancel(id);
    reject(reason);
  };
  try {
    return onAbort(signal, id, giveUp);
  } catch (error) {
    // A signal that nobody can listen to.
    giveUp(error);
    return undefined;
  }
}

/** What the caller of a call that failed is to see. */
const explained = (failure) => (failure instanceof Described ? errorOf(failure.text) : failure);

/** Room for one drain each. Two, where user code in a drain runs the event loop itself, as `deasync` does. */
const spare = [];

/**
 * Delivers what has come, in order. User code runs in here: listeners of `lease.signal`, observers. Whatever it does, each outcome is told or
 * given back: it may abort a call whose grant is next, and what it throws ends nothing but its own turn.
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
  if (kind === LOST) return guarded(tellLoss, id);
  if (kind === HAPPENED) return guarded(tellEvents, id);
  const text = kind === ANSWER || kind === FAILED ? bridge.text(id) : undefined;
  const waiting = pending.get(id);
  if (waiting === undefined) {
    // Given up, perhaps a moment ago by what was told in this very drain.
    if (kind === GRANTED) bridge.discard(id);
    return undefined;
  }
  pending.delete(id);
  letGo();
  try {
    waiting.unlisten?.();
    if (kind === FAILED) return waiting.reject(new Described(text));
    return waiting.resolve(valueAt(items, at, text, waiting.made));
  } catch (error) {
    // It is the end of this outcome only.
    if (kind === GRANTED) bridge.discard(id);
    return waiting.reject(error);
  }
}

/** What it throws becomes an uncaught exception, as what a listener throws does, and ends nothing here. */
function guarded(tell, ...values) {
  try {
    tell(...values);
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

function tellLoss(id) {
  bridge.text(id);
  const tell = watched.get(id);
  watched.delete(id);
  tell?.();
}

const tellEvents = (id) => happenings.get(id)?.();

module.exports = {
  DEFAULT_CHOSEN: native.DEFAULT_CHOSEN,
  bridge,
  call,
  explained,
  guarded,
  happenings,
  keepAlive,
  letGo,
  nextId,
  outcome,
  version: native.VERSION,
  watched,
};
