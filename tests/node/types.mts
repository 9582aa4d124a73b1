// Never run: `tsc` checks it against the declarations.

import dlockDefault, { AcquireTimeout, Client, LockLost, NotAcquired, RetriesExhausted, configure, connect, lock, version, withLock } from 'dlock-engine';
import type { Capabilities, ChosenBy, EventName, Health, Holder, Inspection, Lease, Lock, LockEvent, LossReason, Stats, Status } from 'dlock-engine';

configure(undefined, { requireUrl: true });
configure('redis://localhost', { namespace: 'shop', opTimeout: 500, connectTimeout: null });
const client: Client = await connect(new URL('redis://localhost'));
const tuned: Client = new Client('memory:', { renewal: { maxDelay: 500, baseDelay: null, callTimeout: 100, batch: 64 } });
const patient: Lock = tuned.lock('k', { retry: { maxRetries: 0, delay: 10, backoff: 2, jitter: null }, maxStall: 1_000, reentrant: true });
const orders: Lock = client.lock('orders', { ttl: 5_000, wait: 0, renew: false, renewalThreshold: 0.5, fair: false, metadata: 'job' });

const sync: number = await orders.withLock(() => 1);
const inferred: string = await withLock('k', { maxHold: 1_000 }, async (lease) => `${lease.token}`);
const short: boolean = await client.withLock('k', (lease) => lease.valid);

const lease: Lease = await orders.acquire({ wait: null, signal: AbortSignal.timeout(10) });
const maybe: Lease | null = await lock('k').tryAcquire();
const status: Status = lease.status;
const ends: Date = lease.expiresAt;
await fetch('http://localhost', { signal: lease.signal });
await lease.extend(1_000);
const reason: LossReason = await lease.waitLost();
const loss: LockLost = lease.signal.reason;
const freed: boolean = await lease.release();

const found: Inspection = await client.inspect('k');
const holder: Holder | null = found.holder;
const taken: boolean = (await client.forceRelease('k', holder?.token ?? 0)) || (await client.forceRelease('k', lease.owner));
const locked: boolean = await orders.isLocked();
const events: LockEvent[] = [];
const name: EventName = 'lost';
const end: () => void = client.on(name, (event) => events.push(event));
end();
const stats: Stats = client.stats();
const errors: number | undefined = stats.backendCalls.acquire?.errors;
const health: Health = await client.health();
const text: string = client.metrics();
const abilities: Capabilities = client.capabilities();
const floor: number = abilities.ttlFloor;
void [errors, health.roundTrip, text, floor];
await client.close(1_000);
client.reopen();

{
  await using held = await orders.acquire();
  await using scoped = new Client();
  held.check();
  void scoped;
}

try {
  await orders.acquire();
} catch (error) {
  if (error instanceof AcquireTimeout) {
    const general: NotAcquired = error;
    const waited: number = error.waited;
    void waited;
    const pid: number | null | undefined = general.holder?.pid;
    void pid;
  }
  if (error instanceof RetriesExhausted) {
    const attempts: number = error.attempts;
    void attempts;
  }
}

// @ts-expect-error seconds as text
client.lock('k', { ttl: '30s' });
// @ts-expect-error an unknown event
client.on('aquired', () => {});
// @ts-expect-error an unknown option
client.lock('k', { timeToLive: 30 });
// @ts-expect-error leases are granted, not made
new Lease();
// @ts-expect-error tokens are given
lease.token = 1;

export { dlockDefault, ends, freed, inferred, locked, loss, maybe, reason, short, status, sync, patient, taken, version };

const chosen: ChosenBy = dlockDefault.stats().chosenBy;
const down: boolean = (await dlockDefault.health()).chosenBy === chosen && (await dlockDefault.isLocked('k'));
const keys: string[] = (await dlockDefault.listLocks()).map((each) => each.key);
const ends2: (() => void)[] = [dlockDefault.on('lost', () => {}), dlockDefault.closeOnSignal(1_000, ['SIGTERM'])];
void [down, keys, ends2, dlockDefault.metrics(), await dlockDefault.inspect('k'), await dlockDefault.forceRelease('k', 7)];
await dlockDefault.ping();
await dlockDefault.close(0);
dlockDefault.reopen();
await dlockDefault.resetDefaultClient();
