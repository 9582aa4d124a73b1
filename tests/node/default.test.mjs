// The client behind the module's own functions: where its locks are, what it has, and how tests get a fresh one.

import assert from 'node:assert/strict';
import { after, beforeEach, describe, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import * as dlock from '../../bindings/node/index.mjs';
import { dlock as address, eventually, failure, runProgram } from './backends.mjs';

const { Client, ClientClosed, InvalidOptions, LockError } = dlock;

describe('the default client', () => {
  beforeEach(dlock.resetDefaultClient);
  after(dlock.resetDefaultClient);

  test('has all that a client has', () => {
    const names = Object.getOwnPropertyNames(Client.prototype).filter((name) => name !== 'constructor');
    for (const name of names) assert.equal(typeof dlock[name], 'function', name);
  });

  test('does what a client does', async () => {
    dlock.configure('memory:all-of-it');
    const heard = [];
    const end = dlock.on('released', ({ key }) => heard.push(key));
    await dlock.ping();
    await dlock.lock('k').withLock(async (lease) => {
      assert.equal((await dlock.inspect('k')).holder.token, lease.token);
      assert.deepEqual((await dlock.listLocks('k')).map(({ key }) => key), ['k']);
      assert.equal(await dlock.isLocked('k'), true);
      assert.equal(dlock.stats().held, 1);
      assert.match(dlock.metrics(), /dlock_leases_held 1/);
      assert.equal((await dlock.health()).status, 'ok');
    });
    const taken = await dlock.lock('taken', { renew: false }).acquire();
    assert.equal(await dlock.forceRelease('taken', taken.token), true);
    await eventually(() => heard.length > 0, 'told');
    end();
    dlock.closeOnSignal(1_000)();
    await dlock.close(1_000);
    assert.ok((await failure(dlock.ping())) instanceof ClientClosed);
    dlock.reopen();
    await dlock.ping();
  });

  test('is configured until its first operation, for locks made before as well', async () => {
    const lock = dlock.lock('k', { ttl: 500 });
    dlock.configure('etcd://127.0.0.1:1', { connectTimeout: 100 });
    const refused = await failure(lock.acquire());
    assert.ok(refused instanceof InvalidOptions && refused.field === 'ttl', `checked once more: ${refused}`);
    await dlock.resetDefaultClient();
    dlock.configure('memory:configured');
    const lease = await lock.acquire();
    assert.equal(await new Client('memory:configured').isLocked('k'), true);
    assert.throws(() => dlock.configure('memory:'), (error) => error instanceof LockError && error.code === 'ALREADY_CONFIGURED');
    assert.equal(lease.valid, true);
  });

  test('looks at the environment at its first operation', async () => {
    const lock = dlock.lock('k');
    dlock.stats();
    process.env.DLOCK_URL = 'memory:set-later';
    try {
      await lock.withLock(async () => assert.equal(await new Client('memory:set-later').isLocked('k'), true));
    } finally {
      delete process.env.DLOCK_URL;
    }
    assert.equal(dlock.stats().chosenBy, 'variable');
  });

  test('in a worker looks at the environment of the worker', async () => {
    const program = `import(${JSON.stringify(address)}).then(async (dlock) => {
      await dlock.ping();
      require('node:worker_threads').parentPort.postMessage([dlock.stats().server, dlock.stats().chosenBy]);
    });`;
    const worker = new Worker(program, { eval: true, env: { DLOCK_URL: 'memory:of-the-worker', DLOCK_REQUIRE_URL: '1' } });
    const said = await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
    assert.deepEqual(said, ['memory:of-the-worker', 'variable']);
    await worker.terminate();
  });

  test('is as new after a reset', async () => {
    const lock = dlock.lock('k');
    for (const url of ['memory:one', 'memory:two']) {
      dlock.configure(url);
      const heard = [];
      dlock.on('acquired', ({ key }) => heard.push(key));
      const lease = await lock.acquire();
      await eventually(() => heard.length === 1, 'told');
      assert.deepEqual([dlock.stats().acquired, dlock.stats().held], [1, 1]);
      await dlock.resetDefaultClient();
      assert.deepEqual([lease.status, dlock.stats().acquired], ['lost', 0]);
      assert.equal(await new Client(url).isLocked('k'), false);
    }
    await dlock.close();
    await dlock.resetDefaultClient();
    dlock.configure('memory:');
    await dlock.ping();
  });
});

describe('what chose the backend', () => {
  test('stats and health say so', async () => {
    for (const [url, DLOCK_URL, chosenBy] of [
      [undefined, undefined, 'default'],
      [undefined, '', 'default'],
      [undefined, 'memory:named', 'variable'],
      ['memory:given', 'redis://127.0.0.1:1', 'argument'],
    ]) {
      const program = `const client = new Client(${JSON.stringify(url)});
        const { server, chosenBy } = await client.health();
        console.log(JSON.stringify([chosenBy, client.stats().chosenBy, server === client.stats().server]));`;
      const said = await runProgram('', program, { env: { DLOCK_URL } });
      assert.deepEqual(JSON.parse(said.stdout), [chosenBy, chosenBy, true]);
    }
    const secret = new Client('redis://me:geheim@127.0.0.1:1').stats();
    assert.deepEqual([secret.server, secret.chosenBy], ['redis://127.0.0.1:1', 'argument']);
  });

  test('r15_dlock_require_url_refuses_to_run_on_local_unseen', async () => {
    const programs = ["await dlock.lock('k').withLock(() => console.log('ran'));", "new Client(); console.log('ran');", "await dlock.health(); console.log('ran');"];
    for (const program of programs) {
      const refused = await runProgram('', program, { env: { DLOCK_URL: '', DLOCK_REQUIRE_URL: 'true' } });
      assert.deepEqual([refused.code, refused.stdout], [1, '']);
      assert.match(refused.stderr, /InvalidOptions.*DLOCK_URL.*DLOCK_REQUIRE_URL/s);
      for (const env of [{ DLOCK_URL: 'local:', DLOCK_REQUIRE_URL: '1' }, { DLOCK_URL: '', DLOCK_REQUIRE_URL: 'no' }, { DLOCK_URL: '', DLOCK_REQUIRE_URL: '' }]) {
        const ran = await runProgram('', program, { env });
        assert.deepEqual([ran.code, ran.stdout], [0, 'ran\n'], ran.stderr);
      }
    }
    const mistyped = await runProgram('', programs[1], { env: { DLOCK_URL: '', DLOCK_REQUIRE_URL: 'sure' } });
    assert.match(mistyped.stderr, /DLOCK_REQUIRE_URL: "sure"/);
  });

  test('r15_require_url_is_an_option_too', async () => {
    for (const call of ['dlock.configure(undefined, { requireUrl: true })', 'new Client(undefined, { requireUrl: true })']) {
      const program = `try { ${call}; console.log('taken') } catch (error) { console.log(error.code, error.field) }`;
      assert.equal((await runProgram('', program, { env: { DLOCK_URL: '' } })).stdout, 'INVALID_OPTIONS url\n');
      assert.equal((await runProgram('', program, { env: { DLOCK_URL: 'memory:' } })).stdout, 'taken\n');
    }
    assert.throws(() => new Client('memory:', { requireUrl: 'yes' }), InvalidOptions);
  });

  test('r15_a_required_url_may_come_after_the_locks', async () => {
    const program = `const lock = dlock.lock('k');
      dlock.configure('memory:late');
      await lock.withLock(() => console.log(dlock.stats().server));`;
    const ran = await runProgram('', program, { env: { DLOCK_URL: '', DLOCK_REQUIRE_URL: '1' } });
    assert.equal(ran.stdout, 'memory:late\n', ran.stderr);
  });
});
