// The backends that every test of this folder runs on, and what the tests have in common.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Client } from '../../bindings/node/index.mjs';
import { EtcdServer } from '../services/etcd-server.mjs';
import { RedisServer } from '../services/redis-server.mjs';

/** The module's address, for programs that tests run. */
export const dlock = pathToFileURL(fileURLToPath(new URL('../../bindings/node/index.mjs', import.meta.url))).href;

/** Each starts what it needs and says its URL, and how to end it. */
const starters = {
  memory: async () => ({ url: `memory:node-${process.pid}`, stop: async () => {} }),
  local: async () => {
    const folder = await mkdtemp(join(tmpdir(), 'dlock-node-'));
    return { url: `local://${folder}`, stop: () => rm(folder, { recursive: true, force: true }) };
  },
  redis: async () => {
    const server = await RedisServer.start();
    return { url: server.url, stop: () => server.stop() };
  },
  etcd: async () => {
    const server = await EtcdServer.start();
    return { url: server.url, stop: () => server.stop() };
  },
};

/** The shortest TTL where there is one. */
const floors = { etcd: 2_000 };

/** Backends that other processes see. */
export const shared = Object.keys(starters).filter((name) => name !== 'memory');

/** Runs the tests that `define(backend)` makes once for each of the backends; `backend.url` is there when they run. */
export function onBackends(title, define, names = Object.keys(starters)) {
  for (const name of names) {
    describe(`${title} on ${name}`, { timeout: 40_000 }, () => {
      const backend = {
        name,
        url: '',
        client: (options) => new Client(backend.url, options),
        /** For a test whose shortest TTL is this: makes its times as many times longer as the backend's shortest TTL takes. */
        pace: (shortest) => (ms) => Math.ceil(ms * Math.max(1, (floors[name] ?? 0) / shortest)),
      };
      let running;
      before(async () => {
        running = await starters[name]();
        backend.url = running.url;
      });
      after(() => running?.stop());
      define(backend);
    });
  }
}

/** Waits until `test` says yes; fails when it has not after `within` ms. */
export async function eventually(test, what, within = 5_000) {
  const deadline = performance.now() + within;
  for (;;) {
    const answer = await test();
    if (answer) return answer;
    assert.ok(performance.now() < deadline, `not within ${within} ms: ${what}`);
    await delay(5);
  }
}

/** Keeps the event loop from running. */
export function spin(ms) {
  const until = performance.now() + ms;
  while (performance.now() < until);
}

/** Runs a program, an ES module with `url` and the names of the package, in a process of its own. */
export function runProgram(url, body, { flags = [], env = {}, within = 20_000 } = {}) {
  const program = `import * as dlock from ${JSON.stringify(dlock)};\nconst { Client } = dlock;\nconst url = ${JSON.stringify(url)};\n${body}`;
  const words = [...flags, '--input-type=module', '--eval', program];
  return new Promise((resolve) => {
    const started = performance.now();
    const settings = { env: { ...process.env, ...env }, timeout: within, killSignal: 'SIGKILL' };
    execFile(process.execPath, words, settings, (error, stdout, stderr) => {
      resolve({ code: error ? (error.code ?? error.signal) : 0, stdout, stderr, took: performance.now() - started });
    });
  });
}

/** What a promise that must fail fails with. */
export async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  return assert.fail('it did not fail');
}
