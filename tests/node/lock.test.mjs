// Taking, keeping and releasing.

import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { AcquireTimeout, Client, LockBusy, LockError, NotAcquired, NotHeld } from '../../bindings/node/index.mjs';
import { eventually, failure, onBackends, spin } from './backends.mjs';

test('clients on different servers do not know each other', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'dlock-apart-'));
  const clients = ['memory:', 'memory:', 'memory:apart', `local://${folder}`].map((url) => new Client(url));
  const leases = await Promise.all(clients.map((client) => client.lock('k').tryAcquire()));
  assert.ok(leases.every((lease) => lease?.valid));
  await clients[1].close();
  assert.deepEqual(leases.map(({ valid }) => valid), [true, false, true, true]);
  assert.deepEqual(clients.map((client) => client.stats().held), [1, 0, 1, 1]);
  await Promise.all(clients.map((client) => client.close()));
  await rm(folder, { recursive: true });
});

onBackends('a lock', (backend) => {
  test('withLock holds the key while its body runs, and returns what the body returns', async () => {
    const client = backend.client();
    const inside = await client.lock('with').withLock(async (lease) => [lease.valid, await client.isLocked('with')]);
    assert.deepEqual(inside, [true, true]);
    assert.equal(await client.isLocked('with'), false);
    assert.equal(await client.withLock('with', () => 'sync'), 'sync');
    assert.equal(await client.withLock('with', { ttl: 5_000 }, (lease) => lease.ttl), 5_000);
  });

  test('r05_with_lock_releases_when_its_body_fails, and the failure is the body’s own', async () => {
    const client = backend.client();
    const mine = new Error('mine');
    assert.equal(await failure(client.withLock('fails', () => Promise.reject(mine))), mine);
    assert.equal(
      await failure(
        client.withLock('fails', () => {
          throw mine;
        }),
      ),
      mine,
    );
    assert.equal(await client.isLocked('fails'), false);
  });

  test('a body may release the key early', async () => {
    const client = backend.client();
    await client.withLock('early', async (lease) => {
      assert.equal(await lease.release(), true);
      assert.equal(await client.isLocked('early'), false);
    });
  });

  test('a lease shows what was granted', async () => {
    const client = backend.client();
    const before = Date.now();
    const lease = await client.lock('shown', { ttl: 10_000, metadata: 'job 7' }).acquire();
    assert.equal(lease.key, 'shown');
    assert.ok(Number.isSafeInteger(lease.token) && lease.token > 0);
    assert.match(lease.owner, /^[0-9a-f]{32}:\d+$/);
    assert.equal(lease.ttl, 10_000);
    assert.ok(lease.remaining > 9_000 && lease.remaining < 10_000);
    assert.deepEqual([lease.valid, lease.lost, lease.status], [true, false, 'held']);
    assert.ok(lease.acquiredAt >= before - 1 && lease.acquiredAt <= Date.now());
    assert.ok(lease.expiresAt - lease.acquiredAt > 9_000);

    const { holder } = await client.inspect('shown');
    assert.deepEqual([holder.owner, holder.token, holder.metadata, holder.pid], [lease.owner, lease.token, 'job 7', process.pid]);
    assert.ok(holder.since instanceof Date);
    const [listed] = await client.listLocks('sho');
    assert.equal(listed.key, 'shown');

    assert.equal(await lease.release(), true);
    assert.deepEqual([lease.valid, lease.remaining, lease.status], [false, 0, 'released']);
    assert.match(lease.owner, /^[0-9a-f]{32}:\d+$/);
    assert.equal((await client.inspect('shown')).holder, null);
  });

  test('r07_tokens_rise', async () => {
    const lock = backend.client().lock('tokens');
    let last = 0;
    for (let round = 0; round < 20; round += 1) {
      const token = await lock.withLock((lease) => lease.token);
      assert.ok(token > last);
      last = token;
    }
  });

  test('r09_local_waiters_are_served_in_their_order', async () => {
    const lock = backend.client().lock('order');
    const first = await lock.acquire();
    const served = [];
    const waiting = Array.from({ length: 20 }, (_, number) => lock.withLock(() => served.push(number)));
    await first.release();
    await Promise.all(waiting);
    assert.deepEqual(served, [...served.keys()]);
  });

  test('more outcomes than fit into one batch all arrive', async () => {
    const client = backend.client();
    const keys = Array.from({ length: 3_000 }, (_, number) => `batch ${number}`);
    const acquiring = keys.map((key) => client.lock(key, { ttl: 60_000 }).acquire());
    spin(500); // they pile up
    const leases = await Promise.all(acquiring);
    assert.deepEqual(leases.map((lease) => lease.key), keys);
    assert.equal(new Set(leases.map((lease) => lease.owner)).size, keys.length);
    assert.ok((await Promise.all(leases.map((lease) => lease.release()))).every(Boolean));
    assert.deepEqual(await client.listLocks('batch'), []);
  });

  test('a key is taken away from the holder with this owner id only', async () => {
    const client = backend.client();
    const lease = await client.lock('owner').acquire();
    assert.equal(await client.forceRelease('owner', lease.owner.replace(/.$/, 'x')), false);
    assert.equal(await client.forceRelease('owner', 'somebody'), false);
    assert.equal(await client.forceRelease('owner', lease.owner), true);
    assert.equal(await client.forceRelease('owner', lease.owner), false);
    await lease.release();
  });

  test('a lock says whether anybody holds its key', async () => {
    const lock = backend.client().lock('is locked');
    assert.equal(await lock.isLocked(), false);
    const lease = await backend.client().lock('is locked').acquire();
    assert.equal(await lock.isLocked(), true);
    await lease.release();
    assert.equal(await lock.isLocked(), false);
  });

  test('two clients exclude each other', async () => {
    const clients = [backend.client(), backend.client()];
    let inside = 0;
    let most = 0;
    const work = async (client) => {
      await client.withLock('two', async () => {
        inside += 1;
        most = Math.max(most, inside);
        await new Promise(setImmediate);
        inside -= 1;
      });
    };
    await Promise.all(Array.from({ length: 40 }, (_, number) => work(clients[number % 2])));
    assert.equal(most, 1);
  });

  test('tryAcquire returns null while somebody else holds the key', async () => {
    const client = backend.client();
    const lease = await client.lock('try').tryAcquire();
    assert.equal(await backend.client().lock('try').tryAcquire(), null);
    await lease.release();
  });

  test('r16_a_held_key_is_told_with_its_holder', async () => {
    const lease = await backend.client().lock('busy').acquire();
    const other = backend.client().lock('busy');
    const busy = await failure(other.acquire({ wait: 0 }));
    assert.ok(busy instanceof LockBusy && busy instanceof NotAcquired && busy instanceof LockError && busy instanceof Error);
    assert.deepEqual([busy.name, busy.code, busy.key, busy.holder.token], ['LockBusy', 'LOCK_BUSY', 'busy', lease.token]);
    const late = await failure(other.acquire({ wait: 30 }));
    assert.ok(late instanceof AcquireTimeout);
    assert.deepEqual([late.name, late.code, late.holder.owner], ['AcquireTimeout', 'ACQUIRE_TIMEOUT', lease.owner]);
    assert.ok(late.waited >= 30 && late.waited < 10_000, `${late.waited}`);
    await lease.release();
  });

  test('a lock’s own wait is the default of its acquires', async () => {
    const lease = await backend.client().lock('own wait').acquire();
    const impatient = backend.client().lock('own wait', { wait: 0 });
    assert.equal((await failure(impatient.acquire())).code, 'LOCK_BUSY');
    assert.equal((await failure(impatient.withLock(() => {}))).code, 'LOCK_BUSY');
    const patient = impatient.acquire({ wait: null });
    await lease.release();
    await (await patient).release();
  });

  test('lock.release works while exactly one lease is outstanding', async () => {
    const lock = backend.client().lock('outstanding', { ttl: backend.pace(300)(300) });
    assert.ok((await failure(lock.release())) instanceof NotHeld);
    const lease = await lock.acquire();
    assert.equal(await lock.release(), true);
    assert.equal(lease.status, 'released');

    const lost = await backend.client().lock('outstanding').acquire();
    await lost.release();
    const first = await lock.acquire();
    first.autoRenew(false);
    await first.waitLost();
    const second = await lock.acquire();
    const ambiguous = await failure(lock.release());
    assert.deepEqual([ambiguous.name, ambiguous.code], ['LockError', 'AMBIGUOUS']);
    assert.equal(await first.release(), false);
    assert.equal(second.valid, true, 'a late release of a lost lease leaves its successor alone');
    assert.equal(await lock.release(), true);
  });

  test('extend sets the life of the lease', async () => {
    const lease = await backend.client().lock('extend', { ttl: 5_000, renew: false }).acquire();
    await lease.extend(20_000);
    assert.ok(lease.remaining > 15_000);
    assert.equal(lease.ttl, 20_000);
    await lease.release();
    assert.ok((await failure(lease.extend(10_000))) instanceof NotHeld);
    assert.throws(() => lease.check(), NotHeld);
  });

  test('a lease is disposed of by `await using`', async () => {
    const client = backend.client();
    const lease = await client.lock('using').acquire();
    await lease[Symbol.asyncDispose]();
    assert.equal(await client.isLocked('using'), false);
  });

  test('r11_a_body_that_spins_for_5_ttl_keeps_its_lock', async () => {
    const pace = backend.pace(200);
    const client = backend.client();
    const other = backend.client().lock('spin');
    await client.withLock('spin', { ttl: pace(200) }, async (lease) => {
      spin(pace(1_000));
      assert.equal(lease.valid, true);
      assert.equal(await other.tryAcquire(), null);
    });
    assert.equal(await client.isLocked('spin'), false);
  });

  test('r14_close_refuses_new_acquires_and_takes_away_what_is_left', async () => {
    const client = backend.client();
    const lease = await client.lock('close').acquire();
    const waiting = client.lock('close').acquire();
    const [refused] = await Promise.all([failure(waiting), client.close()]);
    assert.equal(refused.name, 'ClientClosed');
    await eventually(() => lease.lost, 'the lease is lost');
    assert.equal((await failure(client.lock('close').acquire())).code, 'CLIENT_CLOSED');
    assert.equal(await backend.client().isLocked('close'), false);
  });

  test('r14_close_waits_for_holders', async () => {
    const client = backend.client();
    const pace = backend.pace(200);
    let finished = false;
    const work = client.withLock('drain', { ttl: pace(200) }, async () => {
      await new Promise((resolve) => setTimeout(resolve, pace(500)));
      finished = true;
    });
    await eventually(() => backend.client().isLocked('drain'), 'the lock is held');
    await client.close(pace(5_000));
    assert.equal(finished, true);
    await work;
  });
});
