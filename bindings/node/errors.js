'use strict';

// One class for each of the engine's error codes. `code` never changes; an error has those other fields that are known.

const { holderOf } = require('./holder.js');

/** Every error of this package is one of these. */
class LockError extends Error {
  constructor(message, fields = {}) {
    const { cause, ...others } = fields;
    super(message, cause === undefined ? undefined : { cause });
    // The class's code, unless this error has one of its own.
    Object.assign(this, { code: this.code }, others);
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
  /** For what only JavaScript can see: wrong types and unknown names. The engine checks ranges. */
  static because(field, value, allowed) {
    const message = `${field}: ${value} is not valid: ${allowed}`;
    return new InvalidOptions(message, { field, value, allowed });
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

// The code of each class. The engine does not have the codes of the two base classes.
const codes = {
  LockError: 'LOCK_ERROR',
  NotAcquired: 'NOT_ACQUIRED',
  AcquireTimeout: 'ACQUIRE_TIMEOUT',
  LockBusy: 'LOCK_BUSY',
  RetriesExhausted: 'RETRIES_EXHAUSTED',
  LockLost: 'LOCK_LOST',
  NotHeld: 'NOT_HELD',
  BackendUnavailable: 'BACKEND_UNAVAILABLE',
  BackendRefused: 'BACKEND_REFUSED',
  InvalidOptions: 'INVALID_OPTIONS',
  ClientClosed: 'CLIENT_CLOSED',
  ForkedError: 'FORKED',
};

const byCode = {};

// On the prototype, so that subclasses inherit both. The built-in errors have their names there too.
for (const [name, errorClass] of Object.entries(classes)) {
  const code = codes[name];
  byCode[code] = errorClass;
  Object.defineProperty(errorClass.prototype, 'name', { value: name, configurable: true, writable: true });
  Object.defineProperty(errorClass.prototype, 'code', { value: code, configurable: true, writable: true });
}

/** The error for a description from the engine. */
function errorOf(text) {
  const { message, holder, causes, ...fields } = JSON.parse(text);
  if (holder) fields.holder = holderOf(holder);
  const cause = causes.reduceRight((inner, words) => new Error(words, inner && { cause: inner }), undefined);
  const ErrorClass = byCode[fields.code] ?? LockError;
  return new ErrorClass(message, { ...fields, cause });
}

module.exports = { classes, errorOf };
