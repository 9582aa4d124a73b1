'use strict';

const { inspect } = require('node:util');

/** What `console.log` prints for a handle: enough to tell it from others, and no secrets. */
function inspectHandle(name, fields, depth, options) {
  return depth < 0 ? options.stylize(`[${name}]`, 'special') : `${name} ${inspect(fields, options)}`;
}

module.exports = { custom: inspect.custom, inspectHandle };
