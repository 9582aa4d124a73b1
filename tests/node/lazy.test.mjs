// A generator's body runs when its values are used: with `withLock` that would be after the key was released. It is refused.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Client, InvalidOptions, configure, withLock } from '../../bindings/node/index.mjs';
import { failure } from './backends.mjs';

configure('memory:lazy of the module');

const ran = [];
function* rows() {
  ran.push('rows');
  yield 1;
}
async function* asyncRows() {
  ran.push('async rows');
  yield 1;
}

/** What a compiler for older targets makes of a generator. */
function compiled(closed) {
  return { next: () => ({ done: true }), throw: () => {}, return: () => void closed.push('compiled'), [Symbol.iterator]: () => assert.fail('used') };
}

const doors = {
  'client.withLock': (client) => (fn) => client.withLock('k', fn),
  'client.withLock with options': (client) => (fn) => client.withLock('k', { ttl: 5_000 }, fn),
  'lock.withLock': (client) => (fn) => client.lock('k').withLock(fn),
  'a reentrant lock': (client) => (fn) => client.lock('k', { reentrant: true }).withLock(fn),
  'the module': () => (fn) => withLock('k', fn),
};

describe('withLock', () => {
  for (const [name, door] of Object.entries(doors)) {
    test(`refuses a body that is a generator, or returns one, and releases the key: ${name}`, async () => {
      const client = new Client('memory:');
      const run = door(client);
      const closed = [];
      const bodies = [
        rows,
        asyncRows,
        () => rows(),
        () => asyncRows(),
        async () => rows(),
        async () => asyncRows(),
        (lease) => (lease.valid ? rows() : undefined),
        () => compiled(closed),
      ];
      for (const body of bodies) {
        const error = await failure(run(body));
        assert.ok(error instanceof InvalidOptions, error.stack);
        assert.deepEqual([error.field, error.code], ['fn', 'INVALID_OPTIONS']);
        assert.match(error.message, /finished result.*inside the function/);
        assert.equal(await run((lease) => lease.valid), true);
      }
      assert.deepEqual([ran, closed], [[], ['compiled']]);
      await client.close();
    });
  }

  test('closes a generator that had begun, while the key is still held', async () => {
    const client = new Client('memory:');
    const seen = [];
    async function* begun(lease) {
      try {
        yield 1;
      } finally {
        seen.push(lease.valid);
        await null;
        throw new Error('closing failed');
      }
    }
    const error = await failure(
      client.withLock('k', async (lease) => {
        const generator = begun(lease);
        await generator.next();
        return generator;
      }),
    );
    assert.deepEqual([error.name, error.cause.message, seen], ['InvalidOptions', 'closing failed', [true]]);
    assert.equal(await client.isLocked('k'), false);
    await client.close();
  });

  test('takes every other result as it is', async () => {
    const client = new Client('memory:');
    for (const result of [[1], new Map(), null, undefined, { next: 1 }, [1, 2].values(), 'text', () => {}]) {
      assert.equal(await client.withLock('k', () => result), result);
    }
    await client.close();
  });
});
