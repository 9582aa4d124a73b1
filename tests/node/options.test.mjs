// `retry`, `maxStall`, `reentrant` and `renewal`: what of them is Node's own. What they do is in the behaviour suite.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { Client, InvalidOptions, LockLost, NotAcquired, RetriesExhausted } from '../../bindings/node/index.mjs';
import { eventually, failure, onBackends, runProgram, spin } from './backends.mjs';

const memory = (name) => new Client(`memory:options-${name}-${process.pid}`);

describe('bad options', () => {
  const client = memory('bad');
  const refused = {
    retry: [{ retry: 3 }, { retry: 'often' }],
    'retry.times': [{ retry: { times: 3 } }],
    'retry.maxRetries': [{ retry: { maxRetries: -1 } }, { retry: { maxRetries: 0.5 } }, { retry: { maxRetries: '3' } }],
    'retry.delay': [{ retry: { delay: -1 } }, { retry: { delay: 1e9 } }],
    'retry.backoff': [{ retry: { backoff: 0.5 } }, { retry: { backoff: NaN } }],
    'retry.jitter': [{ retry: { jitter: 2 } }],
    maxStall: [{ maxStall: 50 }, { maxStall: '1s' }],
    reentrant: [{ reentrant: 1 }],
  };
  for (const [field, cases] of Object.entries(refused)) {
    test(`r15_${field}_is_named`, async () => {
      for (const options of cases) {
        const error = await failure((async () => client.lock('k', options))());
        assert.ok(error instanceof InvalidOptions, JSON.stringify(options));
        assert.equal(error.field, field);
      }
    });
  }

  test('r15_bad_tuning_is_named', async () => {
    for (const [field, renewal] of [
      ['renewal', 5],
      ['renewal.maxDelay', { maxDelay: 1 }],
      ['renewal.baseDelay', { baseDelay: 0 }],
      ['renewal.callTimeout', { callTimeout: NaN }],
      ['renewal.batch', { batch: 1.5 }],
      ['renewal.workers', { workers: 50 }],
    ]) {
      const error = await failure((async () => new Client('memory:', { renewal }))());
      assert.ok(error instanceof InvalidOptions, field);
      assert.equal(error.field, field);
    }
  });

  test('what is null or undefined stands for the default', async () => {
    const lock = client.lock('defaults', { retry: { delay: null, jitter: undefined }, maxStall: null, reentrant: undefined });
    assert.ok(await (await lock.acquire()).release());
  });
});

onBackends('retries', (backend) => {
  test('r16_used_up_retries_say_how_many_attempts_there_were', async () => {
    const lease = await backend.client().lock('k').acquire();
    const lock = backend.client().lock('k', { retry: { maxRetries: 1, delay: 10 } });
    const error = await failure(lock.acquire());
    assert.ok(error instanceof RetriesExhausted && error instanceof NotAcquired);
    assert.deepEqual([error.code, error.name, error.key, error.attempts], ['RETRIES_EXHAUSTED', 'RetriesExhausted', 'k', 2]);
    assert.equal(error.holder.token, lease.token);
    assert.equal(await lock.tryAcquire(), null, 'which is no retry');
    await lease.release();
  });

  test('a signal gives retries up', async () => {
    const lease = await backend.client().lock('signal').acquire();
    const lock = backend.client().lock('signal', { retry: { maxRetries: 1000, delay: 10_000 } });
    const error = await failure(lock.acquire({ signal: AbortSignal.timeout(30) }));
    assert.equal(error.name, 'TimeoutError');
    await lease.release();
  });
});

onBackends('a loop that stands still', (backend) => {
  test('r12_ends_its_leases_of_all_kinds', async () => {
    const client = backend.client();
    const lease = await client.lock('bare', { maxStall: 300 }).acquire();
    const error = await failure(
      client.withLock('body', { maxStall: 300 }, async (held) => {
        await delay(700);
        assert.ok(held.valid && lease.valid, 'while the loop runs');
        spin(600);
        assert.ok(!held.valid && !lease.valid);
      }),
    );
    assert.ok(error instanceof LockLost);
    assert.equal(error.reason, 'max_stall');
    assert.equal(await lease.waitLost(), 'max_stall');
    await eventually(async () => !(await client.isLocked('bare')), 'the key is free');
  });
});

