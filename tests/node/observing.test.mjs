// What a client shows of itself: figures, events, metrics, health, logs.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { inspect } from 'node:util';
import { Client, InvalidOptions } from '../../bindings/node/index.mjs';
import { RedisServer } from '../services/redis-server.mjs';
import { eventually, onBackends, runProgram } from './backends.mjs';

onBackends('observing', (backend) => {
  test('stats count what happened', async () => {
    const client = backend.client();
    assert.equal(client.stats().acquired, 0);
    await client.lock('stats').withLock(async () => {
      assert.equal(await client.lock('stats').tryAcquire(), null);
      const { held, acquired, acquireFailures, scheduled } = client.stats();
      assert.deepEqual({ held, acquired, busy: acquireFailures.LOCK_BUSY, scheduled }, { held: 1, acquired: 1, busy: 1, scheduled: 1 });
    });
    const { held, released, lost, backendCalls, renewalLag } = client.stats();
    assert.deepEqual([held, released, lost.gone, backendCalls.acquire.calls, renewalLag.count], [0, 1, 0, 2, 0]);
    await client.close();
  });

  test('a client says what its backend can do', () => {
    const { scheme, fair, crashRelease, countsTokens, ttlFloor, batch } = backend.client().capabilities();
    assert.equal(scheme, backend.name);
    assert.equal(fair, backend.name !== 'local');
    assert.equal(crashRelease, ['local', 'memory'].includes(backend.name));
    assert.equal(countsTokens, backend.name === 'etcd');
    assert.ok(ttlFloor > 0 && batch > 0);
  });

  test('observers hear the life of a lease in order, until they leave', async () => {
    const client = backend.client();
    const heard = [];
    const ends = ['released', 'renewed', 'acquired'].map((event) => client.on(event, (found) => heard.push(found)));
    const lease = await client.lock('life', { ttl: backend.name === 'etcd' ? 2_000 : 300 }).acquire();
    await eventually(() => heard.some(({ kind }) => kind === 'renewed'), 'a renewal');
    await lease.release();
    await eventually(() => heard.at(-1).kind === 'released', 'the release');
    const kinds = heard.map(({ kind }) => kind);
    assert.equal(kinds[0], 'acquired');
    assert.deepEqual(new Set(kinds.slice(1, -1)), new Set(['renewed']));
    const [{ key, token, owner, waited, held }] = heard;
    assert.deepEqual({ key, token, owner, held }, { key: 'life', token: lease.token, owner: lease.owner, held: null });
    assert.ok(waited >= 0 && heard.at(-1).held > 0);
    for (const end of ends) end(), end();
    const others = [];
    client.on('acquired', (event) => others.push(event));
    await client.lock('life').withLock(() => {});
    await eventually(() => others.length === 1, 'an observer that came later');
    assert.equal(heard.length, kinds.length);
    await client.close();
  });

  test('health is a round trip, and metrics hold no key', async () => {
    const client = backend.client();
    const lease = await client.lock('very-secret').acquire();
    const { status, roundTrip, held, reasons } = await client.health();
    assert.deepEqual({ status, held, reasons }, { status: 'ok', held: 1, reasons: [] });
    assert.ok(roundTrip >= 0);
    const text = client.metrics();
    assert.ok(text.includes('dlock_leases_held 1\n') && text.endsWith('# EOF\n'));
    assert.ok(!text.includes('very-secret'));
    await lease.release();
    await client.close();
    assert.equal((await client.health()).status, 'down');
  });
});

test('health is down where no lock can be had, and says why', async (t) => {
  const server = await RedisServer.start();
  t.after(() => server.stop());
  const client = new Client(server.url);
  const { status, warnings } = await client.health();
  assert.deepEqual({ status, warnings }, { status: 'ok', warnings: [] });
  for (const [spoil, mend, told] of [
    [['CONFIG', 'SET', 'maxmemory', 1], ['CONFIG', 'SET', 'maxmemory', 0], /memory/],
    [['ACL', 'SETUSER', 'default', '-zadd'], ['ACL', 'SETUSER', 'default', '+zadd'], /may not run ZADD/],
  ]) {
    await server.command(...spoil);
    const found = await client.health();
    assert.deepEqual([found.status, found.roundTrip, found.reasons.length], ['down', null, 1]);
    assert.match(found.reasons[0], told);
    await server.command(...mend);
    assert.equal((await client.health()).status, 'ok');
  }
  await client.close();
});

