// Rule 14: what keeps a process alive, and what its end leaves behind.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { dlock, eventually, onBackends, runProgram, shared } from './backends.mjs';

onBackends('a process', (backend) => {
  const exitsByItself = async (body) => {
    const { code, stdout, stderr } = await runProgram(backend.url, body);
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    return stdout.trim();
  };

  test('r14_an_idle_client_does_not_keep_the_process_alive', async () => {
    await exitsByItself(`
      const client = await dlock.connect(url);
      await client.withLock('idle', () => {});
      globalThis.client = client;`);
  });

  test('r14_a_bare_lease_does_not_keep_the_process_alive', async () => {
    await exitsByItself(`
      globalThis.lease = await new Client(url).lock('bare').acquire();
      globalThis.signal = lease.signal;`);
  });

  test('r14_a_body_in_progress_keeps_the_process_alive', async () => {
    const pace = backend.pace(300);
    const output = await exitsByItself(`
      await new Client(url).withLock('body', { ttl: ${pace(300)} }, async (lease) => {
        // Nothing but the lock is there to wait for.
        await new Promise((resolve) => setTimeout(resolve, ${pace(400)}).unref());
        console.log('valid', lease.valid);
      });`);
    assert.equal(output, 'valid true');
  });

  test('r14_a_pending_acquire_keeps_the_process_alive', async () => {
    const output = await exitsByItself(`
      const first = await new Client(url).lock('pending', { ttl: ${backend.pace(400)(400)} }).acquire();
      first.autoRenew(false);
      const second = await new Client(url).lock('pending').acquire();
      console.log(second.token > first.token);`);
    assert.equal(output, 'true');
  });

  test('r14_waiting_for_a_loss_keeps_the_process_alive', async () => {
    const output = await exitsByItself(`
      const lease = await new Client(url).lock('awaited', { ttl: ${backend.pace(300)(300)}, renew: false }).acquire();
      console.log(await lease.waitLost());`);
    assert.equal(output, 'expired');
  });

  test('r14_a_process_with_calls_in_flight_ends_at_once_and_quietly', async () => {
    const { code, stderr, took } = await runProgram(
      backend.url,
      `const client = new Client(url);
       const lease = await client.lock('flight').acquire();
       for (let number = 0; number < 200; number += 1) {
         client.lock('flight').acquire();
         client.lock('other ' + number).acquire().then((lease) => lease.release());
         client.inspect('flight');
       }
       setTimeout(() => process.exit(7), 5);`,
    );
    assert.deepEqual({ code, stderr }, { code: 7, stderr: '' });
    assert.ok(took < 3_000, `it took ${took} ms`);
  });
});

onBackends(
  'the end of a process',
  (backend) => {
    const busy = `
      client.withLock('left in a body', () => new Promise(() => {}));
      client.lock('left 0').acquire();
      await new Promise((resolve) => setTimeout(resolve, 50));`;
    const ends = {
      'process.exit': `${busy} process.exit();`,
      'an uncaught exception': `${busy} throw new Error('on purpose');`,
      'running out of work': '',
    };
    for (const [name, end] of Object.entries(ends)) {
      test(`r14_leases_are_released at ${name}`, async () => {
        const { stderr } = await runProgram(
          backend.url,
          `const client = new Client(url);
           const take = (_, number) => client.lock('left ' + number, { ttl: 30_000 }).acquire();
           globalThis.leases = await Promise.all(Array.from({ length: 20 }, take));
           ${end}`,
        );
        assert.doesNotMatch(stderr, /panic/);
        const client = backend.client();
        assert.deepEqual(await client.listLocks(), []);
        assert.deepEqual((await client.inspect('left 0')).queue, []);
        await client.close();
      });
    }

    test('r14_leases_are_released by every instance of the module, through one listener', async () => {
      // As Jest's `resetModules`, hot reload and a second copy of the package have it.
      const { code, stdout, stderr } = await runProgram(
        backend.url,
        `const { createRequire } = await import('node:module');
         const { fileURLToPath } = await import('node:url');
         const require = createRequire(import.meta.url);
         const file = fileURLToPath(${JSON.stringify(dlock)}.replace('index.mjs', 'index.js'));
         const listeners = process.listenerCount('exit');
         for (let round = 0; round < 12; round += 1) {
           for (const known of Object.keys(require.cache)) delete require.cache[known];
           await new (require(file).Client)(url).lock('of instance ' + round).acquire();
         }
         console.log(process.listenerCount('exit') - listeners, (await new Client(url).listLocks('of instance')).length);
         process.exit();`,
      );
      assert.deepEqual([code, stdout, stderr], [0, '0 12\n', '']);
      assert.deepEqual(await backend.client().listLocks(), []);
    });

    test('r14_a_worker_that_ends_releases_its_leases_and_no_others', async () => {
      const { code, stdout, stderr } = await runProgram(
        backend.url,
        `const { Worker } = await import('node:worker_threads');
         const client = new Client(url);
         const mine = await client.lock('of the main thread').acquire();
         const source = \`
           import('${dlock}').then(async ({ Client }) => {
             const { parentPort, workerData } = await import('node:worker_threads');
             const client = new Client(workerData);
             globalThis.lease = await client.lock('of a worker').acquire();
             client.lock('of the main thread').acquire();
             setInterval(() => {}, 1000);
             parentPort.postMessage('holding');
           });\`;
         const { once } = await import('node:events');
         for (let round = 0; round < 3; round += 1) {
           const worker = new Worker(source, { eval: true, workerData: url });
           await once(worker, 'message');
           if (!(await client.isLocked('of a worker'))) throw new Error('the worker does not hold its lock');
           await worker.terminate();
           const lease = await client.lock('of a worker').acquire({ wait: 2000 });
           await lease.release();
         }
         console.log(mine.valid, (await client.inspect('of the main thread')).queue.length);
         const worker = new Worker(source, { eval: true, workerData: url });
         await once(worker, 'message');
         process.exit(0);`,
      );
      assert.deepEqual({ code, stdout: stdout.trim(), stderr }, { code: 0, stdout: 'true 0', stderr: '' });
      assert.deepEqual(await backend.client().listLocks(), []);
    });
  },
  shared,
);

onBackends(
  'a pause',
  (backend) => {
    test('r01_a_process_that_was_stopped_for_longer_than_its_ttl_knows_it_at_once', async () => {
      const program = `
        import { Client } from ${JSON.stringify(dlock)};
        const lease = await new Client(${JSON.stringify(backend.url)}).lock('stopped', { ttl: 500 }).acquire();
        // Before it says so: it may be stopped right then.
        let last = performance.now();
        console.log('held', lease.token);
        setInterval(() => {
          const now = performance.now();
          if (now - last > 400) console.log('after', lease.valid, lease.signal.aborted), process.exit();
          last = now;
        }, 10);`;
      const child = spawn(process.execPath, ['--input-type=module', '--eval', program], { stdio: ['ignore', 'pipe', 'inherit'] });
      const exited = once(child, 'exit');
      let output = '';
      child.stdout.on('data', (data) => (output += data));
      try {
        await eventually(() => output.includes('held'), 'the child holds the lock');
        child.kill('SIGSTOP');
        const lease = await backend.client().lock('stopped').acquire({ wait: 5_000 });
        child.kill('SIGCONT');
        await eventually(() => output.includes('after'), 'the child has noticed the pause');
        assert.match(output, /after false true/);
        assert.ok(lease.token > Number(/held (\d+)/.exec(output)[1]));
      } finally {
        child.kill('SIGKILL');
        await exited;
      }
    });
  },
  ['redis'],
);
