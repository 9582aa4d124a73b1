// Rules 4 and 10: a caller who leaves leaves nothing behind.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually, failure, onBackends } from './backends.mjs';

/** The same numbers for the same seed: xorshift. */
function* randomNumbers(seed) {
  let state = seed;
  for (;;) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    yield (state >>> 0) / 2 ** 32;
  }
}

onBackends('an abort', (backend) => {
  test('an acquire that is aborted rejects with the reason', async () => {
    const client = backend.client();
    const lease = await client.lock('abort').acquire();
    const controller = new AbortController();
    const waiting = client.lock('abort').acquire({ signal: controller.signal });
    const reason = new Error('enough');
    controller.abort(reason);
    assert.equal(await failure(waiting), reason);
    assert.equal(await failure(client.lock('abort').acquire({ signal: controller.signal })), reason);
    assert.equal((await failure(client.lock('abort').acquire({ signal: AbortSignal.timeout(10) }))).name, 'TimeoutError');
    await lease.release();
    assert.equal((await client.inspect('abort')).queue.length, 0);
  });

  test('a signal may be used for many acquires and keeps none of them', async () => {
    const { signal } = new AbortController();
    const lock = backend.client().lock('one signal');
    for (let round = 0; round < 50; round += 1) await (await lock.acquire({ signal })).release();
  });

  test('r10_1000_aborted_acquires_leave_no_key_and_no_waiter', async () => {
    const client = backend.client();
    const random = randomNumbers(20_261_122);
    const next = () => random.next().value;
    const key = () => `seeded ${Math.floor(next() * 5)}`;
    let aborted = 0;
    const attempt = async () => {
      const controller = new AbortController();
      const acquiring = client.lock(key(), { ttl: 30_000 }).acquire({ signal: controller.signal });
      // At a microtask, at a turn of the loop, or some milliseconds later.
      const when = next();
      if (when < 0.3) for (let ticks = next() * 10; ticks > 0; ticks -= 1) await null;
      else if (when < 0.6) for (let turns = next() * 5; turns > 0; turns -= 1) await new Promise(setImmediate);
      else await new Promise((resolve) => setTimeout(resolve, next() * 5));
      controller.abort();
      try {
        await (await acquiring).release();
      } catch (error) {
        assert.equal(error.name, 'AbortError');
        aborted += 1;
      }
    };
    for (let round = 0; round < 20; round += 1) await Promise.all(Array.from({ length: 50 }, attempt));
    assert.ok(aborted > 100, `only ${aborted} were aborted in time`);
    await eventually(
      async () => {
        const left = await Promise.all(Array.from({ length: 5 }, (_, number) => client.inspect(`seeded ${number}`)));
        return left.every(({ holder, queue }) => holder === null && queue.length === 0);
      },
      'no key and no waiter is left',
      1_000,
    );
  });
});
