// What it costs to look, in Node: pairs a second with observers and scrapes, and without, in turns.
//
// Usage: node_observing.mjs URL ROUNDS

import assert from 'node:assert/strict';
import { Client } from '../bindings/node/index.mjs';

const HELD = 10_000;
const TASKS = 500;
const MILLISECONDS = 2_000;
const EVENTS = ['acquired', 'released', 'renewed', 'renewal_failed', 'acquire_failed', 'lost'];

/** Pairs a second, and the microseconds of CPU time, of all threads, that a pair takes. */
async function pairsASecond(client) {
  const started = performance.now();
  const used = process.cpuUsage();
  let done = 0;
  async function task(number) {
    const lock = client.lock(`cycle-${number}`);
    while (performance.now() - started < MILLISECONDS) {
      const lease = await lock.acquire();
      await lease.release();
      done += 1;
    }
  }
  await Promise.all(Array.from({ length: TASKS }, (_, number) => task(number)));
  const { user, system } = process.cpuUsage(used);
  return [(done * 1_000) / (performance.now() - started), (user + system) / done];
}

async function observed(client, heard) {
  const ends = EVENTS.map((event) => client.on(event, () => (heard.count += 1)));
  const scraping = setInterval(() => assert.ok(client.metrics()), 1_000);
  const seen = await pairsASecond(client);
  clearInterval(scraping);
  ends.forEach((end) => end());
  return seen;
}

const [url, rounds] = process.argv.slice(2);
const client = new Client(url);
const acquire = (_, number) => client.lock(`held-${number}`, { ttl: 9_000 }).acquire();
const held = await Promise.all(Array.from({ length: HELD }, acquire));
await pairsASecond(client);
const [off, on, heard] = [[], [], { count: 0 }];
for (let round = 0; round < Number(rounds); round += 1) {
  off.push(await pairsASecond(client));
  on.push(await observed(client, heard));
}
assert.ok(held.every(({ valid }) => valid));
console.log(JSON.stringify({ off, on, events: heard.count, dropped: client.stats().droppedEvents }));
await client.close();
