/** Distributed locks with fencing tokens. All times are in milliseconds. */

import type { Capabilities, EventName, Health, Holder, Inspection, LockEvent, Stats } from './observe.js';

export * from './observe.js';

// What `await using` needs, as TypeScript's own `esnext.disposable` and `@types/node` declare it, for programs that have neither.
declare global {
  interface SymbolConstructor { readonly asyncDispose: unique symbol }
  interface AsyncDisposable { [Symbol.asyncDispose](): PromiseLike<void> }
}

/** Version of the engine, shared by every package of the project. */
export declare const version: string;

export interface ClientOptions {
  /**
   * The prefix of every key, without a `/`. Default: `"dlock"`. On Redis and etcd, the key `b` of the namespace `a` is stored as `a/b`; with an empty
   * namespace, keys are stored as they are.
   */
  namespace?: string | null;
  /** How long one backend request may take. Default: 1000. */
  opTimeout?: number | null;
  /** How long connecting may take, and for how long an acquire keeps trying a failing backend. Default: 5000. */
  connectTimeout?: number | null;
  /** How leases are renewed. */
  renewal?: Renewal | null;
  /** Throws instead of using `local:` when neither the program nor `DLOCK_URL` names a backend. `DLOCK_REQUIRE_URL=1` does the same. Default: false. */
  requireUrl?: boolean | null;
}

/** Tuning of renewal, for all leases of a client. The defaults suit up to 100,000 leases. */
export interface Renewal {
  /** The longest pause after a renewal without an answer. Default: 800. */
  maxDelay?: number | null;
  /** The first such pause; each further one is twice as long. Default: 50, but never more than a twentieth of the TTL. */
  baseDelay?: number | null;
  /** How long one renewal request may take. Default and maximum: `opTimeout`, and half of the time that is left of the lease. */
  callTimeout?: number | null;
  /** How many leases one request may renew. Default and maximum: the backend's limit, see {@link Capabilities}. */
  batch?: number | null;
}

/** A limited number of attempts, instead of waiting in the queue. */
export interface Retry {
  /** How many attempts may follow the first one. Default: 3; 0 tries once. */
  maxRetries?: number | null;
  /** The pause before the first retry. Default: 100. */
  delay?: number | null;
  /** Each pause is the one before, multiplied by this. Default: 1; at most 100. */
  backoff?: number | null;
  /** Random spread, from 0 to 1. The default, 0.5, picks each pause between 0.5 and 1.5 times its length. */
  jitter?: number | null;
}

export interface LockOptions {
  /** Lease time: without renewal the lease ends after it. Default: 30000. `null` is refused, because every lease has an end. */
  ttl?: number;
  /** How long an acquire waits; 0 tries once. Default: for ever. */
  wait?: number | null;
  /** Whether the engine renews the lease while it is held. Default: true. */
  renew?: boolean | null;
  /** The engine renews when this share of the TTL is left, between 0 and 1. Default: 2/3. */
  renewalThreshold?: number | null;
  /** A limited number of attempts instead of waiting; the last failure throws {@link RetriesExhausted}. `wait` limits their total time, and 0 tries once. */
  retry?: Retry | null;
  /** Grants in order of arrival, on backends that can; `false` may take a free key before those who wait. Default: true. */
  fair?: boolean | null;
  /** The longest time that a lease may be held, however often it is renewed. Default: no limit. */
  maxHold?: number | null;
  /** The lease ends when the event loop has been blocked for this long. Default: never. */
  maxStall?: number | null;
  /**
   * Whether code inside a `withLock` body of this lock object may acquire the lock again. It gets the same lease, and the last release frees the
   * key. Calls that a body starts together, for example with `Promise.all`, hold the lock at the same time. Default: false.
   */
  reentrant?: boolean | null;
  /** Text that `inspect` returns, beside host, pid and since. */
  metadata?: string | null;
  /** How long one backend request may take. Default: the client's. */
  opTimeout?: number | null;
}

