'use strict';

const { setMaxListeners } = require('node:events');
const { setTimeout } = require('node:timers');
const { transferableAbortController } = require('node:util');
const { bridge, call, explained, keepAlive, letGo, nextId, outcome, watched } = require('./completion.js');
const { classes, errorOf } = require('./errors.js');
const { checkType } = require('./options.js');
const { warnForgotten } = require('./forgotten.js');
const { checkResult } = require('./lazy.js');
const { custom, showHandle } = require('./shown.js');

const { LockLost } = classes;

/** Node's own, the one that its `fetch` and its events know: under jsdom, or after a polyfill, the global one is another. */
const AbortController = transferableAbortController?.().constructor ?? globalThis.AbortController;

/** Leases that user code holds: when nobody can reach one any more, the engine gives it back. */
const reachable = new FinalizationRegistry((id) => {
  const forgotten = bridge.dropLease(id);
  if (forgotten) warnForgotten(forgotten);
});

/** Leases that were taken a moment ago. Most are given back at once: only those that are not are worth registering, which is slow. */
const young = new Set();
const YOUTH_MS = 500;
let growing = false;

function watchOver(lease) {
  young.add(lease);
  if (growing) return;
  growing = true;
  setTimeout(grow, YOUTH_MS).unref();
}

function grow() {
  growing = false;
  for (const lease of young) Lease.register(lease);
  young.clear();
}

/** Whose signal a body may hand to as many calls as it likes. */
function controllerForMany() {
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  return controller;
}

/** One grant of a lock. */
class Lease {
  #id;
  #session;
  #key;
  #token;
  #sequence;
  #acquiredAt;
  #ttl;
  /** How it was given back. Until then the engine is asked; from then on the engine has forgotten it. */
  #ended;
  #lossError;
  #controller;
  #lossListeners;
  #registered = false;

  constructor(session, key, id, token, sequence, acquiredAt, ttl) {
    session.identity ??= bridge.owner(id).split(':')[0];
    this.#id = id;
    this.#session = session;
    this.#key = key;
    this.#token = token;
    this.#sequence = sequence;
    this.#acquiredAt = acquiredAt;
    this.#ttl = ttl;
  }

  /** Has the engine take the lease back when nobody can reach it any more. */
  static entrust(lease) {
    if (!lease.#registered) watchOver(lease);
    return lease;
  }

  /** Enters a lease once more. False if it is not held any more. */
  static enter(lease) {
    return bridge.enter(lease.#id);
  }

  /** What the engine knows it by. */
  static numberOf(lease) {
    return lease.#id;
  }

  static register(lease) {
    lease.#registered = true;
    reachable.register(lease, lease.#id, lease);
  }

  /**
   * Runs `fn(lease)` and gives the lease back on every way out. The process stays alive meanwhile.
   *
   * A body that succeeded although its lease was lost, or that failed because `lease.signal` aborted, ends in LockLost. Its own error,
   * thrown for whatever other reason, wins over the loss and over a failing release.
   */
  static async runHolding(lease, fn) {
    keepAlive();
    try {
      let result;
      try {
        // It may have run out on the way here.
        if (!lease.valid) lease.check();
        result = await fn(lease);
        if (typeof result === 'object') await checkResult(result);
        if (lease.lost) throw lease.#loss();
      } catch (error) {
        const cause = lease.#isAbort(error) ? lease.#loss() : error;
        await lease.release().catch(() => {});
        throw cause;
      }
      await lease.release();
      return result;
    } finally {
      letGo();
    }
  }

  get key() {
    return this.#key;
  }

  get token() {
    return this.#token;
  }

  get owner() {
    return `${this.#session.identity}:${this.#sequence}`;
  }

  get ttl() {
    return this.#ttl;
  }

  get remaining() {
    return bridge.remaining(this.#id);
  }

  get valid() {
    return bridge.isValid(this.#id);
  }

  get status() {
    return this.#ended ?? bridge.status(this.#id);
  }

  get lost() {
    return this.status === 'lost';
  }

  get acquiredAt() {
    return new Date(this.#acquiredAt);
  }

  get expiresAt() {
    return new Date(this.#ended === undefined ? bridge.expiresAt(this.#id) : Date.now());
  }

  get signal() {
    this.#controller ??= controllerForMany();
    // A loss that was not delivered yet is not hidden from who asks now.
    if (this.lost) this.#onLost();
    else this.#watch();
    return this.#controller.signal;
  }

  check() {
    const described = this.#lossError ? undefined : bridge.check(this.#id, this.#key);
    if (this.#lossError || described) throw this.#lossError ?? this.#remember(errorOf(described));
  }

  async extend(ttl) {
    checkType('ttl', ttl, 'number');
    await call((id) => bridge.extend(this.#id, id, this.#key, ttl));
    this.#ttl = ttl;
  }

  autoRenew(renew) {
    checkType('renew', renew, 'boolean');
    bridge.autoRenew(this.#id, renew);
  }

  /** Never settles for a lease that is given back; until then it keeps the process alive, as every call that waits does. */
  waitLost() {
    return new Promise((resolve) => {
      if (this.lost) return resolve(this.#loss().reason);
      if (this.#ended !== undefined) return undefined;
      (this.#lossListeners ??= []).push(resolve);
      keepAlive();
      return this.#watch();
    });
  }

  async release() {
    if (this.#ended !== undefined) return this.#ended === 'released';
    const id = nextId();
    bridge.release(this.#id, id);
    try {
      return await outcome(id, (status) => this.#end(status));
    } catch (failure) {
      throw explained(failure);
    }
  }

  async [Symbol.asyncDispose]() {
    await this.release();
  }

  [custom](depth, options) {
    return showHandle('Lease', { key: this.#key, token: this.#token, status: this.status }, depth, options);
  }

  #onLost() {
    const loss = this.#loss();
    this.#controller?.abort(loss);
    for (const tell of this.#takeLossListeners()) tell(loss.reason);
  }

  #takeLossListeners() {
    const listeners = this.#lossListeners ?? [];
    this.#lossListeners = undefined;
    listeners.forEach(letGo);
    return listeners;
  }

  #watch() {
    if (this.#ended !== undefined || watched.has(this.#id)) return;
    watched.set(this.#id, () => this.#onLost());
    bridge.watch(this.#id);
  }

  /** Called with the answer to a release. True if that was confirmed. */
  #end(status) {
    // One of several entries was taken back.
    if (status === 'held') return true;
    if (status === 'lost') this.#onLost();
    else this.#takeLossListeners();
    if (status === 'releasing') {
      // The engine goes on trying; it must not keep the record for ever.
      Lease.entrust(this);
      return false;
    }
    this.#ended = status;
    watched.delete(this.#id);
    if (this.#registered) reachable.unregister(this);
    else young.delete(this);
    if (status === 'lost') bridge.dropLease(this.#id);
    return status === 'released';
  }

  #loss() {
    try {
      this.check();
    } catch (error) {
      return error;
    }
    return undefined;
  }

  /** One loss, one error: the body, the signal and the caller see the same. */
  #remember(error) {
    if (error instanceof LockLost) this.#lossError = error;
    return error;
  }

  #isAbort(error) {
    const reason = this.#controller?.signal.reason;
    return reason !== undefined && (error === reason || (error?.name === 'AbortError' && error.cause === reason));
  }
}

module.exports = { Lease };