describe('observers', () => {
  test('one may ask its client and its lock', async () => {
    const client = new Client('memory:');
    const lock = client.lock('k');
    const told = [];
    client.on('acquired', () => told.push(client.stats().held, client.metrics().endsWith('# EOF\n')));
    client.on('released', async () => told.push(await lock.isLocked()));
    await lock.withLock(() => eventually(() => told.length === 2, 'the first answers'));
    await eventually(() => told.length === 3, 'the last answer');
    assert.deepEqual(told, [1, true, false]);
  });

  test('events keep what they say, whatever the keys, and however many come at once', async () => {
    const client = new Client('memory:');
    const heard = [];
    for (const event of ['acquired', 'acquire_failed', 'released']) client.on(event, (found) => heard.push(found));
    const keys = Array.from({ length: 400 }, (_, number) => ['short', 'k\u00e4\u{1d11e}y', 'long'.repeat(50)][number % 3] + number);
    const cycle = async (key) => {
      const lease = await client.lock(key).acquire();
      assert.equal(await client.lock(key).tryAcquire(), null);
      await lease.release();
      return { token: lease.token, owner: lease.owner };
    };
    const leases = new Map(await Promise.all(keys.map(async (key) => [key, await cycle(key)])));
    await eventually(() => heard.length === 3 * keys.length, 'all events');
    for (const key of keys) {
      const [acquired, failed, released] = heard.filter((event) => event.key === key);
      const { waited } = acquired;
      assert.deepEqual({ ...acquired }, { kind: 'acquired', key, ...leases.get(key), waited, held: null, reason: null });
      const none = { token: null, owner: null, held: null };
      assert.deepEqual({ ...failed }, { kind: 'acquire_failed', key, ...none, waited: failed.waited, reason: 'LOCK_BUSY' });
      const { held } = released;
      assert.deepEqual(JSON.parse(JSON.stringify(released)), {
        kind: 'released', key, ...leases.get(key), waited: null, held, reason: 'released',
      });
      assert.ok(waited >= 0 && failed.waited >= 0 && held > 0);
    }
    assert.match(inspect(heard[0]), /kind: 'acquired'.*token: \d+.*reason: null/s);
    assert.ok(Object.isFrozen(heard[0]));
  });

  test('one that leaves hears no more, not even of what has come already', async () => {
    const client = new Client('memory:');
    const heard = [];
    const others = [];
    const end = client.on('acquired', (event) => {
      heard.push(event);
      end();
    });
    client.on('acquired', (event) => others.push(event));
    for (let turn = 0; turn < 20; turn += 1) await client.lock('k').withLock(() => {});
    await eventually(() => others.length === 20, 'the other observer');
    assert.equal(heard.length, 1);
  });

  test('one that throws is told and harms nothing', async () => {
    const client = new Client('memory:');
    const heard = [];
    const warned = new Promise((resolve) => process.once('warning', resolve));
    client.on('acquired', () => {
      throw new Error('an own fault');
    });
    client.on('acquired', (event) => heard.push(event));
    for (let turn = 0; turn < 3; turn += 1) await client.lock('k').withLock(() => {});
    await eventually(() => heard.length === 3, 'the other observer');
    const warning = await warned;
    assert.equal(warning.code, 'DLOCK_OBSERVER');
    assert.match(warning.message, /an own fault/);
  });

  test('r15_names and functions are checked', () => {
    const client = new Client('memory:');
    assert.throws(() => client.on('aquired', () => {}), (error) => error instanceof InvalidOptions && /renewal_failed/.test(error.allowed));
    assert.throws(() => client.on('acquired', null), InvalidOptions);
    assert.throws(() => client.on(7, () => {}), InvalidOptions);
  });

  test('r14_observers do not keep the process alive', async () => {
    const program = `
      const client = new Client('memory:');
      client.on('acquired', () => {});
      await client.lock('k').withLock(() => {});
      console.log('ends');`;
    const { stdout, code } = await runProgram('', program, { env: { NODE_DEBUG: 'dlock' } });
    assert.equal(stdout.trim(), 'ends');
    assert.ok(!code);
  });
});

describe('logs', () => {
  const program = `
    const client = new Client('memory:');
    await client.lock('k').withLock(() => new Promise((resolve) => setTimeout(resolve, 50)));
    await new Promise((resolve) => setTimeout(resolve, 50));`;

  test('NODE_DEBUG=dlock shows what the engine does', async () => {
    const { stderr } = await runProgram('', program, { env: { NODE_DEBUG: 'dlock' } });
    assert.match(stderr, /DLOCK \d+: debug dlock::lease: acquired key=k token=\d+/);
    assert.match(stderr, /released key=k/);
  });

  test('without it nothing is said', async () => {
    const { stderr } = await runProgram('', program, { env: {} });
    assert.equal(stderr, '');
  });
});