export interface AcquireOptions {
  /** Replaces the lock's own `wait`; `null` waits for ever. */
  wait?: number | null;
  /** Aborting it ends the attempt, which rejects with the signal's reason. A grant that is under way is released. */
  signal?: AbortSignal | null;
}

/**
 * The state of a lease. `unknown`: the holder released it, but no answer came before the lease would have expired. `not_held`: the holder released
 * it, but according to the backend the lease no longer held the key.
 */
export type Status = 'held' | 'releasing' | 'released' | 'not_held' | 'unknown' | 'lost';

/** Why a lease ended before its holder released it. */
export type LossReason = 'expired' | 'gone' | 'max_hold' | 'max_stall' | 'closed';

/** Makes locks on one backend. It is lazy: the first use connects and starts the engine. An idle client does not keep the process alive. */
export declare class Client implements AsyncDisposable {
  /**
   * The URL names the backend: `local:`, `local:///path`, `memory:`, `memory:name`, `redis://[user:password@]host[:port][/db]` or
   * `etcd://[user:password@]host[:port],host...`; with TLS `rediss://` and `etcds://`, with `?ca=/file.pem&cert=/file.pem&key=/file.pem`;
   * with Sentinel `redis+sentinel://[user:password@]host[:port],host.../service[/db]`, with TLS `rediss+sentinel://`.
   *
   * Without a URL the client uses `DLOCK_URL`, and if that is empty or not set `local:`, for the processes of this user on this machine; it then logs
   * so under `NODE_DEBUG=dlock`. An empty `url` is refused.
   */
  constructor(url?: string | URL, options?: ClientOptions);
  /** A reusable lock for `key`. Throws {@link InvalidOptions} for a key or option that cannot be used. Does no I/O. */
  lock(key: string, options?: LockOptions): Lock;
  /** Runs `fn` while holding the key; see {@link Lock.withLock}. */
  withLock<T>(key: string, fn: (lease: Lease) => T | PromiseLike<T>): Promise<T>;
  withLock<T>(key: string, options: LockOptions | undefined, fn: (lease: Lease) => T | PromiseLike<T>): Promise<T>;
  /** Makes one round trip to the backend. */
  ping(): Promise<void>;
  /** Who holds a key and who waits for it. See {@link Inspection}. */
  inspect(key: string): Promise<Inspection>;
  /** The held keys that begin with `prefix`, in order. */
  listLocks(prefix?: string): Promise<Inspection[]>;
  isLocked(key: string): Promise<boolean>;
  /**
   * Takes the key away from the holder with this token or owner id. True if that holder held it. The holder learns of this at its next renewal. Until
   * then two holders may believe that they hold the key, and only the fencing token protects the data.
   */
  forceRelease(key: string, holder: number | string): Promise<boolean>;
  /** What this client has done, and what it is doing. Does no I/O. */
  stats(): Stats;
  /** What the backend can do. Does no I/O. */
  capabilities(): Capabilities;
  /**
   * The figures of `stats()` in the OpenMetrics text format; serve it as `application/openmetrics-text; version=1.0.0; charset=utf-8`. Each client has
   * a registry of its own, and no label contains a key.
   */
  metrics(): string;
  /** Makes a round trip within `opTimeout` and checks the leases. If the backend does not answer, the result says so; nothing is thrown. */
  health(): Promise<Health>;
  /**
   * Calls `fn(event)` on the event loop for each such event. Returns a function that ends this. A client's observers get the events of a lease in
   * order. If one throws, the package emits a process warning. If observers are too slow, events are dropped and counted
   * (`stats().droppedEvents`): a lock never waits for an observer. Observers do not keep the process alive.
   */
  on(event: EventName, fn: (event: LockEvent) => void): () => void;
  /**
   * Refuses new work and waits up to `timeout` (default: 0) for holders to finish, while their leases are still renewed. Then it ends the leases that
   * are left, and their holders see them as lost.
   *
   * Meanwhile a `withLock` body that holds a lease of this client, and code that it started, may acquire more and go on waiting for what they already
   * asked for. All other callers get `ClientClosed` at once. Before Node 24, and for leases that were acquired outside of any body, the package cannot
   * know which code belongs to a holder: then any acquire is admitted while a lease is held. Questions about keys are answered until the end.
   *
   * In a web server, drain the server first and close the client then, because requests are new work: `server.close(() => client.close(5000))`.
   */
  close(timeout?: number): Promise<void>;
  /**
   * Lets a closed client work again, for a client that outlives its application. The next operation connects again, and locks that were made before
   * work again too. Leases from before stay lost; observers and figures go on. On an open client it does nothing. It does not wait for a `close` that is
   * still draining: that goes on with the leases that were held before.
   */
  reopen(): void;
  /**
   * Begins `close(timeout)` at the first of these signals (default: `SIGTERM` and `SIGINT`). Returns a function that cancels this. Once the client is
   * closed, the signal ends the process, unless the program listens to it too. A second signal does not wait for the close. Only for the main thread. In a
   * web server, do not use this: close the client after the server has drained, because requests are new work.
   */
  closeOnSignal(timeout: number, signals?: readonly string[]): () => void;
  [Symbol.asyncDispose](): Promise<void>;
}

