'use strict';

// The functions of the module itself. They use one client for the whole program.

const { program } = require('./client.js');

let client;

function defaultClient() {
  client ??= program.make();
  return client;
}

/** Sets where the default client's locks are. It must come before the client's first operation; locks made before follow. */
function configure(url, options) {
  program.configure(defaultClient(), url, options);
}

/** For tests: puts the default client back to its state at the start of the program. */
async function resetDefaultClient() {
  await program.reset(defaultClient());
}

const lock = (key, options) => defaultClient().lock(key, options);
const withLock = async (key, options, fn) => defaultClient().withLock(key, options, fn);
const ping = async () => defaultClient().ping();
const inspect = async (key) => defaultClient().inspect(key);
const listLocks = async (prefix) => defaultClient().listLocks(prefix);
const isLocked = async (key) => defaultClient().isLocked(key);
const forceRelease = async (key, holder) => defaultClient().forceRelease(key, holder);
const stats = () => defaultClient().stats();
const capabilities = () => defaultClient().capabilities();
const metrics = () => defaultClient().metrics();
const health = async () => defaultClient().health();
const on = (event, fn) => defaultClient().on(event, fn);
const reopen = () => defaultClient().reopen();
const close = async (timeout) => defaultClient().close(timeout);
const closeOnSignal = (timeout, signals) => defaultClient().closeOnSignal(timeout, signals);

module.exports = {
  capabilities,
  close,
  closeOnSignal,
  configure,
  forceRelease,
  health,
  inspect,
  isLocked,
  listLocks,
  lock,
  metrics,
  on,
  ping,
  reopen,
  resetDefaultClient,
  stats,
  withLock,
};
