'use strict';

// One class for each of the engine's error codes. `code` never changes; the other fields are there where they are known.

const { holderOf } = require('./holder.js');

/** Every error of this package is one of these. */
class LockError extends Error {
  constructor(message, fields = {}) {
    const { cause, ...others } = fields;
    super(message, cause === undefined ? undefined : { cause });
    Object.assign(this, others);
  }
}

class NotAcquired extends LockError {}
class AcquireTimeout extends NotAcquired {}
class LockBusy extends NotAcquired {}
class RetriesExhausted extends NotAcquired {}
class LockLost extends LockError {}
class NotHeld extends LockError {}
class BackendUnavailable extends LockError {}
class BackendRefused extends LockError {}
class ClientClosed extends LockError {}
class ForkedError extends LockError {}

class InvalidOptions extends LockError {
  /** For what only JavaScript can see: wrong types and unknown names. Ranges are the engine's. */
  static because(field, value, allowed) {
    const message = `${field}: ${value} is not valid: ${allowed}`;
    return new InvalidOptions(message, { code: 'INVALID_OPTIONS', field, value, allowed });
  }
}

const classes = {
  LockError,
  NotAcquired,
  AcquireTimeout,
  LockBusy,
  RetriesExhausted,
  LockLost,
  NotHeld,
  BackendUnavailable,
  BackendRefused,
  InvalidOptions,
  ClientClosed,
  ForkedError,
};

// On the prototype, as the built-in errors have it: no field of its own in every instance.
for (const [name, errorClass] of Object.entries(classes)) {
  Object.defineProperty(errorClass.prototype, 'name', { value: name, configurable: true, writable: true });
}

const byCode = {
  ACQUIRE_TIMEOUT: AcquireTimeout,
  LOCK_BUSY: LockBusy,
  RETRIES_EXHAUSTED: RetriesExhausted,
  LOCK_LOST: LockLost,
  NOT_HELD: NotHeld,
  BACKEND_UNAVAILABLE: BackendUnavailable,
  BACKEND_REFUSED: BackendRefused,
  INVALID_OPTIONS: InvalidOptions,
  CLIENT_CLOSED: ClientClosed,
  FORKED: ForkedError,
};

/** The error that the engine described. */
function errorOf(text) {
  const { message, holder, causes, ...fields } = JSON.parse(text);
  if (holder) fields.holder = holderOf(holder);
  const cause = causes.reduceRight((inner, words) => new Error(words, inner && { cause: inner }), undefined);
  const ErrorClass = byCode[fields.code] ?? LockError;
  return new ErrorClass(message, { ...fields, cause });
}

module.exports = { classes, errorOf };
