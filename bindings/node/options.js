'use strict';

// Types and names only: what range a value must be in is the engine's business.

const { inspect } = require('node:util');
const { InvalidOptions } = require('./errors.js').classes;

const CLIENT = new Map([
  ['namespace', 'string'],
  ['opTimeout', 'number'],
  ['connectTimeout', 'number'],
]);

const LOCK = new Map([
  ['ttl', 'number'],
  ['wait', 'number'],
  ['renew', 'boolean'],
  ['renewalThreshold', 'number'],
  ['fair', 'boolean'],
  ['maxHold', 'number'],
  ['metadata', 'string'],
  ['opTimeout', 'number'],
]);

const ACQUIRE = new Map([
  ['wait', 'number'],
  ['signal', 'object'],
]);

/**
 * The options that were set: `null` and `undefined` stand for the default.
 * Throws InvalidOptions unless they have known names and values of the right type.
 */
function checkOptions(options, known) {
  if (options === undefined) return undefined;
  checkType('options', options, 'object');
  const set = {};
  for (const name of Object.keys(options)) {
    const value = options[name];
    const type = known.get(name);
    if (type === undefined) throw InvalidOptions.because(name, shown(value), `known options are ${[...known.keys()].join(', ')}`);
    if (value === undefined || value === null) continue;
    checkType(name, value, type);
    set[name] = value;
  }
  return set;
}

function checkType(field, value, type) {
  if (typeof value !== type || value === null) throw InvalidOptions.because(field, shown(value), `a value of type ${type}`);
  // Such text would become another on its way to the engine.
  if (type === 'string' && !value.isWellFormed()) throw InvalidOptions.because(field, shown(value), 'text without lone surrogates');
}

function checkKey(key) {
  checkType('key', key, 'string');
}

/** A token or an owner id. */
function checkHolder(holder) {
  if (typeof holder === 'string') return checkType('holder', holder, 'string');
  if (Number.isSafeInteger(holder) && holder >= 0) return undefined;
  throw InvalidOptions.because('holder', shown(holder), 'a token (a whole number) or an owner id (a string)');
}

function checkSignal(signal) {
  if (signal === undefined || signal === null) return;
  if (typeof signal.aborted !== 'boolean' || typeof signal.addEventListener !== 'function') {
    throw InvalidOptions.because('signal', shown(signal), 'an AbortSignal');
  }
}

/** Objects are not shown: there may be a password inside. */
function shown(value) {
  return typeof value === 'object' && value !== null ? 'an object' : inspect(value, { maxStringLength: 80 });
}

module.exports = { ACQUIRE, CLIENT, LOCK, checkHolder, checkKey, checkOptions, checkSignal, checkType };
