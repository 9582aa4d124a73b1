'use strict';

const { setMaxListeners } = require('node:events');
const { setTimeout } = require('node:timers');
const { transferableAbortController } = require('node:util');
const { bridge, call, endKeepAlive, explained, keepAlive, nextId, outcome, watched } = require('./completion.js');
const { classes, errorOf } = require('./errors.js');
const { custom, inspectHandle } = require('./console.js');
const { checkResult } = require('./lazy.js');
const { checkType } = require('./options.js');
const { warnDropped } = require('./warnings.js');

const { LockLost } = classes;

/** Node's own class, which its `fetch` and its events know. Under jsdom, or after a polyfill, the global one is another. */
const AbortController = transferableAbortController?.().constructor ?? globalThis.AbortController;

/** Leases that user code holds. When code can no longer reach one, the engine releases it. */
const reachable = new FinalizationRegistry((id) => {
  const dropped = bridge.dropLease(id);
  if (dropped) warnDropped(dropped);
});

/** Leases that were acquired a moment ago. Registering is slow and most leases are released soon, so only older ones are registered. */
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

/** An AbortController whose signal a body may pass to any number of calls. */
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
  /** The status after the release. Until then the engine is asked; afterwards the engine has no record of the lease. */
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

  /** Makes the engine release the lease when code can no longer reach it. */
  static entrust(lease) {
    if (!lease.#registered) watchOver(lease);
    return lease;
  }

  /** The lease, unless it ran out while the caller kept its event loop busy: then it is no lease. */
  static claim(lease) {
    const lost = bridge.claim(lease.#id);
    if (!lost) return lease;
    young.delete(lease);
    throw errorOf(lost);
  }

  /** Enters the lease again, for a reentrant lock. False if it is no longer held. */
  static enter(lease) {
    return bridge.enter(lease.#id);
  }

  /** The number by which the engine knows the lease. */
  static numberOf(lease) {
    return lease.#id;
  }

  static register(lease) {
    lease.#registered = true;
    reachable.register(lease, lease.#id, lease);
  }

  /**
   * Runs `fn(lease)` and releases the lease however `fn` ends. The process stays alive meanwhile.
   *
   * It throws LockLost if the lease was lost and the body succeeded all the same, or failed because `lease.signal` aborted. Any other error
   * of the body wins over the loss and over a failing release.
   */
  static async runHolding(lease, fn) {
    keepAlive();
    try {
      let result;
      try {
        // It may have expired before this code ran.
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
      endKeepAlive();
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
    // A loss that the drain has not delivered yet shows here already.
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

  /** Never settles if the lease is released. Until then it keeps the process alive, as every waiting call does. */
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
    const progress = bridge.release(this.#id, id);
    try {
      return await outcome(id, progress, (status) => this.#end(status));
    } catch (failure) {
      throw explained(failure);
    }
  }

  async [Symbol.asyncDispose]() {
    await this.release();
  }

  [custom](depth, options) {
    return inspectHandle('Lease', { key: this.#key, token: this.#token, status: this.status }, depth, options);
  }

  #onLost() {
    const loss = this.#loss();
    this.#controller?.abort(loss);
    for (const resolve of this.#takeLossListeners()) resolve(loss.reason);
  }

  #takeLossListeners() {
    const listeners = this.#lossListeners ?? [];
    this.#lossListeners = undefined;
    listeners.forEach(endKeepAlive);
    return listeners;
  }

  #watch() {
    if (this.#ended !== undefined || watched.has(this.#id)) return;
    watched.set(this.#id, () => this.#onLost());
    bridge.watch(this.#id);
  }

  /** Handles the answer to a release. Returns whether the backend confirmed it. */
  #end(status) {
    // The release undid one entry of several; the lease is still held.
    if (status === 'held') return true;
    if (status === 'lost') this.#onLost();
    else this.#takeLossListeners();
    if (status === 'releasing') {
      // The engine goes on trying. Its record goes when code can no longer reach the lease.
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

  /** Keeps the error of a loss, so that the body, the signal and the caller all see the same object. */
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
