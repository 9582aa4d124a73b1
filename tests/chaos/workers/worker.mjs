// The Node worker: takes keys, holds them, touches the fenced register, releases them, and logs what it was told. It judges nothing.
//
// Its one argument is a JSON object, see `crew.py`. It goes on until stdin ends or says `finish`; then it ends what is under way. Times are
// milliseconds of CLOCK_MONOTONIC, which all processes of the machine share. A line is in the log before the next step is taken.

import { openSync, writeSync } from 'node:fs';
import { createConnection } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';

import { Client } from '../../../bindings/node/index.mjs';

const LONG_SHARE = 0.02; // of the holds: long ones live by renewal
const REGISTER_TIMEOUT = 500;

const plan = JSON.parse(process.argv[2]);
const file = openSync(plan.log, 'a');
const client = new Client(plan.url, { namespace: plan.namespace, opTimeout: plan.op_timeout });
let attempts = 0;
let finishing = false;

/** Mulberry32. */
let state = plan.seed >>> 0;
function random() {
  state = (state + 0x6d2b79f5) >>> 0;
  let mixed = Math.imul(state ^ (state >>> 15), state | 1);
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
}

const between = (low, high) => low + random() * (high - low);
const pick = (list) => list[Math.floor(random() * list.length)];
const now = () => Number(process.hrtime.bigint() / 1000n) / 1000;

function log(e, fields) {
  writeSync(file, `${JSON.stringify({ t: now(), e, ...fields })}\n`);
}

function howLong() {
  const draw = random();
  if (draw < LONG_SHARE) return between(1, 2.5) * plan.ttl;
  return draw < 0.1 ? between(0, 0.15) * plan.ttl : between(0, 10);
}

async function cycle() {
  while (!finishing) {
    await attempt();
    await delay(-Math.log(1 - random()) * plan.think);
  }
}

async function attempt() {
  attempts += 1;
  const n = attempts;
  const key = pick(random() < plan.heat ? plan.hot : plan.cold);
  const mode = pick(['wait', 'wait', 'wait', 'wait', 'wait', 'wait', 'wait', 'unfair', 'cancel', 'try']);
  const lock = client.lock(key, { ttl: plan.ttl, fair: mode !== 'unfair' });
  log('ask', { n, k: key, m: mode });
  const signal = mode === 'cancel' ? AbortSignal.timeout(Math.round(between(0, 300))) : null;
  let lease;
  try {
    lease = mode === 'try' ? await lock.tryAcquire() : await lock.acquire({ signal });
  } catch (error) {
    if (signal?.aborted && error === signal.reason) log('cancelled', { n });
    else if (error.code) log('failed', { n, code: error.code });
    else throw error;
    return;
  }
  if (lease === null) log('failed', { n, code: 'LOCK_BUSY' });
  else await hold(n, key, lease);
}

async function hold(n, key, lease) {
  const granted = now();
  log('grant', { n, at: granted, until: granted + lease.remaining, token: lease.token, owner: lease.owner });
  let told = false;
  lease.waitLost().then((why) => {
    if (!told) log('lost', { n, why });
  });
  const seen = await register.read(key, lease.token);
  const end = now() + howLong();
  for (let left = end - now(); left > 0; left = end - now()) {
    await delay(Math.min(left, plan.ttl / 6));
    const at = now();
    const { remaining } = lease;
    if (remaining > 0) log('held', { n, at, until: at + remaining });
  }
  await register.write(key, lease.token, seen);
  log('releasing', { n });
  told = true;
  const ok = await lease.release();
  log('released', { n, ok, status: lease.status });
}

/** The resource that the keys protect. Where it cannot be reached, the hold goes without. */
const register = {
  socket: null,
  waiting: [],
  open() {
    const socket = createConnection({ host: plan.register[0], port: plan.register[1] });
    this.socket = socket;
    this.waiting = [];
    const { waiting } = this;
    socket.on('error', () => this.forget(socket));
    socket.on('close', () => waiting.splice(0).forEach((answer) => answer(null)));
    createInterface({ input: socket }).on('line', (line) => waiting.shift()?.(JSON.parse(line)));
    socket.unref();
  },
  read(key, token) {
    return this.ask({ op: 'read', k: key, token });
  },
  /** Without looking at the lease: what protects the data is the token. */
  async write(key, token, seen) {
    if (seen !== null) await this.ask({ op: 'write', k: key, token, seen });
  },
  async ask(request) {
    if (this.socket === null) this.open();
    const { socket, waiting } = this;
    const answer = new Promise((resolve) => {
      waiting.push(resolve);
    });
    socket.write(`${JSON.stringify(request)}\n`);
    const late = new AbortController();
    const seen = await Promise.race([answer, delay(REGISTER_TIMEOUT, undefined, { signal: late.signal }).catch(() => undefined)]);
    late.abort();
    if (seen === undefined) this.forget(socket);
    return seen ?? null;
  },
  forget(socket) {
    if (this.socket === socket) this.socket = null;
    socket.destroy();
  },
};

const lines = createInterface({ input: process.stdin });
const told = () => {
  finishing = true;
  lines.close();
  process.stdin.destroy();
};
lines.once('line', told);
lines.once('close', told);

log('start', { pid: process.pid, language: 'node' });
await Promise.all(Array.from({ length: plan.tasks }, cycle));
await client.close();
log('end');
process.exit(0);
