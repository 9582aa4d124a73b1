'use strict';

const { inspect } = require('node:util');

/** What `console.log` shows of a handle: what tells it from others, and nothing that is secret. */
function showHandle(name, fields, depth, options) {
  return depth < 0 ? options.stylize(`[${name}]`, 'special') : `${name} ${inspect(fields, options)}`;
}

module.exports = { custom: inspect.custom, showHandle };
