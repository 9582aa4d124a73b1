'use strict';

const native = require('./native.node');

module.exports = { version: native.VERSION };