/** A key with its options, made by {@link Client.lock}. It is reusable, and each acquire gets a lease of its own. */
export interface Lock {
  readonly key: string;
  /**
   * Runs `fn` while holding the key, and releases it however `fn` ends. The process stays alive meanwhile.
   *
   * When the lease is lost, `lease.signal` aborts. If the body then succeeds all the same, or fails because of the abort, `withLock` throws
   * {@link LockLost}. Any other error of the body wins over the loss and over a failing release.
   *
   * The body's work must be done when its promise settles. A generator is closed and refused with {@link InvalidOptions}. Other results that work
   * later, such as streams or arrays of promises, cannot be recognised: use them up inside the body.
   *
   * A body that waits for its own key is usually a deadlock, and the package emits a warning: from Node 24 on, and in older versions if `NODE_ENV` is
   * `development` or `test`, because there the check costs time.
   */
  withLock<T>(fn: (lease: Lease) => T | PromiseLike<T>): Promise<T>;
  /** Waits for the key. The engine renews the lease until it is released, also while the event loop is blocked. */
  acquire(options?: AcquireOptions): Promise<Lease>;
  /** Tries once. `null` if another holder has the key. */
  tryAcquire(): Promise<Lease | null>;
  /** Releases the one outstanding lease of this lock. Rejects if there is none or more than one. */
  release(): Promise<boolean>;
  /** Whether anybody holds the key. */
  isLocked(): Promise<boolean>;
}

/** One grant of a lock. A lease outside of a body does not keep the process alive. When code can no longer reach it, it is released, with a warning. */
export interface Lease extends AsyncDisposable {
  readonly key: string;
  /** The fencing token: greater than every token granted for this key before. Pass it to the protected resource. */
  readonly token: number;
  /** The owner id of the attempt that got the lease, as other processes see it. */
  readonly owner: string;
  readonly ttl: number;
  /** For how long the holder may still rely on the lease; 0 once it is not valid. */
  readonly remaining: number;
  /** Whether the holder may rely on the lease now. It reads the clock, so it is right even directly after a pause of the process. */
  readonly valid: boolean;
  readonly lost: boolean;
  readonly status: Status;
  /** For display. */
  readonly acquiredAt: Date;
  /** For display. */
  readonly expiresAt: Date;
  /** Aborts with a {@link LockLost} when the lease is lost. Reading it keeps the lease reachable until the lease ends. */
  readonly signal: AbortSignal;
  /** Throws {@link LockLost} or {@link NotHeld} unless the lease is valid. */
  check(): void;
  /** Makes the lease end `ttl` from now; later renewals use this `ttl` too. */
  extend(ttl: number): Promise<void>;
  /** Switches automatic renewal on or off. */
  autoRenew(renew: boolean): void;
  /** Resolves with the reason when the lease is lost. It never settles if the lease is released. Keeps the process alive until then. */
  waitLost(): Promise<LossReason>;
  /**
   * Releases the key. The lease stops being valid at once. True if the backend confirmed the release within `opTimeout`. Otherwise `status` has the
   * state, and the engine goes on trying until the lease would have expired.
   */
  release(): Promise<boolean>;
}

