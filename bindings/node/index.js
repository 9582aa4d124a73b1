'use strict';

const { Client, connect } = require('./client.js');
const { version } = require('./completion.js');
const program = require('./default.js');
const { classes } = require('./errors.js');

module.exports = { Client, connect, version, ...program, ...classes };
