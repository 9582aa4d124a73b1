// Rule 5: a lease that nobody can reach any more is released.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { onBackends, runProgram } from './backends.mjs';

const collect = `
  const warnings = [];
  process.on('warning', ({ name, code, message }) => warnings.push([name, code, message]));
  const collected = async (test) => {
    const deadline = performance.now() + 5000;
    while (!(await test())) {
      if (performance.now() > deadline) throw new Error('not collected');
      globalThis.gc();
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };`;

onBackends('a dropped lease', (backend) => {
  const run = async (body) => {
    const { code, stdout, stderr } = await runProgram(backend.url, collect + body, { flags: ['--expose-gc'] });
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout);
  };

  test('r05_a_lease_that_was_dropped_with_its_lock_is_freed_with_a_warning', async () => {
    const warnings = await run(`
      const client = new Client(url);
      await (async () => { await client.lock('dropped').acquire(); })();
      await collected(async () => !(await client.isLocked('dropped')) && warnings.length > 0);
      console.log(JSON.stringify(warnings));`);
    assert.equal(warnings.length, 1);
    assert.deepEqual(warnings[0].slice(0, 2), ['LockWarning', 'DLOCK_FORGOTTEN']);
    assert.match(warnings[0][2], /"dropped"/);
  });

  test('a lease that was dropped stays held through its lock', async () => {
    const held = await run(`
      const client = new Client(url);
      const lock = client.lock('through its lock');
      await (async () => { await lock.acquire(); })();
      for (let round = 0; round < 10; round += 1) {
        globalThis.gc();
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      const before = await client.isLocked('through its lock');
      console.log(JSON.stringify([before, await lock.release(), await client.isLocked('through its lock'), warnings.length]));`);
    assert.deepEqual(held, [true, true, false, 0]);
  });

  test('a lease outlives its lock and its client', async () => {
    const pace = backend.pace(200);
    const held = await run(`
      const lease = await new Client(url).lock('outlives', { ttl: ${pace(200)} }).acquire();
      for (let round = 0; round < 60; round += 1) {
        globalThis.gc();
        await new Promise((resolve) => setTimeout(resolve, ${pace(10)}));
      }
      console.log(JSON.stringify([lease.valid, await lease.release(), warnings.length]));`);
    assert.deepEqual(held, [true, true, 0]);
  });

  test('a lease whose loss somebody waits for is not dropped', async () => {
    const pace = backend.pace(200);
    const held = await run(`
      let loss;
      await (async () => {
        const lease = await new Client(url).lock('watched', { ttl: ${pace(200)} }).acquire();
        lease.signal.addEventListener('abort', () => { loss = 'told'; });
        setTimeout(() => lease.autoRenew(false), ${pace(700)});
      })();
      await new Promise((resolve) => setTimeout(resolve, ${pace(750)}));
      await collected(() => loss);
      console.log(JSON.stringify([loss, warnings.length]));`);
    assert.deepEqual(held, ['told', 0]);
  });

  test('what was released leaves no warning', async () => {
    const warnings = await run(`
      const client = new Client(url);
      let left = 200;
      const registry = new FinalizationRegistry(() => { left -= 1; });
      for (let number = 0; number < 200; number += 1) {
        const lease = await client.lock('many ' + number).acquire();
        registry.register(lease, number);
        await lease.release();
      }
      await collected(() => left < 10);
      console.log(JSON.stringify(warnings));`);
    assert.deepEqual(warnings, []);
  });
});
