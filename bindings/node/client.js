'use strict';

const { isMainThread } = require('node:worker_threads');
const { inside } = require('./bodies.js');
const { DEFAULT_CHOSEN, bridge, call, nextId } = require('./completion.js');
const { errorOf } = require('./errors.js');
const { inspectionOf } = require('./holder.js');
const { custom, inspectHandle } = require('./console.js');
const { Lock } = require('./lock.js');
const { Observers, log } = require('./observe.js');
const { CLIENT, checkHolder, checkKey, checkOptions, checkType } = require('./options.js');
const { closeOnSignal } = require('./signals.js');

/** Given in place of a URL, it makes the client of the whole program. */
const PROGRAM = Symbol('the program');
/** How `default.js`, and only that, makes and configures the client of the whole program. */
let program;

const reachable = new FinalizationRegistry((id) => bridge.dropClient(id));

/** One connection to a backend. It is lazy: the first use connects and starts the engine. */
class Client {
  /** What locks and leases know of their client: its number, and the session id that the owner ids of its leases begin with. */
  #session;
  #observers;

  constructor(url, options = {}) {
    this.#session = { client: nextId(), identity: undefined };
    const id = this.#session.client;
    const problem = url === PROGRAM ? bridge.createProgramClient(id, ownEnvironment()) : bridge.createClient(id, ...location(url, options));
    if (problem) throw errorOf(problem);
    if (url === undefined && bridge.chosenBy(id) === 'default') log(DEFAULT_CHOSEN);
    reachable.register(this, id);
  }

  static {
    program = {
      make: () => new Client(PROGRAM),
      configure: (client, url, options = {}) => {
        const problem = bridge.configureClient(client.#session.client, ...location(url, options));
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
    // Callers may leave the options out.
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

  capabilities() {
    return JSON.parse(bridge.capabilities(this.#session.client));
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
    return inspectHandle('Client', { server: bridge.server(this.#session.client) }, depth, options);
  }
}

/** What says where the locks are: the URL, the environment, which counts where there is no URL, and the options. */
function location(url, options) {
  const address = url instanceof URL ? url.href : url;
  if (address !== undefined) checkType('url', address, 'string');
  return [address, environment(), checkOptions(options, CLIENT)];
}

function environment() {
  return { url: process.env.DLOCK_URL, requireUrl: process.env.DLOCK_REQUIRE_URL };
}

/** A worker's environment, which the engine cannot read. It reads the environment of the process itself, when it needs it. */
const ownEnvironment = () => (isMainThread ? undefined : environment());

/** A client that has reached its backend. */
async function connect(url, options) {
  const client = new Client(url, options);
  await client.ping();
  return client;
}

module.exports = { Client, connect, program };
