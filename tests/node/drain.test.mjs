// Rule 4: user code that runs while outcomes are delivered (listeners of `lease.signal`, observers) strands none of them. Each is told or released.

import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { createRequire } from 'node:module';
import { describe, test } from 'node:test';
import { Client, LockLost } from '../../bindings/node/index.mjs';
import { dlock, eventually, failure, onBackends, runProgram, spin } from './backends.mjs';

const { Bridge } = createRequire(import.meta.url)('../../bindings/node/native.node');

/** What aborts an acquire in the same drain in which its grant comes: how to get the signal, and what the acquire ends in. */
const aborters = {
  'the signal of an outer lease': (client, outer) => ({ signal: outer.signal, off: () => {} }),
  'a listener of a signal': (client, outer) => {
    const stop = new AbortController();
    outer.signal.addEventListener('abort', () => stop.abort(outer.signal.reason));
    return { signal: stop.signal, off: () => {} };
  },
  'an observer': (client) => {
    const stop = new AbortController();
    return { signal: stop.signal, off: client.on('lost', () => stop.abort(new Error('all over'))) };
  },
};

onBackends('a drain', (backend) => {
  for (const [name, aborter] of Object.entries(aborters)) {
    test(`r04_a_grant_whose_acquire_is_aborted_in_its_own_drain_is_released: ${name}`, async () => {
      const [client, other] = [backend.client(), backend.client()];
      const key = `drained ${name}`;
      // The engine ends both leases by itself, one after the other, while the event loop is busy.
      await other.lock(key, { maxHold: 700 }).acquire();
      const outer = await client.lock(`outer ${name}`, { maxHold: 300 }).acquire();
      const { signal, off } = aborter(client, outer);
      const inner = client.lock(key).acquire({ signal });
      await eventually(async () => client.stats().waiting === 1, 'the acquire waits');
      const told = failure(inner);
      spin(1_100);
      const reason = await told;
      assert.ok(reason instanceof LockLost || reason.message === 'all over', reason.stack);
      await eventually(async () => !(await other.isLocked(key)), 'the grant that nobody got is released');
      assert.equal(client.stats().held, 0);
      off();
      await Promise.all([client.close(), other.close()]);
    });
  }

  test('r04_what_a_listener_or_an_observer_throws_strands_nobody', async () => {
    const { code, stdout, stderr } = await runProgram(
      backend.url,
      `const uncaught = [];
      process.on('uncaughtException', (error) => uncaught.push(error.message));
      process.emitWarning = () => { throw new Error('a warning that cannot be given'); };
      const client = new Client(url);
      const outer = await client.lock('outer', { maxHold: 100 }).acquire();
      outer.signal.addEventListener('abort', () => { throw new Error('a listener'); });
      client.on('acquired', () => { throw new Error('an observer'); });
      const acquiring = Array.from({ length: 20 }, (_, number) => client.lock('inner ' + number).acquire());
      const until = performance.now() + 500;
      while (performance.now() < until);
      const leases = await Promise.all(acquiring);
      console.log(leases.every((lease) => lease.valid), outer.signal.aborted);
      await Promise.all(leases.map((lease) => lease.release()));
      console.log((await client.listLocks('inner')).length, client.stats().held);
      await new Promise(setImmediate);
      console.log([...new Set(uncaught)].sort().join());
      process.exit();`,
    );
    assert.deepEqual([code, stdout, stderr], [0, 'true true\n0 0\na listener,a warning that cannot be given\n', '']);
  });
});

