// Several environments in one process.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { dlock, onBackends } from './backends.mjs';

onBackends('workers', (backend) => {
  test('workers and the main thread exclude each other', async () => {
    // Read, wait, write: without the lock, updates get lost.
    const counter = new Int32Array(new SharedArrayBuffer(4));
    const source = `
      import(${JSON.stringify(dlock)}).then(async ({ Client }) => {
        const { workerData: { url, counter } } = await import('node:worker_threads');
        const client = new Client(url);
        for (let round = 0; round < 50; round += 1) {
          await client.withLock('counter', async () => {
            const seen = counter[0];
            await new Promise(setImmediate);
            counter[0] = seen + 1;
          });
        }
        await client.close();
      });`;
    const workers = Array.from({ length: 3 }, () => new Worker(source, { eval: true, workerData: { url: backend.url, counter } }));
    const ended = workers.map((worker) => new Promise((resolve, reject) => worker.once('exit', resolve).once('error', reject)));
    const client = backend.client();
    for (let round = 0; round < 50; round += 1) {
      await client.withLock('counter', async () => {
        const seen = counter[0];
        await new Promise(setImmediate);
        counter[0] = seen + 1;
      });
    }
    assert.deepEqual(await Promise.all(ended), [0, 0, 0]);
    assert.equal(counter[0], 200);
  });

  test('r14_workers_that_are_terminated_amid_calls_leave_nothing_behind', async () => {
    const source = `
      import(${JSON.stringify(dlock)}).then(async ({ Client }) => {
        const { parentPort, workerData } = await import('node:worker_threads');
        const client = new Client(workerData);
        const work = () => client.withLock('amid ' + Math.floor(Math.random() * 10), () => new Promise(setImmediate));
        parentPort.postMessage('working');
        await Promise.all(Array.from({ length: 100 }, async () => { for (;;) await work(); }));
      });`;
    const client = backend.client();
    for (let round = 0; round < 5; round += 1) {
      const workers = Array.from({ length: 3 }, () => new Worker(source, { eval: true, workerData: backend.url }));
      await Promise.all(workers.map((worker) => once(worker, 'message')));
      await new Promise((resolve) => setTimeout(resolve, round * 10));
      await Promise.all(workers.map((worker) => worker.terminate()));
      for (let number = 0; number < 10; number += 1) await (await client.lock(`amid ${number}`).acquire({ wait: 5_000 })).release();
    }
    assert.deepEqual(await client.listLocks('amid'), []);
    await client.close();
  });
});
