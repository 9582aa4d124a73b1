'use strict';

// Refuses bodies that are generators: they run only when their values are used, and by then `withLock` has released the key.

const { isGeneratorFunction, isGeneratorObject } = require('node:util').types;
const { InvalidOptions } = require('./errors.js').classes;

const FINISHED =
  'a function that returns a finished result, or a promise of one. A generator runs only when its values are used, after the key ' +
  'was released: use them inside the function';

/** Refuses a generator function before the key is acquired. */
function checkBody(fn) {
  if (isGeneratorFunction(fn)) throw InvalidOptions.because('fn', 'a generator function', FINISHED);
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
  const refusal = InvalidOptions.because('fn', 'a function that returned a generator', FINISHED);
  if (cause !== undefined) refusal.cause = cause;
  throw refusal;
}

/** Recognises generators that a compiler made of plain functions, too. */
function isGenerator(result) {
  if (typeof result !== 'object' || result === null) return false;
  return isGeneratorObject(result) || ['next', 'return', 'throw'].every((name) => typeof result[name] === 'function');
}

module.exports = { checkBody, checkResult };
