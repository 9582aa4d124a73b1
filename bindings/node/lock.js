'use strict';

const { reasonOf } = require('./aborts.js');
const { asBody, inside, warnOfOwnBody } = require('./bodies.js');
const { bridge, call, explained, nextId, outcome } = require('./completion.js');
const { errorOf } = require('./errors.js');
const { sendHeartbeats } = require('./heartbeat.js');
const { custom, inspectHandle } = require('./console.js');
const { checkBody } = require('./lazy.js');
const { Lease } = require('./lease.js');
const { ACQUIRE, LOCK, checkKey, checkOptions, checkSignal, checkType } = require('./options.js');
const { asHolder, enterAgain } = require('./reentry.js');
const { warnDropped } = require('./warnings.js');

/** Locks that user code holds. When code can no longer reach a lock, the engine releases the leases that only this lock keeps. */
const reachable = new FinalizationRegistry((id) => bridge.dropLock(id).forEach(warnDropped));

/** A reusable handle: a key and options. Each acquire gets a lease of its own. */
class Lock {
  #session;
  #id;
  #key;
  #wait;
  #needsHeartbeats;
  #reentrant;

  constructor(session, key, options) {
    checkKey(key);
    const settings = checkOptions(options, LOCK);
    this.#session = session;
    this.#id = nextId();
    this.#key = key;
    this.#wait = settings?.wait ?? null;
    this.#needsHeartbeats = settings?.maxStall !== undefined;
    this.#reentrant = settings?.reentrant ?? false;
    const problem = bridge.createLock(this.#id, session.client, key, settings);
    if (problem) throw errorOf(problem);
  }

  /** Makes the engine drop the lock when code can no longer reach it. */
  static entrust(lock) {
    reachable.register(lock, lock.#id);
    return lock;
  }

  /** `withLock` on a lock that is made for this one use. */
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
    checkBody(fn);
    const again = this.#reentrant ? enterAgain(this) : undefined;
    if (again === undefined) this.#warnIfWaiting(this.#wait);
    const lease = again ?? (await call((id) => bridge.acquire(this.#id, id, this.#wait, inside(), true), this.#made));
    return Lease.runHolding(lease, asBody(this.#session, this.#reentrant ? asHolder(this, fn) : fn));
  }

  async acquire(options) {
    checkOptions(options, ACQUIRE);
    checkSignal(options?.signal);
    if (options?.signal?.aborted) throw reasonOf(options.signal);
    const again = this.#reentrant ? enterAgain(this) : undefined;
    if (again !== undefined) return Lease.entrust(again);
    const wait = options?.wait === undefined ? this.#wait : options.wait;
    this.#warnIfWaiting(wait);
    const id = nextId();
    const progress = bridge.acquire(this.#id, id, wait, inside(), false);
    try {
      return Lease.claim(await outcome(id, progress, this.#handed, options?.signal));
    } catch (failure) {
      throw explained(failure);
    }
  }

  async tryAcquire() {
    const again = this.#reentrant ? enterAgain(this) : undefined;
    if (again !== undefined) return Lease.entrust(again);
    const lease = await call((id) => bridge.tryAcquire(this.#id, id, inside()), this.#handed);
    return lease && Lease.claim(lease);
  }

  /** Works only while exactly one lease of this lock is outstanding. */
  async release() {
    return call((id) => bridge.releaseLock(this.#id, id), (status) => status === 'released');
  }

  async isLocked() {
    return call((id) => bridge.isLockHeld(this.#id, id, inside()));
  }

  [custom](depth, options) {
    return inspectHandle('Lock', { key: this.#key }, depth, options);
  }

  #warnIfWaiting(wait) {
    warnOfOwnBody(this.#session, this.#key, () => bridge.waits(this.#id, wait));
  }

  /** The lease for a `withLock` body. */
  #made = (id, token, sequence, acquiredAt, ttl) => {
    if (this.#needsHeartbeats) sendHeartbeats(id);
    return new Lease(this.#session, this.#key, id, token, sequence, acquiredAt, ttl);
  };

  /** The lease for a caller, who may forget to release it. */
  #handed = (id, token, sequence, acquiredAt, ttl) => Lease.entrust(this.#made(id, token, sequence, acquiredAt, ttl));
}

module.exports = { Lock };
