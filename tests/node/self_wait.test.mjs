// Rule 16: a body that waits for its own key is warned at once.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { runProgram } from './backends.mjs';

describe('a body that waits for its own key', () => {
  /** What the warnings of a program say. */
  async function warnings(body, env = { NODE_ENV: 'test' }) {
    const program = `
      const said = [];
      process.on('warning', (warning) => said.push([warning.name, warning.code, /"(.*?)"/.exec(warning.message)?.[1]].join(' ')));
      const client = new Client('memory:');
      const failing = (promise) => promise.then(() => { throw new Error('it did not fail'); }, () => {});
      ${body}
      await new Promise(setImmediate);
      console.log(JSON.stringify(said));`;
    const { code, stdout, stderr } = await runProgram('', program, { env, flags: ['--no-warnings'] });
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout);
  }

  test('r16_it_is_warned_once', async () => {
    const said = await warnings(`
      await client.withLock('k', async () => {
        await new Promise(setImmediate);
        await failing(client.withLock('k', { wait: 20 }, () => {}));
        await failing(client.lock('k').acquire({ wait: 20 }));
      });`);
    assert.deepEqual(said, ['LockWarning DLOCK_NESTED k']);
  });

  test('r16_the_warning_says_what_is_wrong', async () => {
    const messages = await warnings(`
      process.on('warning', ({ message }) => said.push(message));
      await client.withLock('k', () => failing(client.lock('k', { wait: 20 }).acquire()));`);
    assert.deepEqual(messages, ['LockWarning DLOCK_NESTED k', 'deadlock: code inside withLock("k") is waiting to acquire "k" again']);
  });

  test('r16_also_through_a_body_of_another_key', async () => {
    const said = await warnings(`
      await client.withLock('outer', () => client.withLock('inner', () => failing(client.lock('outer', { wait: 20 }).acquire())));`);
    assert.deepEqual(said, ['LockWarning DLOCK_NESTED outer']);
  });

  test('nobody is warned who does not wait for oneself', async () => {
    const said = await warnings(`
      const other = new Client('memory:');
      let late;
      await client.withLock('k', async (lease) => {
        await client.withLock('another', () => {});
        await other.withLock('k', () => {});
        await client.lock('k').tryAcquire();
        await failing(client.lock('k', { wait: 0 }).acquire());
        late = new Promise((resolve) => setTimeout(resolve, 20)).then(() => client.withLock('k', () => {}));
      });
      await late;
      await client.withLock('k', async (lease) => {
        await lease.release();
        await client.withLock('k', () => {});
      });
      await Promise.all([client.withLock('k', () => {}), client.withLock('k', () => {})]);`);
    assert.deepEqual(said, []);
  });

  test('r17_what_bodies_leave_behind_does_not_keep_them', async () => {
    const said = await warnings(
      `
      const ended = [];
      const chain = (number) => client.withLock('k' + number % 2, async (lease) => {
        ended.push(new WeakRef(lease));
        // Each goes on in the context of the one before, which ends meanwhile.
        return { next: number < 200 ? new Promise(setImmediate).then(() => chain(number + 1)) : count() };
      });
      const count = async () => {
        await new Promise((resolve) => setTimeout(resolve, 20));
        gc();
        const kept = ended.filter((lease) => lease.deref() !== undefined).length;
        said.push(kept < 10 || kept);
      };
      for (let link = await chain(0); link !== undefined;) link = await link.next;`,
      { NODE_ENV: 'test', NODE_OPTIONS: '--expose-gc' },
    );
    assert.deepEqual(said, [true]);
  });

  test('in production it is warned only where that costs nothing', async () => {
    const body = `await client.withLock('k', () => failing(client.lock('k').acquire({ wait: 20 })));`;
    const cheap = Number.parseInt(process.versions.node, 10) >= 24;
    assert.deepEqual(await warnings(body, { NODE_ENV: 'production' }), cheap ? ['LockWarning DLOCK_NESTED k'] : []);
  });
});
