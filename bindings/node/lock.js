'use strict';

const { bridge, call, nextId } = require('./completion.js');
const { errorOf } = require('./errors.js');
const { warnForgotten } = require('./forgotten.js');
const { Lease } = require('./lease.js');
const { asBody, warnOfOwnBody } = require('./nesting.js');
const { ACQUIRE, LOCK, checkKey, checkOptions, checkSignal, checkType } = require('./options.js');
const { custom, showHandle } = require('./shown.js');

/** Locks that user code holds. With the last way to a lock go the leases that only it remembers. */
const reachable = new FinalizationRegistry((id) => bridge.dropLock(id).forEach(warnForgotten));

/** A reusable handle: a key and options. Each acquire gets a lease of its own. */
class Lock {
  #session;
  #id;
  #key;
  #wait;

  constructor(session, key, options) {
    checkKey(key);
    const settings = checkOptions(options, LOCK);
    this.#session = session;
    this.#id = nextId();
    this.#key = key;
    this.#wait = settings?.wait ?? null;
    const problem = bridge.createLock(this.#id, session.client, key, settings);
    if (problem) throw errorOf(problem);
  }

  /** Has the engine forget the lock when nobody can reach it any more. */
  static entrust(lock) {
    reachable.register(lock, lock.#id);
    return lock;
  }

  /** `withLock` on a lock for this one use. */
  static async useOnce(session, key, options, fn) {
    const lock = new Lock(session, key, options);
    try {
      return await lock.withLock(fn);
    } finally {
      bridge.dropLock(lock.#id);
    }
  }

  get key() {
    return this.#key;
  }

  async withLock(fn) {
    checkType('fn', fn, 'function');
    return Lease.runHolding(await this.#acquire(this.#wait), asBody(this.#session, fn));
  }

  async acquire(options) {
    checkOptions(options, ACQUIRE);
    checkSignal(options?.signal);
    const wait = options?.wait === undefined ? this.#wait : options.wait;
    return Lease.entrust(await this.#acquire(wait, options?.signal));
  }

  async tryAcquire() {
    const lease = await call((id) => bridge.tryAcquire(this.#id, id), this.#made);
    return lease && Lease.entrust(lease);
  }

  /** Works only while exactly one lease is outstanding. */
  async release() {
    return (await call((id) => bridge.releaseLock(this.#id, id))) === 'released';
  }

  async isLocked() {
    return call((id) => bridge.isLockHeld(this.#id, id));
  }

  [custom](depth, options) {
    return showHandle('Lock', { key: this.#key }, depth, options);
  }

  async #acquire(wait, signal) {
    signal?.throwIfAborted();
    if (wait !== 0) warnOfOwnBody(this.#session, this.#key);
    return call((id) => bridge.acquire(this.#id, id, wait), this.#made, signal);
  }

  #made = (id, token, sequence, acquiredAt, ttl) => new Lease(this.#session, this.#key, id, token, sequence, acquiredAt, ttl);
}

module.exports = { Lock };
