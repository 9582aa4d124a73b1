// Rule 14: a signal begins a drain where the program asked for it. What happens under load is in the behaviour suite.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { Client, InvalidOptions } from '../../bindings/node/index.mjs';
import { dlock, onBackends, runProgram, shared } from './backends.mjs';

onBackends('a signal', (backend) => {
  test('r14_drains_and_ends_the_process', async () => {
    const ttl = backend.pace(300)(300);
    const { code, stdout, stderr } = await runProgram(
      backend.url,
      `const client = new Client(url);
      client.closeOnSignal(20_000);
      await client.lock('k', { ttl: ${ttl} }).withLock(async (lease) => {
        process.kill(process.pid, 'SIGTERM');
        await new Promise((resolve) => setTimeout(resolve, ${2 * ttl}));
        console.log(lease.valid, await client.lock('more').withLock((more) => more.valid));
      });
      setInterval(() => {}, 1_000);`,
    );
    assert.deepEqual([code, stdout, stderr], ['SIGTERM', 'true true\n', '']);
    const client = backend.client();
    for (const key of ['k', 'more']) assert.equal(await client.isLocked(key), false);
    await client.close();
  });
}, shared);

describe('closeOnSignal', () => {
  test('r14_of_many_clients_has_one_listener_and_waits_for_the_last_of_them', async () => {
    const { code, stdout, stderr } = await runProgram(
      'memory:',
      `const clients = Array.from({ length: 12 }, () => new Client(url));
      for (const client of clients) client.closeOnSignal(20_000);
      console.log(process.listenerCount('SIGTERM'), process.listenerCount('SIGINT'));
      await clients[11].lock('k').withLock(async (lease) => {
        process.kill(process.pid, 'SIGTERM');
        await new Promise((resolve) => setTimeout(resolve, 300));
        console.log(lease.valid, process.listenerCount('SIGTERM'));
      });
      setInterval(() => {}, 1_000);`,
    );
    assert.deepEqual([code, stdout, stderr], ['SIGTERM', '1 1\ntrue 0\n', '']);
  });

  test('leaves the end to others who listen', async () => {
    const { code, stdout } = await runProgram(
      'memory:',
      `const client = new Client(url);
      process.on('SIGTERM', () => setTimeout(() => process.exit(7), 300));
      client.closeOnSignal(20_000);
      client.on('released', () => console.log('released'));
      await client.lock('k').withLock(async () => {
        process.kill(process.pid, 'SIGTERM');
        await new Promise((resolve) => setTimeout(resolve, 100));
      });
      setInterval(() => {}, 1_000);`,
    );
    assert.deepEqual([code, stdout], [7, 'released\n']);
  });

  test('a second signal does not wait', async () => {
    const { code, took } = await runProgram(
      'memory:',
      `const client = new Client(url);
      client.closeOnSignal(60_000);
      await client.lock('k').withLock(async () => {
        process.kill(process.pid, 'SIGINT');
        await new Promise((resolve) => setTimeout(resolve, 50));
        process.kill(process.pid, 'SIGINT');
        await new Promise(() => {});
      });`,
    );
    assert.equal(code, 'SIGINT');
    assert.ok(took < 15_000);
  });

  test('keeps no process alive, and can be taken back', async () => {
    const program = `const client = new Client(url);
      const end = client.closeOnSignal(60_000);
      end();
      console.log(process.listenerCount('SIGTERM'), process.listenerCount('SIGINT'));
      client.closeOnSignal(60_000);`;
    const { code, stdout } = await runProgram('memory:', program);
    assert.deepEqual([code, stdout], [0, '0 0\n']);
  });

  test('r15_what_cannot_be_used_is_named', () => {
    const client = new Client('memory:');
    for (const [field, call] of [
      ['timeout', () => client.closeOnSignal()],
      ['timeout', () => client.closeOnSignal(-1)],
      ['signals', () => client.closeOnSignal(1, ['SIGNONE'])],
      ['signals', () => client.closeOnSignal(1, 'SIGTERM')],
    ]) {
      assert.throws(call, (error) => error instanceof InvalidOptions && error.field === field);
    }
    assert.equal(process.listenerCount('SIGTERM'), 0);
  });

  test('a worker is told that it hears no signals', async () => {
    const program = `import(${JSON.stringify(dlock)}).then(({ Client }) => {
      try { new Client('memory:').closeOnSignal(1) } catch ({ code }) { require('node:worker_threads').parentPort.postMessage(code) }
    })`;
    const worker = new Worker(program, { eval: true });
    assert.equal(await new Promise((resolve) => worker.once('message', resolve)), 'NOT_MAIN_THREAD');
    await worker.terminate();
  });
});
