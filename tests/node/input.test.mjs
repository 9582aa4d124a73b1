// Rule 15: bad input fails before any I/O, and says what is allowed.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { BackendUnavailable, Client, InvalidOptions, LockError, connect } from '../../bindings/node/index.mjs';
import { freePort } from '../services/server-process.mjs';
import { failure } from './backends.mjs';

/** What a call that must throw, or promise to fail, fails with. */
async function refusal(call) {
  return failure((async () => call())());
}

describe('bad input', () => {
  const client = new Client('memory:');
  const lock = client.lock('k');

  const cases = {
    key: [
      ['an empty key', () => client.lock('')],
      ['a key with control characters', () => client.lock('a\nb')],
      ['a key of 513 bytes', () => client.lock('x'.repeat(513))],
      ['a key that is a number', () => client.lock(7)],
      ['no key', () => client.lock()],
      ['an object', () => client.lock({ id: 7 })],
      ['a String object', () => client.lock(new String('k'))],
      ['what an object turns into', () => client.lock(`order:${{ id: 7 }}`)],
      ['what a promise turns into', () => client.lock(`order:${Promise.resolve(7)}`)],
      ['what an object turns into, of withLock', () => client.withLock(`order:${{ id: 7 }}`, () => {})],
      ["an object's address", () => client.lock('<Order object at 0x7f3a5c0d1e50>')],
      ['a lone surrogate', () => client.lock('\ud800')],
      ['an empty key of withLock', () => client.withLock('', () => {})],
      ['an empty key of inspect', () => client.inspect('')],
    ],
    ttl: [
      ['seconds for milliseconds', () => client.lock('k', { ttl: 30 })],
      ['nothing', () => client.lock('k', { ttl: 0 })],
      ['a negative number', () => client.lock('k', { ttl: -1 })],
      ['NaN', () => client.lock('k', { ttl: NaN })],
      ['infinity', () => client.lock('k', { ttl: Infinity })],
      ['more than a day', () => client.lock('k', { ttl: 86_400_001 })],
      ['null', () => client.lock('k', { ttl: null })],
      ['text', () => client.lock('k', { ttl: '30s' })],
      ['a bigint', () => client.lock('k', { ttl: 30_000n })],
    ],
    wait: [
      ['a negative number', () => client.lock('k', { wait: -1 })],
      ['infinity', () => lock.acquire({ wait: Infinity })],
      ['text', () => lock.acquire({ wait: '5' })],
    ],
    renew: [['a number', () => client.lock('k', { renew: 1 })]],
    renewalThreshold: [['all of it', () => client.lock('k', { renewalThreshold: 1 })]],
    fair: [['text', () => client.lock('k', { fair: 'yes' })]],
    maxHold: [['nothing', () => client.lock('k', { maxHold: 0 })]],
    metadata: [
      ['an object', () => client.lock('k', { metadata: {} })],
      ['too much', () => client.lock('k', { metadata: 'x'.repeat(4097) })],
    ],
    opTimeout: [
      ['nothing, of a lock', () => client.lock('k', { opTimeout: 0 })],
      ['nothing, of a client', () => new Client('memory:', { opTimeout: 0 })],
    ],
    connectTimeout: [['NaN', () => new Client('memory:', { connectTimeout: NaN })]],
    namespace: [
      ['a slash', () => new Client('memory:', { namespace: 'n/x' })],
      ['control characters', () => new Client('memory:', { namespace: '\0' })],
      ['a lone surrogate', () => new Client('memory:', { namespace: '\ud800' })],
    ],
    holder: [
      ['nothing', () => client.forceRelease('k')],
      ['a fraction', () => client.forceRelease('k', 1.5)],
      ['a negative number', () => client.forceRelease('k', -1)],
      ['NaN', () => client.forceRelease('k', NaN)],
      ['a holder', () => client.forceRelease('k', { token: 1 })],
    ],
    prefix: [['a number', () => client.listLocks(5)]],
    signal: [['no signal', () => lock.acquire({ signal: {} })]],
    options: [
      ['a number', () => client.lock('k', 30_000)],
      ['null', () => client.lock('k', null)],
    ],
    timeToLive: [['an unknown name', () => client.lock('k', { timeToLive: 5 })]],
    toString: [['an unknown name that every object has', () => client.lock('k', { toString: 5 })]],
    url: [
      ['an unknown scheme', () => new Client('mysql://localhost')],
      ['no URL', () => new Client('here')],
      ['a number', () => new Client(6379)],
      ['an empty URL', () => new Client('')],
      ['a certificate that is not there', () => new Client('rediss://host?ca=/none')],
      ['sentinels without a service', () => new Client('redis+sentinel://h1,h2')],
      ['a port that does not exist', () => new Client('redis://host:99999')],
    ],
    fn: [
      ['nothing', () => lock.withLock()],
      ['nothing, of a client', () => client.withLock('k', { ttl: 5_000 })],
    ],
    timeout: [['a negative number', () => new Client('memory:').close(-1)]],
  };

  for (const [field, calls] of Object.entries(cases)) {
    for (const [what, call] of calls) {
      test(`r15_${field}: ${what}`, async () => {
        const error = await refusal(call);
        assert.ok(error instanceof InvalidOptions && error instanceof LockError, String(error));
        assert.deepEqual([error.name, error.code, error.field], ['InvalidOptions', 'INVALID_OPTIONS', field]);
        assert.ok(error.value && error.allowed && error.message.startsWith(`${field}: ${error.value} is not valid: `), error.message);
      });
    }
  }

  test('r15_a_ttl_in_seconds_is_pointed_out', () => {
    assert.throws(() => client.lock('k', { ttl: 30 }), /30 is in ms; did you mean 30000\?/);
  });

  test('null and undefined stand for the default', async () => {
    const lease = await client.lock('defaults', { ttl: undefined, wait: null, metadata: null }).acquire();
    assert.equal(lease.ttl, 30_000);
    await lease.release();
  });

  test('r18_passwords_are_not_shown', async () => {
    const refused = ['mysql://user:secret@host', 'redis://user:secret@host:port', 'redis://:secret@host/?nonsense=1'];
    for (const url of [...refused, 'redis://user:12?secret@host', 'redis://:secret\ud800@host']) {
      const error = await refusal(() => new Client(url));
      assert.doesNotMatch(`${error.message} ${error.value} ${error.stack}`, /secret/);
    }
  });

  test('URLs of every kind reach the engine', async () => {
    const urls = {
      'redis+sentinel://127.0.0.1:1,127.0.0.1:2/shop/3': 'redis+sentinel://:secret@127.0.0.1:1,127.0.0.1:2/shop/3?sentinel_password=secret',
      'rediss://127.0.0.1:1/2': 'rediss://:secret@127.0.0.1:1/2?client_name=job',
      'redis+unix:///nowhere': 'redis+unix:///nowhere?pass=secret&client_name=job',
      'etcds://127.0.0.1:1,127.0.0.1:2': 'etcds://me:secret@127.0.0.1:1,127.0.0.1:2',
    };
    for (const [server, url] of Object.entries(urls)) {
      const error = await failure(connect(url, { connectTimeout: 300 }));
      assert.ok(error instanceof BackendUnavailable, String(error));
      assert.equal(error.server, server);
      assert.doesNotMatch(error.message, /secret/);
    }
  });

  test('r16_an_unreachable_server_is_told_within_connect_timeout', async () => {
    const port = await freePort();
    const started = performance.now();
    const error = await failure(connect(`redis://:secret@127.0.0.1:${port}`, { connectTimeout: 500 }));
    assert.ok(performance.now() - started < 2_000);
    assert.ok(error instanceof BackendUnavailable, String(error));
    assert.deepEqual([error.code, error.operation], ['BACKEND_UNAVAILABLE', 'connect']);
    assert.match(error.server, new RegExp(`127\\.0\\.0\\.1:${port}`));
    assert.doesNotMatch(`${error.message} ${error.server}`, /secret/);
    assert.ok(error.cause instanceof Error);
    const waiting = new Client(`redis://127.0.0.1:${port}`, { connectTimeout: 300 }).lock('k').acquire();
    assert.equal((await failure(waiting)).key, 'k');
  });
});
