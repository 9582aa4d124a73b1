// Rules 16 and 18: a server that answers and says no is told from one that is not there.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BackendRefused, BackendUnavailable, Client } from '../../bindings/node/index.mjs';
import { RedisServer } from '../services/redis-server.mjs';

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
