'use strict';

// The package as `require` sees it, and the functions of the module itself.

const assert = require('node:assert/strict');
const { test } = require('node:test');
const dlock = require('../../bindings/node/index.js');

test('require and import see one implementation', async () => {
  const imported = await import('../../bindings/node/index.mjs');
  for (const name of Object.keys(dlock)) assert.equal(imported[name], dlock[name], name);
  assert.deepEqual(
    Object.keys(imported).filter((name) => name !== 'default').sort(),
    Object.keys(dlock).sort(),
  );
  const client = new imported.Client('memory:');
  assert.throws(() => client.lock(''), dlock.InvalidOptions);
  await client.close();
});

test('the package is found by its name', async () => {
  assert.equal(require('dlock-engine'), dlock);
  assert.equal((await import('dlock-engine')).Client, dlock.Client);
  assert.equal(dlock.version, require('../../package.json').version);
});

test('the functions of the module share one client, configured before its first use', async () => {
  dlock.configure('memory:');
  dlock.configure('memory:module', { namespace: 'tests' });
  const lease = await dlock.lock('shared').acquire();
  const elsewhere = new dlock.Client('memory:module', { namespace: 'tests' });
  assert.equal(await elsewhere.isLocked('shared'), true);
  await lease.release();
  assert.equal(await dlock.withLock('shared', { ttl: 5_000 }, (held) => held.ttl), 5_000);
  assert.equal(await dlock.withLock('shared', () => 'no options'), 'no options');
  assert.throws(() => dlock.configure('memory:'), dlock.LockError);
  await elsewhere.close();
});

test('a client without a URL goes where DLOCK_URL says', async () => {
  process.env.DLOCK_URL = 'memory:from-the-environment';
  const clients = [new dlock.Client(), new dlock.Client(undefined), await dlock.connect()];
  delete process.env.DLOCK_URL;
  const lease = await clients[0].lock('k').acquire();
  for (const client of clients) assert.equal(await client.isLocked('k'), true);
  await lease.release();
  await Promise.all(clients.map((client) => client.close()));
});

test('errors have their names, codes and classes', () => {
  const { AcquireTimeout, BackendRefused, BackendUnavailable, ClientClosed, ForkedError, InvalidOptions, LockBusy } = dlock;
  const { LockError, LockLost, NotAcquired, NotHeld } = dlock;
  const named = { AcquireTimeout, BackendRefused, BackendUnavailable, ClientClosed, ForkedError };
  const family = { ...named, InvalidOptions, LockBusy, LockLost, NotHeld };
  for (const [name, ErrorClass] of Object.entries(family)) {
    const error = new ErrorClass('words', { code: 'CODE', cause: 7 });
    assert.deepEqual([error.name, error.message, error.code, error.cause], [name, 'words', 'CODE', 7]);
    assert.ok(error instanceof LockError && error instanceof Error);
    assert.match(error.stack, new RegExp(`^${name}: words`));
  }
  for (const ErrorClass of [AcquireTimeout, LockBusy]) assert.ok(new ErrorClass('') instanceof NotAcquired);
});
