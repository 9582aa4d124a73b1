'use strict';

const { Client, connect } = require('./client.js');
const { version } = require('./completion.js');
const { configure, lock, withLock } = require('./default.js');
const { classes } = require('./errors.js');

module.exports = { Client, configure, connect, lock, version, withLock, ...classes };
