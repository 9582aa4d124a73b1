// What people get to see: `console.log`, and what is said where nobody chose a backend.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { inspect } from 'node:util';
import { Client } from '../../bindings/node/index.mjs';
import { runProgram } from './backends.mjs';

describe('what inspect shows', () => {
  test('r18_of_a_client_is_its_server_without_the_password', () => {
    assert.equal(inspect(new Client('redis://me:secret@127.0.0.1:1/?db=1')), "Client { server: 'redis://127.0.0.1:1/1' }");
    assert.equal(inspect({ deep: { client: new Client('memory:') } }, { depth: 0 }), '{ deep: [Object] }');
    assert.equal(inspect({ client: new Client('memory:') }, { depth: 0 }), '{ client: [Client] }');
  });

  test('of a lock is its key, of a lease its token and status as well', async () => {
    const lock = new Client('memory:').lock('shown');
    assert.equal(inspect(lock), "Lock { key: 'shown' }");
    const lease = await lock.acquire();
    assert.equal(inspect(lease), `Lease { key: 'shown', token: ${lease.token}, status: 'held' }`);
    await lease.release();
    assert.equal(inspect(lease), `Lease { key: 'shown', token: ${lease.token}, status: 'released' }`);
  });
});

describe('without a URL', () => {
  const program = 'console.log(new Client());';

  test('local: is chosen, and says so to who listens', async () => {
    for (const DLOCK_URL of [undefined, '']) {
      const said = await runProgram('', program, { env: { DLOCK_URL, NODE_DEBUG: 'dlock' } });
      assert.equal(said.stdout, "Client { server: 'local:' }\n");
      assert.match(said.stderr, /^DLOCK \d+: no URL was given and DLOCK_URL is not set: using `local:`/);
      assert.equal((await runProgram('', program, { env: { DLOCK_URL } })).stderr, '');
    }
  });

  test('DLOCK_URL is followed without a word', async () => {
    const said = await runProgram('', program, { env: { DLOCK_URL: 'memory:named', NODE_DEBUG: 'dlock' } });
    assert.deepEqual([said.stdout, said.stderr], ["Client { server: 'memory:named' }\n", '']);
  });
});