describe('signs of life', () => {
  test('r14_keep_no_process_alive', async () => {
    const program = `
      await new Client('memory:').lock('k', { maxStall: 1000 }).acquire();
      console.log('taken');`;
    const started = performance.now();
    const { code, stdout } = await runProgram('', program);
    assert.deepEqual([code, stdout.trim()], [0, 'taken']);
    assert.ok(performance.now() - started < 5_000);
  });
});

onBackends('a reentrant lock', (backend) => {
  test('is entered again by what runs in its body, and by nobody else', async () => {
    const client = backend.client();
    const lock = client.lock('k', { reentrant: true });
    await lock.withLock(async (outer) => {
      await lock.withLock(async (inner) => {
        await delay(1);
        assert.equal(inner, outer);
      });
      const lease = await lock.acquire();
      assert.equal(lease, outer);
      assert.equal(await lock.tryAcquire(), outer);
      assert.ok(await lease.release());
      assert.ok(await lease.release());
      assert.deepEqual([outer.valid, outer.status, await client.isLocked('k')], [true, 'held', true]);
      assert.equal(await client.lock('k', { reentrant: true }).tryAcquire(), null, 'another instance');
      assert.equal(await client.lock('k').tryAcquire(), null, 'one that is not reentrant');
    });
    assert.equal(await client.isLocked('k'), false);
  });

  test('keeps out what does not run in its body', async () => {
    const lock = backend.client().lock('others', { reentrant: true });
    let enter;
    let leave;
    const entered = new Promise((resolve) => (enter = resolve));
    const body = lock.withLock(() => {
      enter();
      return new Promise((resolve) => (leave = resolve));
    });
    await entered;
    assert.equal(await lock.tryAcquire(), null);
    leave();
    await body;
    const bare = await lock.acquire();
    assert.equal(await lock.tryAcquire(), null, 'a lease without a body belongs to no context');
    await bare.release();
  });

  test('is not entered by what a body has left behind', async () => {
    const lock = backend.client().lock('behind', { reentrant: true, wait: 5_000 });
    let go;
    let behind;
    const first = await lock.withLock(async (lease) => {
      const later = new Promise((resolve) => (go = resolve));
      behind = later.then(() => lock.withLock((next) => next.token));
      return lease.token;
    });
    go();
    assert.ok((await behind) > first);
  });

  test('r05_an_entry_that_outlives_its_body_holds_the_key_until_it_is_released', async () => {
    const client = backend.client();
    const lock = client.lock('outlives', { reentrant: true });
    const lease = await lock.withLock(() => lock.acquire());
    assert.deepEqual([lease.valid, await client.isLocked('outlives')], [true, true]);
    assert.ok(await lease.release());
    assert.equal(lease.status, 'released');
    assert.equal(await client.isLocked('outlives'), false);
  });

  test('r02_a_loss_ends_all_bodies', async () => {
    const lock = backend.client().lock('loss', { reentrant: true, maxHold: 150 });
    const seen = [];
    const error = await failure(
      lock.withLock(async () => {
        seen.push(await failure(lock.withLock((lease) => lease.waitLost())));
        throw seen[0];
      }),
    );
    assert.ok(error instanceof LockLost);
    assert.deepEqual(seen, [error]);
  });
});

describe('asking whose context it is', () => {
  test('is paid for by reentrant locks alone', async () => {
    const counting = `
      import hooks from 'node:async_hooks';
      const { AsyncLocalStorage } = hooks;
      globalThis.made = 0;
      hooks.AsyncLocalStorage = class extends AsyncLocalStorage { constructor() { super(); globalThis.made += 1; } };`;
    const program = `
      const client = new Client('memory:');
      const before = globalThis.made;
      await client.withLock('k', { retry: {} }, () => {});
      const without = globalThis.made - before;
      await client.lock('k', { reentrant: true }).withLock(() => {});
      console.log(without, globalThis.made - before);`;
    const flags = ['--import', `data:text/javascript,${encodeURIComponent(counting)}`];
    const { code, stdout, stderr } = await runProgram('', program, { flags });
    assert.equal(code, 0, stderr);
    assert.equal(stdout.trim(), '0 1');
  });
});
