'use strict';

// The functions of the module itself, on one client for the whole program.

const { Client } = require('./client.js');
const { LockError } = require('./errors.js').classes;

let configured;
let client;

/** Says where the default client's locks live. After its first use that is settled. */
function configure(url, options) {
  if (client) throw new LockError('configure: the default client is already in use', { code: 'ALREADY_CONFIGURED' });
  configured = new Client(url, options);
}

function defaultClient() {
  client ??= configured ?? new Client();
  return client;
}

const lock = (key, options) => defaultClient().lock(key, options);

const withLock = async (key, options, fn) => defaultClient().withLock(key, options, fn);

module.exports = { configure, lock, withLock };
