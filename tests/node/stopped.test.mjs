// Rule 4: an engine whose thread ends under a program leaves nobody waiting, and the next call starts another.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { onBackends, runProgram } from './backends.mjs';

/** Closes the descriptors that the engine polls, and says what came of every call. */
const program = `
  const { closeSync, readdirSync, readlinkSync } = await import('node:fs');

  const pollers = () =>
    readdirSync('/proc/self/fd').filter((fd) => {
      try {
        return readlinkSync('/proc/self/fd/' + fd) === 'anon_inode:[eventpoll]';
      } catch {
        return false; // that of the listing itself
      }
    });
  const own = new Set(pollers());
  const told = {};
  const ask = async (name, call) => {
    told[name] = await call.then((value) => (typeof value === 'boolean' ? value : 'done'), (error) => error.code);
  };

  const client = new Client(url);
  const held = await client.lock('held').acquire();
  const waiters = [0, 1, 2].map((number) => ask('waiter ' + number, client.lock('held', { wait: null }).acquire()));
  while (client.stats().waiting < 3) await new Promise(setImmediate);
  const lost = new Promise((resolve) => held.signal.addEventListener('abort', () => resolve(held.signal.reason.code)));
  for (const fd of pollers()) if (!own.has(fd)) closeSync(Number(fd));
  // Whoever wakes the thread finds out. A call that comes while it is awake, or that needs no engine, does not wake it.
  // Each asks for a key of its own: one that was granted before the stop stays held until its TTL is over.
  for (let number = 0; held.valid; number++) await ask('finder', client.lock('other ' + number).acquire());
  await Promise.all(waiters);
  told.lost = await lost;
  told.valid = held.valid;
  await ask('release', held.release());
  await ask('next', client.withLock('next', async () => true));
  // What is kept in memory nobody else ends.
  if (url.startsWith('memory')) await ask('again', client.withLock('held', async () => true));
  await ask('close', client.close());
  await ask('closed', client.lock('next').acquire());
  console.log(JSON.stringify(told));
`;

onBackends('an engine that stops', (backend) => {
  test('r04_an_engine_that_stops_leaves_nobody_waiting', async () => {
    const { code, stdout, stderr } = await runProgram(backend.url, program);
    assert.equal(code, 0, stderr);
    const { finder, again, ...told } = JSON.parse(stdout);
    const waiters = Object.fromEntries([0, 1, 2].map((number) => [`waiter ${number}`, 'BACKEND_UNAVAILABLE']));
    assert.deepEqual(told, {
      ...waiters,
      lost: 'LOCK_LOST',
      valid: false,
      release: false,
      next: true,
      close: 'done',
      closed: 'CLIENT_CLOSED',
    });
    // It may have got its answer just before, also so that its lease ended on the way to it.
    assert.ok(['BACKEND_UNAVAILABLE', 'LOCK_LOST', 'done'].includes(finder), finder);
    assert.equal(again ?? true, true);
  });
});
