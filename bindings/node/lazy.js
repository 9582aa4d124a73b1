'use strict';

// Refuses bodies that are generators: they run only when their values are used, and by then `withLock` has released the key.

const { isGeneratorFunction, isGeneratorObject } = require('node:util').types;
const { InvalidOptions } = require('./errors.js').classes;

const ADVICE =
  'a function whose work is done when it returns or its promise settles; a generator runs only when its values are used, after the key was ' +
  'released: use the values inside, or return an array of them';

/** Refuses a generator function before the key is acquired. */
function checkBody(fn) {
  if (isGeneratorFunction(fn)) throw InvalidOptions.because('fn', 'a generator function', ADVICE);
}

/** Refuses a generator that a body returned. It closes the generator, whose values nobody will use. */
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

/** Recognises generators that a compiler made of plain functions, too. */
function isGenerator(result) {
  if (typeof result !== 'object' || result === null) return false;
  return isGeneratorObject(result) || ['next', 'return', 'throw'].every((name) => typeof result[name] === 'function');
}

module.exports = { checkBody, checkResult };
