// Rule 2: a loss is told.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { LockLost } from '../../bindings/node/index.mjs';
import { eventually, failure, onBackends, spin } from './backends.mjs';

onBackends('a loss', (backend) => {
  const pace = backend.pace(150);
  const shortLived = { ttl: pace(150), renew: false };

  test('r02_a_loss_aborts_the_signal_and_ends_in_lock_lost', async () => {
    const client = backend.client();
    let aborted;
    const error = await failure(
      client.withLock('loss', shortLived, async (lease) => {
        await new Promise((resolve) => lease.signal.addEventListener('abort', resolve));
        aborted = lease.signal.reason;
        assert.deepEqual([lease.valid, lease.lost, lease.status], [false, true, 'lost']);
      }),
    );
    assert.ok(error instanceof LockLost);
    assert.equal(error, aborted);
    assert.deepEqual([error.code, error.key, error.reason, typeof error.token], ['LOCK_LOST', 'loss', 'expired', 'number']);
  });

  test('r02_a_body_that_passed_the_signal_on_ends_in_lock_lost', async () => {
    const error = await failure(
      backend.client().withLock('passed on', shortLived, (lease) => delay(10_000, undefined, { signal: lease.signal })),
    );
    assert.ok(error instanceof LockLost);
  });

  test('r02_a_body_that_never_looked_ends_in_lock_lost', async () => {
    const error = await failure(
      backend.client().withLock('never looked', shortLived, () => {
        spin(pace(200));
      }),
    );
    assert.ok(error instanceof LockLost);
  });

  test('r02_the_body’s_own_error_wins_over_the_loss', async () => {
    const mine = new Error('mine');
    const error = await failure(
      backend.client().withLock('own error', shortLived, async (lease) => {
        await lease.waitLost();
        throw mine;
      }),
    );
    assert.equal(error, mine);
  });

  test('r01_valid_is_a_reading_of_the_clock', async () => {
    const lease = await backend.client().lock('clock', shortLived).acquire();
    spin(pace(200));
    // No turn of the event loop since: nobody can have told.
    assert.deepEqual([lease.valid, lease.remaining, lease.status, lease.signal.aborted], [false, 0, 'lost', true]);
    assert.throws(() => lease.check(), LockLost);
    assert.equal(await lease.release(), false);
    assert.equal(lease.status, 'lost');
  });

  test('r02_a_grant_that_ran_out_before_it_was_delivered_is_not_delivered', async () => {
    const client = backend.client();
    const lock = client.lock('too late', shortLived);
    const held = await backend.client().lock('too late').acquire();
    const acquiring = lock.acquire();
    await eventually(() => client.stats().waiting === 1, 'it waits');
    const release = held.release();
    spin(pace(400));
    assert.equal(await release, true);
    assert.ok((await failure(acquiring)) instanceof LockLost);
    const again = await lock.acquire({ wait: pace(1_000) });
    assert.equal(await again.release(), true);
  });

  test('r02_a_forced_release_is_told_at_the_next_renewal', async () => {
    const client = backend.client();
    const lease = await client.lock('forced', { ttl: backend.pace(600)(600) }).acquire();
    assert.equal(await backend.client().forceRelease('forced', lease.token), true);
    assert.equal(await lease.waitLost(), 'gone');
    assert.equal(await lease.waitLost(), 'gone', 'who asks later is told the same');
    const { aborted, reason } = lease.signal;
    assert.deepEqual([aborted, reason.name, reason.reason], [true, 'LockLost', 'gone']);
    assert.equal(await backend.client().forceRelease('forced', lease.token), false);
  });

  test('r12_max_hold_ends_a_lease', async () => {
    const slower = backend.pace(300);
    const lease = await backend.client().lock('max hold', { ttl: slower(300), maxHold: slower(400) }).acquire();
    assert.equal(await lease.waitLost(), 'max_hold');
  });
});
