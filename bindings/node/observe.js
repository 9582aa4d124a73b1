'use strict';

// Observers of a client, and the engine's logs. Neither keeps the process alive.

const { debuglog } = require('node:util');
const { bridge, nextId, happenings } = require('./completion.js');
const { errorOf } = require('./errors.js');
const { checkType } = require('./options.js');

const LOGS = 0;

/** The observers of one client. One queue for all of them, so that they hear of the events of a lease in order. */
class Observers {
  #client;
  #id = nextId();
  #byEvent = new Map();

  /** @param {number} client the client's number; the client itself must stay collectable */
  constructor(client) {
    this.#client = client;
  }

  /** Has `fn` called with each such event; returns what takes it back. */
  add(event, fn) {
    checkType('event', event, 'string');
    checkType('fn', fn, 'function');
    this.#listen([...this.#byEvent.keys(), event]);
    // A wrapper: the same function may be added twice.
    const observer = { fn };
    // A new list each time: the old one may be in use.
    this.#byEvent.set(event, [...(this.#byEvent.get(event) ?? []), observer]);
    return () => this.#remove(event, observer);
  }

  #listen(events) {
    const problem = bridge.listen(this.#client, this.#id, events);
    if (problem) throw errorOf(problem);
    happenings.set(this.#id, () => this.#deliver());
  }

  #remove(event, observer) {
    const before = this.#byEvent.get(event);
    if (!before?.includes(observer)) return;
    const left = before.filter((each) => each !== observer);
    if (left.length > 0) return void this.#byEvent.set(event, left);
    this.#byEvent.delete(event);
    if (this.#byEvent.size > 0) return this.#listen([...this.#byEvent.keys()]);
    bridge.endSubscription(this.#id);
    happenings.delete(this.#id);
    // A number is a subscription's for its life.
    this.#id = nextId();
  }

  #deliver() {
    const text = bridge.events(this.#id);
    if (!text) return void happenings.delete(this.#id); // the client is gone
    for (const [kind, key, token, owner, waited, held, reason] of JSON.parse(text)) {
      const observers = this.#byEvent.get(kind);
      if (observers === undefined) continue;
      const event = Object.freeze({ kind, key, token, owner, waited, held, reason });
      for (const { fn } of observers) {
        try {
          fn(event);
        } catch (error) {
          complain(event, error);
        }
      }
    }
  }
}

function complain({ kind, key }, error) {
  const detail = error instanceof Error ? error.stack : String(error);
  const message = `the observer of ${JSON.stringify(kind)} for lock ${JSON.stringify(key)} failed: ${error}`;
  process.emitWarning(message, { type: 'LockWarning', code: 'DLOCK_OBSERVER', detail });
}

/** With `NODE_DEBUG=dlock`, what the engine logs goes where Node's own debug logs go. */
const log = debuglog('dlock');
if (log.enabled) {
  happenings.set(LOGS, () => bridge.logs().forEach((line) => log('%s', line)));
  bridge.listenToLogs();
}

module.exports = { Observers, log };
