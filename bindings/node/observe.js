'use strict';

// Observers of a client, and the engine's logs. Neither keeps the process alive.

const { debuglog, inspect } = require('node:util');
const { bridge, guarded, happenings, nextId } = require('./completion.js');
const { errorOf } = require('./errors.js');
const { checkType } = require('./options.js');
const { warnOfObserver } = require('./warnings.js');

const LOGS = 0;

// What the engine writes: the number of rows, and whether there are more events; then for each row the kind, the key's length, token, the length of
// the owner's number, waited, held and the reason's length. `event.rs` has the same lists.
const HEAD = 2;
const STRIDE = 7;
const KINDS = ['acquired', 'released', 'renewed', 'renewal_failed', 'acquire_failed', 'lost'];
/** The length of what all owner ids in a text begin with: 32 digits and a colon. */
const SESSION = 33;

const ROWS = 256;
const rows = new Float64Array(HEAD + ROWS * STRIDE);

/** The observers of one client. They share one queue, so that they get the events of a lease in order. */
class Observers {
  #client;
  #id = nextId();
  #byEvent = new Map();

  /** @param {number} client the client's number; the client itself must stay collectable */
  constructor(client) {
    this.#client = client;
  }

  /** Calls `fn` with each event of this kind. Returns a function that ends it. */
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
    // A number is never used for a second subscription.
    this.#id = nextId();
  }

  #deliver() {
    let more = true;
    while (more) {
      const text = bridge.events(this.#id, rows);
      if (text === null) return void happenings.delete(this.#id); // the client is gone
      // Read before an observer can start another delivery.
      more = rows[1] === 1;
      this.#callObservers(text);
    }
  }

  /** Makes the events of these rows, one after the other, and calls the observers of each. */
  #callObservers(text) {
    const session = text.slice(-SESSION);
    const end = HEAD + rows[0] * STRIDE;
    for (let at = HEAD, next = 0; at < end; at += STRIDE) {
      const keyAt = next;
      const ownerAt = keyAt + rows[at + 1];
      const reasonAt = ownerAt + (known(rows[at + 3]) ?? 0);
      next = reasonAt + (known(rows[at + 6]) ?? 0);
      const observers = this.#byEvent.get(KINDS[rows[at]]);
      if (observers === undefined) continue;
      const event = {
        kind: KINDS[rows[at]],
        key: text.slice(keyAt, ownerAt),
        token: known(rows[at + 2]),
        owner: rows[at + 3] >= 0 ? session + text.slice(ownerAt, reasonAt) : null,
        waited: known(rows[at + 4]),
        held: known(rows[at + 5]),
        reason: rows[at + 6] >= 0 ? text.slice(reasonAt, next) : null,
      };
      call(observers, Object.freeze(event));
    }
  }
}

/** The engine writes NaN for a missing value. */
const known = (number) => (number >= 0 ? number : null);

function call(observers, event) {
  for (const { fn } of observers) {
    try {
      fn(event);
    } catch (error) {
      guarded(complain, event, error);
    }
  }
}

function complain(event, error) {
  const [words, detail] = error instanceof Error ? [`${error}`, error.stack] : [inspect(error), undefined];
  warnOfObserver(event, words, detail);
}

/** With `NODE_DEBUG=dlock`, the engine's logs go where Node's own debug logs go. */
const log = debuglog('dlock');
if (log.enabled) {
  happenings.set(LOGS, () => bridge.logs().forEach((line) => log('%s', line)));
  bridge.listenToLogs();
}

module.exports = { Observers, log };
