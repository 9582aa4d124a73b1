// The Node driver of the behaviour suite: runs the operations that the runner sends, and judges nothing.
//
// One request a line on stdin, `{"id": 1, "client": "a", "op": "acquire", "args": {..}}`; one answer a line on stdout, in any order.
// Times are in milliseconds, stamps are readings of CLOCK_MONOTONIC, which all processes of the machine share.

import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';

import { Client, ClientClosed } from '../../../../bindings/node/index.mjs';

const clients = new Map();
const locks = new Map();
const leases = new Map();
const bodies = new Map();
const aborts = new Map();
const events = new Map();

const LOCK_OPTIONS = {
  ttl: 'ttl',
  wait: 'wait',
  renew: 'renew',
  renewal_threshold: 'renewalThreshold',
  fair: 'fair',
  max_hold: 'maxHold',
  max_stall: 'maxStall',
  reentrant: 'reentrant',
  retry: 'retry',
  metadata: 'metadata',
  op_timeout: 'opTimeout',
};
const CLIENT_OPTIONS = { namespace: 'namespace', op_timeout: 'opTimeout', connect_timeout: 'connectTimeout', renewal: 'renewal' };
const PARTS = {
  retry: { max_retries: 'maxRetries', delay: 'delay', backoff: 'backoff', jitter: 'jitter' },
  renewal: { max_delay: 'maxDelay', base_delay: 'baseDelay', call_timeout: 'callTimeout', batch: 'batch' },
};
const turned = (names) => Object.entries(names).map(([ours, theirs]) => [theirs, ours]);
const partFields = Object.entries(PARTS).flatMap(([part, names]) => turned(names).map(([theirs, ours]) => [`${part}.${theirs}`, `${part}.${ours}`]));
const FIELDS = Object.fromEntries([...turned(LOCK_OPTIONS), ...turned(CLIENT_OPTIONS), ...partFields]);
const NUMBERS = { nan: Number.NaN, inf: Number.POSITIVE_INFINITY, '-inf': Number.NEGATIVE_INFINITY };

const operations = {
  client(name, args) {
    clients.set(name, new Client(args.url, chosen(args, CLIENT_OPTIONS)));
    return process.pid;
  },
  lock(client, args) {
    locks.set(args.as, lockOf(client, args));
    return null;
  },
  async acquire(client, args, id) {
    const lock = lockOf(client, args);
    const abort = new AbortController();
    aborts.set(id, abort);
    return keep(args, await lock.acquire({ signal: abort.signal }));
  },
  async try_acquire(client, args) {
    const lease = await lockOf(client, args).tryAcquire();
    return lease && keep(args, lease);
  },
  with: (client, args, id) => lockOf(client, args).withLock((lease) => body(client, lease, args, id)),
  leave(_client, { lease }) {
    bodies.get(lease)?.();
    return bodies.delete(lease);
  },
  /** Acquires as often as `levels` says in one async context, then releases as often; tells whether the key was held after each release. */
  async nest(client, args) {
    const lock = lockOf(client, args);
    const tokens = [];
    const held = [];
    async function enter(level) {
      await lock.withLock(async (lease) => {
        tokens.push(lease.token);
        if (level < args.levels) await enter(level + 1);
      });
      held.push(await lock.isLocked());
    }
    await enter(1);
    return { token: tokens[0], same: new Set(tokens).size === 1, held };
  },
  /** Takes keys and holds each for a while, until the client is closed; counts what came of it. */
  async work(client, args) {
    const done = { held: 0, lost: 0, unreleased: 0 };
    async function task(number) {
      const lock = lockOf(client, { ...args, key: `${args.key}-${number % args.keys}` });
      for (;;) {
        const lease = await lock.acquire();
        await delay(args.hold);
        done.held += 1;
        done.lost += lease.valid ? 0 : 1;
        done.unreleased += (await lease.release()) ? 0 : 1;
      }
    }
    const untilClosed = (error) => {
      if (!(error instanceof ClientClosed)) throw error;
    };
    await Promise.all(Array.from({ length: args.tasks }, (_, number) => task(number).catch(untilClosed)));
    return done;
  },
  close_on_signal(client, args) {
    if (args.stays) process.on('SIGTERM', () => {});
    clients.get(client).closeOnSignal(number(args.timeout));
    return true;
  },
  async contend(client, args) {
    const lock = lockOf(client, args);
    const holds = [];
    async function task() {
      for (let cycle = 0; cycle < args.cycles; cycle += 1) {
        const lease = await lock.acquire();
        const from = stamp();
        await delay(lease.token % 2);
        holds.push([lease.token, from, stamp()]);
        await lease.release();
      }
    }
    await Promise.all(Array.from({ length: args.tasks }, task));
    return holds;
  },
  release: (_client, args) => leases.get(args.lease).release(),
  release_lock: (client, args) => lockOf(client, args).release(),
  async extend(_client, args) {
    const lease = leases.get(args.lease);
    await lease.extend(number(args.ttl));
    return shown(lease);
  },
  auto_renew(_client, args) {
    leases.get(args.lease).autoRenew(args.renewing);
    return true;
  },
  lease: (_client, args) => shown(leases.get(args.lease)),
  check(_client, args) {
    leases.get(args.lease).check();
    return true;
  },
  wait_lost: (_client, args) => leases.get(args.lease).waitLost(),
  drop: (_client, args) => forget(leases, args.lease),
  drop_lock: (_client, args) => forget(locks, args.lock),
  async ping(client) {
    await clients.get(client).ping();
    return true;
  },
  inspect: async (client, args) => found(await clients.get(client).inspect(args.key)),
  is_locked: (client, args) => clients.get(client).isLocked(args.key),
  list: async (client, args) => (await clients.get(client).listLocks(args.prefix)).map(found),
  force_release: (client, args) => clients.get(client).forceRelease(args.key, args.token ?? args.owner),
  async close(client, args) {
    await clients.get(client).close(number(args.timeout));
    return true;
  },
  stats: (client) => snaked(clients.get(client).stats()),
  health: async (client) => snaked(await clients.get(client).health()),
  metrics: (client) => clients.get(client).metrics(),
  on(client, args) {
    if (!events.has(client)) events.set(client, []);
    clients.get(client).on(args.event, (event) => events.get(client).push(event));
    return true;
  },
  heard: (client) => events.get(client),
  block(_client, args) {
    const end = stamp() + args.for;
    while (stamp() < end);
    return true;
  },
  cancel(_client, args) {
    aborts.get(args.task)?.abort();
    return aborts.has(args.task);
  },
};

