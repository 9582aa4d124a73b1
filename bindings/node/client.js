'use strict';

const { isMainThread } = require('node:worker_threads');
const { DEFAULT_CHOSEN, bridge, call, nextId } = require('./completion.js');
const { errorOf } = require('./errors.js');
const { inspectionOf } = require('./holder.js');
const { Lock } = require('./lock.js');
const { inside } = require('./nesting.js');
const { Observers, log } = require('./observe.js');
const { CLIENT, checkHolder, checkKey, checkOptions, checkType } = require('./options.js');
const { custom, showHandle } = require('./shown.js');
const { closeOnSignal } = require('./signals.js');

/** In place of a URL: the client of the whole program. */
const PROGRAM = Symbol('the program');
/** What is done with that one, by `default.js` alone. */
let program;

const reachable = new FinalizationRegistry((id) => bridge.dropClient(id));

/** One connection to a backend. Lazy: it connects, and starts the engine, at its first use. */
class Client {
  /** What locks and leases know of their client: its number, and the identity that its leases show. */
  #session;
  #observers;

  constructor(url, options = {}) {
    this.#session = { client: nextId(), identity: undefined };
    const id = this.#session.client;
    const problem = url === PROGRAM ? bridge.createProgramClient(id, ownEnvironment()) : bridge.createClient(id, ...place(url, options));
    if (problem) throw errorOf(problem);
    if (url === undefined && bridge.chosenBy(id) === 'default') log(DEFAULT_CHOSEN);
    reachable.register(this, id);
  }

  static {
    program = {
      make: () => new Client(PROGRAM),
      configure: (client, url, options = {}) => {
        const problem = bridge.configureClient(client.#session.client, ...place(url, options));
        if (problem) throw errorOf(problem);
      },
      reset: async (client) => {
        await call((id) => bridge.resetClient(client.#session.client, id, ownEnvironment()));
        client.#observers = undefined;
      },
    };
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
    await call((id) => bridge.ping(this.#session.client, id, inside()));
  }

  async inspect(key) {
    checkKey(key);
    return inspectionOf(await call((id) => bridge.inspect(this.#session.client, id, inside(), key)));
  }

  async listLocks(prefix = '') {
    checkType('prefix', prefix, 'string');
    const found = await call((id) => bridge.listLocks(this.#session.client, id, inside(), prefix));
    return found.map(inspectionOf);
  }

  async isLocked(key) {
    checkKey(key);
    return call((id) => bridge.isLocked(this.#session.client, id, inside(), key));
  }

  async forceRelease(key, holder) {
    checkKey(key);
    checkHolder(holder);
    return call((id) => bridge.forceRelease(this.#session.client, id, inside(), key, holder));
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

  reopen() {
    const problem = bridge.reopenClient(this.#session.client);
    if (problem) throw errorOf(problem);
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

/** Where locks are: the URL, what the environment says where there is none, and the options. */
function place(url, options) {
  const address = url instanceof URL ? url.href : url;
  if (address !== undefined) checkType('url', address, 'string');
  return [address, environment(), checkOptions(options, CLIENT)];
}

function environment() {
  return { url: process.env.DLOCK_URL, requireUrl: process.env.DLOCK_REQUIRE_URL };
}

/** A worker's environment, which the engine cannot read; that of the process it reads itself, when it is needed. */
const ownEnvironment = () => (isMainThread ? undefined : environment());

/** A client that has reached its backend. */
async function connect(url, options) {
  const client = new Client(url, options);
  await client.ping();
  return client;
}

module.exports = { Client, connect, program };
