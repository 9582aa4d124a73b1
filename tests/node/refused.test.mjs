// Rules 16 and 18: a server that answers and says no is told from one that is not there.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BackendRefused, BackendUnavailable, Client, InvalidOptions, LockBusy } from '../../bindings/node/index.mjs';
import { RedisServer } from '../services/redis-server.mjs';
import { freePort } from '../services/server-process.mjs';

test('r16_a_server_that_says_no_refuses', async (t) => {
  const server = await RedisServer.start({ requirepass: 's3cret' });
  t.after(() => server.stop());
  for (const login of [':geheim@', '']) {
    const client = new Client(`redis://${login}127.0.0.1:${server.port}`);
    const lock = client.lock('k');
    for (const call of [() => client.ping(), () => lock.acquire(), () => lock.tryAcquire(), () => client.inspect('k')]) {
      const error = await call().catch((raised) => raised);
      assert.ok(error instanceof BackendRefused && !(error instanceof BackendUnavailable), String(error));
      assert.deepEqual([error.code, error.server], ['BACKEND_REFUSED', `redis://127.0.0.1:${server.port}`]);
      assert.match(error.message, / refused: /);
      assert.doesNotMatch(`${error.message} ${error.cause}`, /geheim/);
    }
    await client.close();
  }
});

test('r16_a_single_try_ends_as_soon_as_the_cause_is_definite', async () => {
  const closed = await freePort();
  const urls = ['redis://127.0.0.1:PORT', 'redis+sentinel://127.0.0.1:PORT,127.0.0.1:1/shop', 'etcd://127.0.0.1:PORT,127.0.0.1:1'];
  for (const url of urls) {
    const client = new Client(url.replace('PORT', closed), { opTimeout: 20_000, connectTimeout: 20_000 });
    const lock = client.lock('k');
    for (const call of [() => lock.tryAcquire(), () => lock.acquire({ wait: 0 }), () => client.ping(), () => client.inspect('k')]) {
      const started = performance.now();
      const error = await call().catch((raised) => raised);
      assert.ok(error instanceof BackendUnavailable, String(error));
      assert.match(error.message, /Connection refused/);
      assert.ok(performance.now() - started < 10_000, 'not after opTimeout');
    }
    await client.close();
  }
});

test('r18_a_raw_character_in_a_password_is_told_how_to_be_written', () => {
  for (const scheme of ['redis', 'rediss', 'redis+sentinel', 'etcd', 'etcds']) {
    for (const raw of ['#', '/', '?', '@', '%', '[']) {
      assert.throws(
        () => new Client(`${scheme}://u:57${raw}Wc903z@127.0.0.1:6379/0`),
        (error) => error instanceof InvalidOptions && /# as %23/.test(error.message) && !/57|Wc903z/.test(`${error.message}${error.stack}`),
        scheme + raw,
      );
    }
  }
});

test('r17_what_a_foreign_holder_wrote_is_cut', async (t) => {
  const server = await RedisServer.start();
  t.after(() => server.stop());
  await server.command('SET', 'k', `\u001b[31mmine${'x'.repeat(100_000)}`);
  const client = new Client(server.url, { namespace: '' });
  const error = await client.lock('k').acquire({ wait: 0 }).catch((raised) => raised);
  assert.ok(error instanceof LockBusy, String(error));
  assert.ok(error.message.length < 400 && error.holder.owner.length < 2_000);
  assert.ok(error.message.includes('mine') && !error.message.includes('\u001b'));
  assert.ok((await client.inspect('k')).holder.owner.length < 2_000);
  await client.close();
});