/** A client that has reached its backend. */
export declare function connect(url?: string | URL, options?: ClientOptions): Promise<Client>;

/**
 * Sets where the default client's locks are, instead of `DLOCK_URL` or `local:`. It must come before the client's first operation. Locks that were made
 * before follow, and their options are checked again when they are used. With `requireUrl` and no URL, here or in `DLOCK_URL`, it throws
 * {@link InvalidOptions}.
 */
export declare function configure(url?: string | URL, options?: ClientOptions): void;

/**
 * For tests: puts the default client back to its state at the start of the program. Its leases and observers end, its figures begin at zero, and
 * `configure` or `DLOCK_URL` set anew where its locks are. Locks that were made before follow.
 */
export declare function resetDefaultClient(): Promise<void>;

// The methods of `Client`, for the default client.
export declare function ping(): Promise<void>;
export declare function inspect(key: string): Promise<Inspection>;
export declare function listLocks(prefix?: string): Promise<Inspection[]>;
export declare function isLocked(key: string): Promise<boolean>;
export declare function forceRelease(key: string, holder: number | string): Promise<boolean>;
export declare function stats(): Stats;
export declare function capabilities(): Capabilities;
export declare function metrics(): string;
export declare function health(): Promise<Health>;
export declare function on(event: EventName, fn: (event: LockEvent) => void): () => void;
export declare function close(timeout?: number): Promise<void>;
export declare function closeOnSignal(timeout: number, signals?: readonly string[]): () => void;
export declare function reopen(): void;

/** A lock of the default client. */
export declare function lock(key: string, options?: LockOptions): Lock;

/** {@link Client.withLock} of the default client. */
export declare function withLock<T>(key: string, fn: (lease: Lease) => T | PromiseLike<T>): Promise<T>;
export declare function withLock<T>(
  key: string,
  options: LockOptions | undefined,
  fn: (lease: Lease) => T | PromiseLike<T>,
): Promise<T>;

/** The base of every error of this package. An error has those fields that are known. */
export declare class LockError extends Error {
  constructor(message?: string, fields?: object);
  /** Never changes, and is the same in every language. */
  readonly code: string;
  readonly key?: string;
  readonly operation?: string;
}

/** The key was not acquired. */
export declare class NotAcquired extends LockError {
  /** Who held the key when last seen. */
  readonly holder?: Holder;
}

/** Another holder had the key for all of `wait`. If the backend fails when `wait` ends, the error is `BackendUnavailable`. */
export declare class AcquireTimeout extends NotAcquired {
  /** How long the caller waited, in milliseconds. */
  readonly waited: number;
}

/** A single try found that another holder has the key. */
export declare class LockBusy extends NotAcquired {}

/** Every attempt of a `retry` found that another holder has the key. */
export declare class RetriesExhausted extends NotAcquired {
  readonly attempts: number;
}

/** The lease ended before its holder released it. */
export declare class LockLost extends LockError {
  readonly key: string;
  readonly token: number;
  readonly reason: LossReason;
}

/** The lease was already released. */
export declare class NotHeld extends LockError {
  readonly key: string;
}

/** The backend could not be reached or cannot serve the request now. */
export declare class BackendUnavailable extends LockError {
  /** Its address, without the password. */
  readonly server: string;
}

/** The backend refused the request: wrong login, missing rights, a limit, or a value that is not a lock. Trying again will not help. */
export declare class BackendRefused extends LockError {
  /** Its address, without the password. */
  readonly server: string;
}

/** A key, URL or option that cannot be used. It is found before anything is sent. */
export declare class InvalidOptions extends LockError {
  readonly field: string;
  readonly value: string;
  readonly allowed: string;
}

/** The client was closed. */
export declare class ClientClosed extends LockError {}

/** The handle was made by the parent process, before a fork. */
export declare class ForkedError extends LockError {}
