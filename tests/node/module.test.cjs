'use strict';

// The package as `require` sees it, and the functions of the module itself.

const assert = require('node:assert/strict');
const { spawnSync } = require('node:child_process');
const { copyFileSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
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

test('r16_the_code_belongs_to_the_class', () => {
  for (const [name, ErrorClass] of Object.entries(dlock).filter(([, it]) => it?.prototype instanceof Error)) {
    const code = name === 'ForkedError' ? 'FORKED' : name.replace(/(?!^)[A-Z]/g, '_$&').toUpperCase();
    class Mine extends ErrorClass {}
    for (const error of [new ErrorClass('x'), new ErrorClass(), new Mine('x'), new ErrorClass('x', { key: 'k' })]) {
      assert.equal(error.code, code);
      assert.equal(JSON.parse(JSON.stringify(error)).code, code);
    }
    assert.equal(new (class extends ErrorClass { code = 'OTHER'; })('x').code, 'OTHER');
    assert.equal(new ErrorClass('x', { code: 'OWN' }).code, 'OWN');
  }
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

test('an engine that cannot be loaded is headlined by its cause', () => {
  const folder = mkdtempSync(join(tmpdir(), 'dlock-load-'));
  try {
    const there = join(__dirname, '../../bindings/node');
    for (const file of readdirSync(there).filter((name) => name.endsWith('.js'))) copyFileSync(join(there, file), join(folder, file));
    const told = (bytes) => {
      if (bytes) writeFileSync(join(folder, 'native.node'), bytes);
      const done = spawnSync(process.execPath, ['-e', "try { require('./index.js') } catch (e) { console.log(e.message) }"], { cwd: folder });
      const said = done.stdout.toString();
      assert.match(said, /^dlock: native\.node cannot be loaded: /);
      assert.match(said, new RegExp(`This is Node ${process.version} on ${process.platform}-${process.arch}`));
      return said;
    };
    assert.match(told(), /loaded: it is not in .*of what is there, there is none/s);
    assert.match(told('not an engine'), /loaded: .*(invalid ELF header|file too short|not a mach-o).*the file is damaged.*is no library/s);
    if (process.platform === 'linux') {
      const other = readFileSync(join(there, 'native.node')).subarray(0, 4_096);
      other[4] = 1; // a class of 32 bits
      other.writeUInt16LE(40, 18);
      assert.match(told(other), /wrong ELF class.*built for another processor.*is for linux-arm\b/s);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});
