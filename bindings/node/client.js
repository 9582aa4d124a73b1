'use strict';

const { bridge, call, nextId } = require('./completion.js');
const { errorOf } = require('./errors.js');
const { inspectionOf } = require('./holder.js');
const { Lock } = require('./lock.js');
const { Observers, log } = require('./observe.js');
const { CLIENT, checkHolder, checkKey, checkOptions, checkType } = require('./options.js');
const { custom, showHandle } = require('./shown.js');
const { closeOnSignal } = require('./signals.js');

const reachable = new FinalizationRegistry((id) => bridge.dropClient(id));

/** One connection to a backend. Lazy: it connects, and starts the engine, at its first use. */
class Client {
  /** What locks and leases know of their client: its number, and the identity that its leases show. */
  #session;
  #observers;

  constructor(url = defaultUrl(), options = {}) {
    const address = url instanceof URL ? url.href : url;
    checkType('url', address, 'string');
    const settings = checkOptions(options, CLIENT);
    this.#session = { client: nextId(), identity: undefined };
    const problem = bridge.createClient(this.#session.client, address, settings);
    if (problem) throw errorOf(problem);
    reachable.register(this, this.#session.client);
  }

  lock(key, options) {
    return Lock.entrust(new Lock(this.#session, key, options));
  }

  async withLock(key, options, fn) {
    // The options may be left out.
    const [given, body] = fn === undefined && typeof options === 'function' ? [undefined, options] : [options, fn];
    checkType('fn', body, 'function');
    return Lock.useOnce(this.#session, key, given, body);
  }

  async ping() {
    await call((id) => bridge.ping(this.#session.client, id));
  }

  async inspect(key) {
    checkKey(key);
    return inspectionOf(await call((id) => bridge.inspect(this.#session.client, id, key)));
  }

  async listLocks(prefix = '') {
    checkType('prefix', prefix, 'string');
    const found = await call((id) => bridge.listLocks(this.#session.client, id, prefix));
    return found.map(inspectionOf);
  }

  async isLocked(key) {
    checkKey(key);
    return call((id) => bridge.isLocked(this.#session.client, id, key));
  }

  async forceRelease(key, holder) {
    checkKey(key);
    checkHolder(holder);
    return call((id) => bridge.forceRelease(this.#session.client, id, key, holder));
  }

  stats() {
    return JSON.parse(bridge.stats(this.#session.client));
  }

  metrics() {
    return bridge.metrics(this.#session.client);
  }

  async health() {
    return call((id) => bridge.health(this.#session.client, id));
  }

  on(event, fn) {
    this.#observers ??= new Observers(this.#session.client);
    return this.#observers.add(event, fn);
  }

  async close(timeout = 0) {
    checkType('timeout', timeout, 'number');
    await call((id) => bridge.closeClient(this.#session.client, id, timeout));
  }

  closeOnSignal(timeout, signals) {
    checkType('timeout', timeout, 'number');
    const problem = bridge.checkMillis('timeout', timeout);
    if (problem) throw errorOf(problem);
    return closeOnSignal(() => this.close(timeout), signals);
  }

  async [Symbol.asyncDispose]() {
    await this.close();
  }

  [custom](depth, options) {
    return showHandle('Client', { server: bridge.server(this.#session.client) }, depth, options);
  }
}

/** What `DLOCK_URL` names, else `local:`. An empty variable is as good as none. */
function defaultUrl() {
  if (process.env.DLOCK_URL) return process.env.DLOCK_URL;
  log("no URL was given and DLOCK_URL is not set: local: excludes this user's processes on this machine");
  return 'local:';
}

/** A client that has reached its backend. */
async function connect(url, options) {
  const client = new Client(url, options);
  await client.ping();
  return client;
}

module.exports = { Client, connect };