describe('a drain', () => {
  test('r04_an_outcome_that_cannot_be_told_ends_only_itself_and_its_grant_is_released', async (t) => {
    const [client, other] = [new Client('memory:drain one fails'), new Client('memory:drain one fails')];
    await other.lock('warm').withLock(() => {});
    const { owner } = Bridge.prototype;
    t.after(() => (Bridge.prototype.owner = owner));
    // The first lease of a client asks for its identity.
    Bridge.prototype.owner = () => {
      Bridge.prototype.owner = owner;
      throw new Error('no owner');
    };
    const [first, second, third] = await Promise.allSettled([client, other, client].map((each, number) => each.lock(`k ${number}`).acquire()));
    assert.equal(first.reason?.message, 'no owner');
    assert.deepEqual([second.status, third.status], ['fulfilled', 'fulfilled']);
    await eventually(async () => !(await client.isLocked('k 0')), 'the grant that could not be told is released');
    await Promise.all([second.value.release(), third.value.release()]);
    await Promise.all([client.close(), other.close()]);
  });

  test('r04_a_signal_that_cannot_be_listened_to_leaves_nothing_behind', async () => {
    const client = new Client('memory:drain bad signal');
    const broken = {
      aborted: false,
      addEventListener() {
        throw new Error('cannot listen');
      },
    };
    assert.equal((await failure(client.lock('k').acquire({ signal: broken }))).message, 'cannot listen');
    const deaf = { aborted: false, addEventListener() {}, removeEventListener: () => assert.fail('cannot stop to listen') };
    assert.match((await failure(client.lock('k').acquire({ signal: deaf }))).message, /cannot stop/);
    await client.lock('k').withLock(() => {});
    await client.close();
  });

  test('r14_the_end_of_a_worker_in_the_middle_of_a_drain_releases_what_was_not_delivered', async () => {
    const { code, stdout, stderr } = await runProgram(
      'memory:drain of a worker',
      `const { Worker } = await import('node:worker_threads');
      const { once } = await import('node:events');
      const client = new Client(url);
      // More than one drain takes at once. The first of them ends the worker.
      const source = \`import('${dlock}').then(({ Client }) => {
        const client = new Client('memory:drain of a worker');
        client.on('acquired', () => process.exit());
        globalThis.kept = Array.from({ length: 3_000 }, (_, number) => client.lock('k ' + number).acquire());
        const until = performance.now() + 500;
        while (performance.now() < until);
      });\`;
      await once(new Worker(source, { eval: true }), 'exit');
      const deadline = performance.now() + 3_000;
      let left;
      do left = (await client.listLocks()).length;
      while (left > 0 && performance.now() < deadline);
      console.log(client.stats().backendCalls.list.calls > 0, left);
      process.exit();`,
    );
    assert.deepEqual([code, stdout, stderr], [0, 'true 0\n', '']);
  });

  test('works where the globals are not those of Node', async () => {
    // As jsdom, Electron's renderer and fake clocks have them.
    const replaced = `
      let number = 0;
      for (const name of ['setTimeout', 'setInterval', 'setImmediate', 'clearTimeout', 'clearInterval', 'queueMicrotask']) globalThis[name] = () => number++;
      globalThis.AbortController = class { signal = {}; abort() { throw new Error('not a signal of ours'); } };`;
    for (const [flags, first] of [[['--import', `data:text/javascript,${encodeURIComponent(replaced)}`], ''], [[], replaced]]) {
      const { code, stdout, stderr } = await runProgram(
        'memory:drain globals',
        `${first}
        const client = new Client(url);
        const short = await client.lock('short', { maxHold: 100, maxStall: 10_000 }).acquire();
        const long = await client.lock('long').acquire({ signal: short.signal });
        console.log(await short.waitLost(), short.signal.aborted, short.signal.reason.name, await long.release());
        await client.withLock('body', async (lease) => console.log(lease.valid));
        process.exit();`,
        { flags },
      );
      assert.deepEqual([code, stdout, stderr], [0, 'max_hold true LockLost true\ntrue\n', '']);
    }
  });
});

describe('one signal', () => {
  test('has one listener of ours however many waits it ends, and none when nobody waits', async () => {
    const client = new Client('memory:one signal');
    const { signal } = new AbortController();
    const held = await client.lock('k').acquire();
    const waits = Array.from({ length: 12 }, () => client.lock('k').acquire({ signal }).then((lease) => lease.release()));
    assert.equal(getEventListeners(signal, 'abort').length, 1);
    await held.release();
    await Promise.all(waits);
    assert.equal(getEventListeners(signal, 'abort').length, 0);
    await client.close();
  });

  test('ends all waits, each with its reason', async () => {
    const client = new Client('memory:one signal ends');
    const stop = new AbortController();
    const held = await client.lock('k').acquire();
    const waits = Array.from({ length: 50 }, () => failure(client.lock('k').acquire({ signal: stop.signal })));
    await eventually(async () => client.stats().waiting === 50, 'all wait');
    stop.abort('over');
    assert.deepEqual(new Set(await Promise.all(waits)), new Set(['over']));
    assert.equal(getEventListeners(stop.signal, 'abort').length, 0);
    await held.release();
    await client.lock('k').withLock(() => {});
    await client.close();
  });

  test('of a lease may have many listeners without a warning', async () => {
    const { code, stderr } = await runProgram(
      'memory:',
      `const lease = await new Client(url).lock('k').acquire();
      for (let number = 0; number < 50; number += 1) lease.signal.addEventListener('abort', () => {});
      await new Promise(setImmediate);
      process.exit();`,
    );
    assert.deepEqual([code, stderr], [0, '']);
  });
});
