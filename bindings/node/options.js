'use strict';

// Checks the names and types of options. The engine checks ranges.

const { inspect } = require('node:util');
const { InvalidOptions } = require('./errors.js').classes;

const RETRY = new Map([
  ['maxRetries', 'number'],
  ['delay', 'number'],
  ['backoff', 'number'],
  ['jitter', 'number'],
]);

const RENEWAL = new Map([
  ['maxDelay', 'number'],
  ['baseDelay', 'number'],
  ['callTimeout', 'number'],
  ['batch', 'number'],
]);

const CLIENT = new Map([
  ['namespace', 'string'],
  ['opTimeout', 'number'],
  ['connectTimeout', 'number'],
  ['renewal', RENEWAL],
  ['requireUrl', 'boolean'],
]);

const LOCK = new Map([
  ['ttl', 'number'],
  ['wait', 'number'],
  ['renew', 'boolean'],
  ['renewalThreshold', 'number'],
  ['retry', RETRY],
  ['fair', 'boolean'],
  ['maxHold', 'number'],
  ['maxStall', 'number'],
  ['reentrant', 'boolean'],
  ['metadata', 'string'],
  ['opTimeout', 'number'],
]);

const ACQUIRE = new Map([
  ['wait', 'number'],
  ['signal', 'object'],
]);

/**
 * Returns the options that were set; `null` and `undefined` stand for the default. Throws InvalidOptions for an unknown name or a value of the wrong
 * type. `part` is the name of the option that these are part of, and stands before their own names.
 */
function checkOptions(options, known, part) {
  if (options === undefined) return undefined;
  checkType(part ?? 'options', options, 'object');
  const set = {};
  for (const name of Object.keys(options)) {
    const value = options[name];
    const type = known.get(name);
    const field = part === undefined ? name : `${part}.${name}`;
    if (type === undefined) throw InvalidOptions.because(field, printable(value), `known options are ${[...known.keys()].join(', ')}`);
    // In other libraries null means for ever; here it would silently be the default.
    if (value === null && known === LOCK && name === 'ttl') throw InvalidOptions.because('ttl', 'null', 'milliseconds: every lease ends');
    if (value === undefined || value === null) continue;
    if (typeof type === 'string') checkType(field, value, type);
    set[name] = typeof type === 'string' ? value : checkOptions(value, type, field);
  }
  return set;
}

function checkType(field, value, type) {
  if (typeof value !== type || value === null) throw InvalidOptions.because(field, printable(value), `a value of type ${type}`);
  // The engine would get other text: lone surrogates have no UTF-8.
  if (type === 'string' && !value.isWellFormed()) {
    // A URL may contain a password.
    throw InvalidOptions.because(field, field === 'url' ? 'this text' : printable(value), 'text without lone surrogates');
  }
}

function checkKey(key) {
  checkType('key', key, 'string');
}

/** A token or an owner id. */
function checkHolder(holder) {
  if (typeof holder === 'string') return checkType('holder', holder, 'string');
  if (Number.isSafeInteger(holder) && holder >= 0) return undefined;
  throw InvalidOptions.because('holder', printable(holder), 'a token (a whole number) or an owner id (a string)');
}

function checkSignal(signal) {
  if (signal === undefined || signal === null) return;
  if (typeof signal.aborted !== 'boolean' || typeof signal.addEventListener !== 'function') {
    throw InvalidOptions.because('signal', printable(signal), 'an AbortSignal');
  }
}

/** A value for an error message. Objects are left out: they may contain a password. */
function printable(value) {
  return typeof value === 'object' && value !== null ? 'an object' : inspect(value, { maxStringLength: 80 });
}

module.exports = { ACQUIRE, CLIENT, LOCK, checkHolder, checkKey, checkOptions, checkSignal, checkType };
