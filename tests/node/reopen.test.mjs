// Rule 14: a client that was closed by its owner works again after `reopen`, and so do the locks made before.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Client, ClientClosed } from '../../bindings/node/index.mjs';
import { eventually, failure, onBackends } from './backends.mjs';

onBackends('a closed client', (backend) => {
  test('r14_works_again_with_the_locks_made_before', async () => {
    const client = backend.client();
    const lock = client.lock('reopened', { ttl: 5_000 });
    const first = await lock.acquire();
    client.reopen();
    assert.equal(first.valid, true, 'an open client is left alone');
    let token = first.token;
    for (let life = 0; life < 3; life += 1) {
      await client.close();
      assert.ok((await failure(lock.acquire())) instanceof ClientClosed);
      assert.ok((await failure(client.ping())) instanceof ClientClosed);
      assert.equal((await client.health()).status, 'down');
      client.reopen();
      client.reopen();
      const next = await lock.withLock((lease) => lease.token);
      assert.ok(next > token);
      token = next;
    }
    assert.equal(first.status, 'lost');
    await client.close();
  });
});

describe('reopening', () => {
  test('r14_does_not_wait_for_a_close_that_drains', async () => {
    const client = new Client('memory:');
    const lease = await client.lock('k').acquire();
    let closed = false;
    const closing = client.close(30_000).then(() => (closed = true));
    await eventually(async () => (await client.health()).status === 'down', 'the client is closing');
    client.reopen();
    const other = await client.lock('other').acquire();
    assert.deepEqual([lease.valid, closed], [true, false]);
    assert.equal(await client.lock('k').tryAcquire(), null, 'it is still held');
    await lease.release();
    await closing;
    assert.equal(other.valid, true, 'it belongs to the session that was opened since');
    const after = await client.lock('k').acquire();
    assert.ok(after.token > lease.token);
    await client.close();
  });

  test('r14_lets_observers_and_counts_go_on', async () => {
    const client = new Client('memory:');
    const heard = [];
    client.on('acquired', ({ key }) => heard.push(key));
    for (const key of ['a', 'b']) {
      await client.lock(key).withLock(() => {});
      await client.close();
      client.reopen();
    }
    await eventually(() => heard.length === 2, 'both are told');
    assert.deepEqual([heard, client.stats().acquired, client.stats().released], [['a', 'b'], 2, 2]);
  });

  test('r14_of_a_client_that_was_closed_before_its_first_use', async () => {
    const client = new Client('memory:');
    await client.close();
    assert.ok((await failure(client.lock('k').acquire())) instanceof ClientClosed);
    client.reopen();
    assert.equal(await client.withLock('k', (lease) => lease.valid), true);
    await client.close();
  });
});