/**
 * A scoped body that lasts until it is told to leave. Tells when it was entered, and when and how it ended. With `then` it takes that key as
 * well before it leaves.
 */
async function body(client, lease, args, id) {
  const signal = args.stubborn ? undefined : lease.signal;
  const end = new Promise((resolve) => {
    bodies.set(args.as, () => resolve('left'));
    signal?.addEventListener('abort', () => resolve('cancelled'), { once: true });
    if (signal?.aborted) resolve('cancelled');
  });
  print({ id, event: 'entered', value: keep(args, lease) });
  const how = await end;
  print({ id, event: 'ended', value: how });
  if (how === 'cancelled') throw signal.reason;
  return args.then ? clients.get(client).withLock(args.then, () => 'both') : how;
}

function lockOf(client, args) {
  if (args.lock) return locks.get(args.lock);
  return clients.get(client).lock(args.key, { ...chosen(args, LOCK_OPTIONS), ...args.raw });
}

function chosen(args, known) {
  const given = Object.keys(known).filter((name) => args[name] !== undefined);
  return Object.fromEntries(given.map((name) => [known[name], name in PARTS ? chosen(args[name], PARTS[name]) : number(args[name])]));
}

function number(value) {
  return NUMBERS[value] ?? value;
}

function keep(args, lease) {
  if (args.as) leases.set(args.as, lease);
  return shown(lease);
}

function shown(lease) {
  const { key, token, owner, ttl, remaining, valid, lost, status } = lease;
  const times = { acquired_at: lease.acquiredAt.getTime(), expires_at: lease.expiresAt.getTime() };
  return { key, token, owner, ttl, remaining, valid, lost, status, ...times, reason: status === 'lost' ? reasonOf(lease) : null };
}

function reasonOf(lease) {
  try {
    lease.check();
  } catch (error) {
    return error.reason;
  }
  return null;
}

function found({ key, holder, queue, cluster, waitingHere }) {
  const waiting = Object.fromEntries(queue.map((owner, at) => [at + 1, owner]));
  return { key, holder: holder && { ...holder }, queue: queue.length, waiting, cluster, waiting_here: waitingHere };
}

/** Figures with the names that the other languages have. */
function snaked(figures) {
  return Object.fromEntries(Object.entries(figures).map(([name, value]) => [name.replace(/[A-Z]/g, (capital) => `_${capital.toLowerCase()}`), value]));
}

/** A lease may be collected some time after it was taken, at the earliest; what that frees, a turn later. So this goes on for a while. */
function forget(map, name) {
  const collecting = setInterval(() => globalThis.gc(), 50);
  setTimeout(() => clearInterval(collecting), 2000);
  return map.delete(name);
}

function described(error, id) {
  if (error === aborts.get(id)?.signal.reason) return { code: 'CANCELLED' };
  const { code, message, key, holder, value, allowed, server, operation, token, reason, attempts, stack } = error;
  // Fields are named as a user of this language wrote them; the runner knows the common names.
  const field = error.field && (FIELDS[error.field] ?? (error.field.includes('_') ? `not an option: ${error.field}` : error.field));
  return { code: code ?? stack, message, key, holder, field, value, allowed, server, operation, token, reason, attempts };
}

function stamp() {
  return Number(process.hrtime.bigint()) / 1e6;
}

function print(message) {
  process.stdout.write(`${JSON.stringify({ at: stamp(), ...message })}\n`);
}

async function answer({ id, client, op, args }) {
  try {
    print({ id, ok: (await operations[op](client, args, id)) ?? null });
  } catch (error) {
    print({ id, error: described(error, id) });
  } finally {
    aborts.delete(id);
  }
}

const lines = createInterface({ input: process.stdin });
let ending = false;
lines.on('line', (line) => {
  const request = JSON.parse(line);
  if (request.op === 'exit') {
    // Ends by itself, as a program that has nothing more to do.
    ending = true;
    lines.close();
    process.stdin.destroy();
  } else if (request.op === 'quit') {
    process.exit(0);
  } else {
    answer(request);
  }
});
lines.on('close', () => {
  if (!ending) process.exit(1); // the runner is gone
});
