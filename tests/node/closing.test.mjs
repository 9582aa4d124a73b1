// Rule 14: while a client closes, bodies that hold a lease of it, and what they started, may acquire more; everybody else is refused.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { runProgram } from './backends.mjs';

const since24 = Number.parseInt(process.versions.node, 10) >= 24;

describe('while a client closes', () => {
  /** Runs a program and returns what it prints. In tests a body is known on every version of Node, in production from 24 on. */
  async function said(body, env = { NODE_ENV: 'test' }) {
    const program = `
      const client = new Client('memory:drained');
      const other = new Client('memory:drained');
      const codeOf = (promise) => promise.then(() => 'got it', (error) => error.code);
      const queued = async (key) => { while ((await other.inspect(key)).queue.length === 0) await new Promise(setImmediate); };
      let entered;
      const hasEntered = new Promise((resolve) => { entered = resolve; });
      let goOn;
      const mayGoOn = new Promise((resolve) => { goOn = resolve; });
      ${body}`;
    const { code, stdout, stderr } = await runProgram('', program, { env, flags: ['--no-warnings'] });
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout);
  }

  const transfer = `
      const work = client.withLock('a', async (first) => {
        entered();
        await mayGoOn;
        return client.withLock('b', async (second) => {
          const third = await client.lock('c').acquire();
          const fourth = await client.lock('d').tryAcquire();
          const started = Promise.resolve().then(() => client.withLock('e', (fifth) => fifth.valid));
          const valid = [first, second, third, fourth].every((lease) => lease.valid) && (await started);
          await third.release();
          await fourth.release();
          return valid;
        });
      });
      await hasEntered;
      const closed = client.close(30_000);`;

  test('r14_a_body_acquires_more_and_nobody_else_does', async () => {
    const [outside, tried, asked, inside, after] = await said(`${transfer}
      const outside = await codeOf(client.withLock('b', () => {}));
      const tried = await codeOf(client.lock('b').tryAcquire());
      const asked = await codeOf(client.isLocked('b'));
      goOn();
      const inside = await codeOf(work.then((valid) => { if (!valid) throw new Error('invalid'); }));
      await closed;
      console.log(JSON.stringify([outside, tried, asked, inside, await codeOf(client.lock('a').acquire())]));`);
    assert.deepEqual([outside, tried, asked, inside, after], ['CLIENT_CLOSED', 'CLIENT_CLOSED', 'CLIENT_CLOSED', 'got it', 'CLIENT_CLOSED']);
  });

  test('r14_where_nobody_can_know_the_caller_any_acquire_is_admitted_while_a_lease_is_held', async () => {
    const [outside, inside, after] = await said(
      `${transfer}
      const outside = await codeOf(client.withLock('b', () => {}));
      goOn();
      const inside = await codeOf(work.then((valid) => { if (!valid) throw new Error('invalid'); }));
      await closed;
      console.log(JSON.stringify([outside, inside, await codeOf(client.lock('a').acquire())]));`,
      { NODE_ENV: 'production' },
    );
    assert.deepEqual([outside, inside, after], [since24 ? 'CLIENT_CLOSED' : 'got it', 'got it', 'CLIENT_CLOSED']);
  });

  for (const NODE_ENV of ['test', 'production']) {
    test(`r14_who_acquired_outside_of_a_body_acquires_more_${NODE_ENV}`, async () => {
      const codes = await said(
        `
        const lease = await client.lock('a').acquire();
        const closed = client.close(30_000);
        const codes = [await codeOf(client.lock('b').acquire().then((more) => more.release()))];
        await lease.release();
        await closed;
        console.log(JSON.stringify([...codes, await codeOf(client.lock('b').acquire())]));`,
        { NODE_ENV },
      );
      assert.deepEqual(codes, ['got it', 'CLIENT_CLOSED']);
    });
  }

  test('r14_a_body_goes_on_waiting_for_what_it_has_asked_for', async () => {
    const codes = await said(`
      const foreign = await other.lock('b').acquire();
      const outsider = codeOf(client.withLock('b', () => {}));
      await queued('b');
      const holder = codeOf(client.withLock('a', () => { entered(); return client.withLock('b', () => {}); }));
      await hasEntered;
      const closed = client.close(30_000);
      const codes = [await outsider];
      await foreign.release();
      codes.push(await holder);
      await closed;
      console.log(JSON.stringify(codes));`);
    assert.deepEqual(codes, ['CLIENT_CLOSED', 'got it']);
  });

  test('r14_at_the_deadline_who_still_waits_is_refused', async () => {
    const codes = await said(`
      const foreign = await other.lock('b').acquire();
      const holder = codeOf(client.withLock('a', () => client.withLock('b', () => {})));
      await queued('b');
      await client.close(200);
      const codes = [await holder];
      await foreign.release();
      console.log(JSON.stringify([...codes, (await other.inspect('b')).queue.length]));`);
    assert.deepEqual(codes, ['CLIENT_CLOSED', 0]);
  });
});
