'use strict';

// Bodies that do nothing until their values are used. With `withLock` that would be after the key was given back.

const { isGeneratorFunction, isGeneratorObject } = require('node:util').types;
const { InvalidOptions } = require('./errors.js').classes;

const ADVICE =
  'a function whose work is done when it returns or its promise settles; a generator runs only when its values are used, and then the key is ' +
  'given back already: use the values inside, or return an array of them';

/** Refuses a generator function before any lock is taken. */
function checkBody(fn) {
  if (isGeneratorFunction(fn)) throw InvalidOptions.because('fn', 'a generator function', ADVICE);
}

/** Refuses a generator that a body returned, and closes it: none of its values will be used. */
async function checkResult(result) {
  if (!isGenerator(result)) return;
  let cause;
  try {
    await result.return();
  } catch (error) {
    cause = error;
  }
  const refusal = InvalidOptions.because('fn', 'a function that returned a generator', ADVICE);
  if (cause !== undefined) refusal.cause = cause;
  throw refusal;
}

/** Also one that a compiler made of plain functions. */
function isGenerator(result) {
  if (typeof result !== 'object' || result === null) return false;
  return isGeneratorObject(result) || ['next', 'return', 'throw'].every((name) => typeof result[name] === 'function');
}

module.exports = { checkBody, checkResult };
