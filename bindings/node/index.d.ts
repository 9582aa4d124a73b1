/** Distributed locks with fencing tokens. All times are in milliseconds. */

// What `await using` needs, as TypeScript's own `esnext.disposable` and `@types/node` declare it, for programs that have neither.
declare global {
  interface SymbolConstructor { readonly asyncDispose: unique symbol }
  interface AsyncDisposable { [Symbol.asyncDispose](): PromiseLike<void> }
}

/** Version of the engine, shared by every package of the project. */
export declare const version: string;

export interface ClientOptions {
  /**
   * Put before every key; no `/` in it. Default: `"dlock"`. Empty for the names as the server has them: there the key `b` of the namespace `a` is
   * `a/b` on Redis and etcd.
   */
  namespace?: string | null;
  /** How long one backend request may take. Default: 1000. */
  opTimeout?: number | null;
  /** How long connecting may take, and for how long a failing backend is tried before an acquire gives up. Default: 5000. */
  connectTimeout?: number | null;
  /** How leases are renewed. */
  renewal?: Renewal | null;
  /** Refuses `local:` where neither the program nor `DLOCK_URL` names a backend, as `DLOCK_REQUIRE_URL=1` does. Default: false. */
  requireUrl?: boolean | null;
}

/** Tuning of renewal, for all leases of a client. The defaults are good to 100,000 leases. */
export interface Renewal {
  /** The longest pause after renewals that got no answer. Default: 800. */
  maxDelay?: number | null;
  /** The first such pause; it doubles with each one more. Default: 50; never longer than a twentieth of the TTL. */
  baseDelay?: number | null;
  /** The longest time that one renewal request may take. Default, and at most: `opTimeout`, and half of what is left of the lease. */
  callTimeout?: number | null;
  /** The most leases in one request. Default, and at most: what the backend takes. */
  batch?: number | null;
}

/** Bounded attempts instead of waiting to be woken. */
export interface Retry {
  /** How many attempts may follow the first one. Default: 3; 0 tries once. */
  maxRetries?: number | null;
  /** The pause before the first retry. Default: 100. */
  delay?: number | null;
  /** What each pause is multiplied with to get the next. Default: 1; at most 100. */
  backoff?: number | null;
  /** How far a pause is drawn around its length: the default, 0.5, draws it from half of it to one and a half. From 0 to 1. */
  jitter?: number | null;
}

export interface LockOptions {
  /** Lease time: without renewal a lease ends then. Default: 30000. `null` is refused: there is no lease without an end. */
  ttl?: number;
  /** How long acquiring waits; 0 tries once. Default: for ever. */
  wait?: number | null;
  /** Renew by itself while held. Default: true. */
  renew?: boolean | null;
  /** Renew when the remaining share of the TTL falls to this, between 0 and 1. Default: 2/3. */
  renewalThreshold?: number | null;
  /** Bounded attempts instead of waiting: {@link RetriesExhausted} ends them. `wait` bounds the whole, and a `wait` of 0 still tries once. */
  retry?: Retry | null;
  /** Arrival order where the backend can; `false` takes a free key past those who wait. Default: true. */
  fair?: boolean | null;
  /** The lease ends after this long, renewed or not. Default: never. */
  maxHold?: number | null;
  /** The lease ends when the event loop has not run for this long. Default: never. */
  maxStall?: number | null;
  /**
   * Whether code that runs in a body of this very lock's `withLock` may acquire it again: it gets the same lease, and the last release gives
   * the key back. What a body starts at the same time, with `Promise.all` for one, enters together. Default: false.
   */
  reentrant?: boolean | null;
  /** Shown by `inspect` beside host, pid and since. */
  metadata?: string | null;
  /** How long one backend request may take. Default: the client's. */
  opTimeout?: number | null;
}

export interface AcquireOptions {
  /** Instead of the lock's own `wait`; `null` waits for ever. */
  wait?: number | null;
  /** Gives the attempt up: it rejects with the signal's reason, and a grant that was on its way is given back. */
  signal?: AbortSignal | null;
}

/**
 * Where a lease stands. `unknown`: given back, but no answer came before the lease would have run out anyway. `not_held`: given back, but the
 * backend said that this lease no longer held the key.
 */
export type Status = 'held' | 'releasing' | 'released' | 'not_held' | 'unknown' | 'lost';

/** Why a lease ended without its holder giving it back. */
export type LossReason = 'expired' | 'gone' | 'max_hold' | 'max_stall' | 'closed';

/** Makes locks on one backend. Lazy: it connects, and starts the engine, at its first use. An idle client does not keep the process alive. */
export declare class Client implements AsyncDisposable {
  /**
   * For `local:`, `local:///path`, `memory:`, `memory:name`, `redis://[user:password@]host[:port][/db]` or
   * `etcd://[user:password@]host[:port],host...`; `rediss://` and `etcds://` with TLS and `?ca=/file.pem&cert=/file.pem&key=/file.pem`;
   * `redis+sentinel://[user:password@]host[:port],host.../service[/db]`, also as `rediss+sentinel://`. Default: what `DLOCK_URL` names, else `local:`, which excludes the processes of this user on this machine; `NODE_DEBUG=dlock` tells when that was chosen. An empty `DLOCK_URL` is
   * as good as none, an empty `url` is refused.
   */
  constructor(url?: string | URL, options?: ClientOptions);
  /** Throws {@link InvalidOptions} for a key or options that cannot be used. */
  lock(key: string, options?: LockOptions): Lock;
  /** Runs `fn` while holding the key; see {@link Lock.withLock}. */
  withLock<T>(key: string, fn: (lease: Lease) => T | PromiseLike<T>): Promise<T>;
  withLock<T>(key: string, options: LockOptions | undefined, fn: (lease: Lease) => T | PromiseLike<T>): Promise<T>;
  /** One round trip to the backend. */
  ping(): Promise<void>;
  /** Who holds a key and who waits for it: one place a client, and how many calls of this one. See `Inspection`. */
  inspect(key: string): Promise<Inspection>;
  /** The held keys that begin with `prefix`, in order. */
  listLocks(prefix?: string): Promise<Inspection[]>;
  isLocked(key: string): Promise<boolean>;
  /**
   * Takes the key away from the holder with this token or owner id; true if that one held it. The holder learns of it at its next renewal: until
   * then two may believe that they hold the key, and the fencing token is what protects the data.
   */
  forceRelease(key: string, holder: number | string): Promise<boolean>;
  /** What this client has done and has under way. Cheap: no I/O. */
  stats(): Stats;
  /**
   * The figures in the OpenMetrics text format, to be served as `application/openmetrics-text; version=1.0.0; charset=utf-8`. Each client has a
   * registry of its own, and no label holds a key.
   */
  metrics(): string;
  /** Makes a round trip within `opTimeout` and looks at the leases. A backend that does not answer is told, not thrown. */
  health(): Promise<Health>;
  /**
   * Calls `fn(event)` on the event loop whenever this happens; returns a function that ends it. The observers of a client hear of the events of a
   * lease in order. One that throws is told as a process warning. Where they are too slow, events are dropped and counted
   * (`stats().droppedEvents`); locks never wait for an observer. Observers do not keep the process alive.
   */
  on(event: EventName, fn: (event: LockEvent) => void): () => void;
  /**
   * Refuses new work, waits up to `timeout` (default: 0) for holders to finish while their leases are still renewed, then takes away what is
   * left: its holders are told that the lease is lost.
   *
   * Until then a `withLock` body that holds a lease of this client may acquire more, as may what it started, and goes on waiting for what it
   * has asked for. Everybody else is refused with `ClientClosed`, at once. Before Node 24, and for leases that were acquired outside of any
   * body, nobody can know who belongs to a holder: there any acquire is admitted while a lease is held. Asking about keys works until the end.
   *
   * In a web server, drain the server first, then close the client: `server.close(() => client.close(5000))`. Its requests are new work.
   */
  close(timeout?: number): Promise<void>;
  /**
   * Lets a closed client work again, for one that outlives its application: the next operation connects anew, and locks made before follow. Does
   * nothing to a client that is open. Leases of before stay lost; observers and counts go on. It does not wait for a `close` that is still draining:
   * that one goes on with what was held before.
   */
  reopen(): void;
  /**
   * Has the first of these signals (default: `SIGTERM` and `SIGINT`) begin `close(timeout)`; returns a function that ends that. Once the client
   * is closed the signal ends the process, as it would have done at once without this, unless somebody else listens to it. A second one does
   * not wait. Main thread only. A web server drains first, and closes the client when that is done, instead of this: its requests are new work.
   */
  closeOnSignal(timeout: number, signals?: readonly string[]): () => void;
  [Symbol.asyncDispose](): Promise<void>;
}

/** A reusable handle: a key and options. Each acquire gets a lease of its own, one after the other. */
export interface Lock {
  readonly key: string;
  /**
   * Runs `fn` while holding the key and gives it back on every way out. The process stays alive meanwhile.
   *
   * When the lease is lost, `lease.signal` aborts; a body that succeeds all the same, or that fails because of the abort, ends in
   * {@link LockLost}. Any other error of the body wins over the loss and over a failing release.
   *
   * What the body returns must be done when its promise settles. A generator is closed and refused with {@link InvalidOptions}; other results
   * that do their work later cannot be seen, such as streams or arrays of promises: use them up inside.
   *
   * A body that waits for its own key waits for ever, as a rule, and is warned: from Node 24 on, and in older versions where `NODE_ENV` is
   * `development` or `test`, since there it takes time.
   */
  withLock<T>(fn: (lease: Lease) => T | PromiseLike<T>): Promise<T>;
  /** Waits for the key. The lease is renewed until it is given back, also while the event loop is blocked. */
  acquire(options?: AcquireOptions): Promise<Lease>;
  /** Tries once; `null` if somebody else holds the key. */
  tryAcquire(): Promise<Lease | null>;
  /** Gives back the one lease that this lock has outstanding; rejects if there is none or more than one. */
  release(): Promise<boolean>;
  /** Whether anybody holds the key. */
  isLocked(): Promise<boolean>;
}

/** One grant of a lock. A bare lease does not keep the process alive. One that nobody can reach any more is given back, with a warning. */
export interface Lease extends AsyncDisposable {
  readonly key: string;
  /** The fencing token: greater than every token granted for this key before. Pass it to the protected resource. */
  readonly token: number;
  /** The owner id of the attempt that got the lease, as other processes see it. */
  readonly owner: string;
  readonly ttl: number;
  /** For how long the engine still vouches for the lease; 0 once it is not valid. */
  readonly remaining: number;
  /** Whether the holder may rely on the lease now: a reading of the clock, right also after a pause that nobody has told us of yet. */
  readonly valid: boolean;
  readonly lost: boolean;
  readonly status: Status;
  /** For display. */
  readonly acquiredAt: Date;
  /** For display. */
  readonly expiresAt: Date;
  /** Aborts with a {@link LockLost} when the lease is lost. Whoever took it keeps the lease from being forgotten. */
  readonly signal: AbortSignal;
  /** Throws {@link LockLost} or {@link NotHeld} if the holder must not go on. */
  check(): void;
  /** Sets the life of the lease: `ttl` from now, and for later renewals. */
  extend(ttl: number): Promise<void>;
  /** Switches automatic renewal on or off. */
  autoRenew(renew: boolean): void;
  /** Resolves with the reason when the lease is lost; never, if it is given back. Keeps the process alive until then. */
  waitLost(): Promise<LossReason>;
  /**
   * Gives the key back. Validity ends at once. True if the backend confirmed it within `opTimeout`; else `status` says how it stands, and the
   * engine goes on trying until the lease would have run out.
   */
  release(): Promise<boolean>;
}

export type EventName = 'acquired' | 'released' | 'renewed' | 'renewal_failed' | 'acquire_failed' | 'lost';

/** Something that happened to a lease, or to an attempt to get one. */
export interface LockEvent {
  readonly kind: EventName;
  readonly key: string;
  /** `null` where no lease was got. */
  readonly token: number | null;
  /** `null` where no lease was got. */
  readonly owner: string | null;
  /** How long the attempt took, in milliseconds: of `acquired` and `acquire_failed`. */
  readonly waited: number | null;
  /** How long the lease has been held, or was: of all that happens to a lease after it was got. */
  readonly held: number | null;
  /**
   * Of `lost` why, of `acquire_failed` the error's code or `CANCELLED`, of `renewal_failed` the backend's error, of `released` the lease's status.
   */
  readonly reason: string | null;
}

export type ChosenBy = 'argument' | 'variable' | 'default';

/** What a client has done since it was made, and what it has under way. Times are in milliseconds. */
export interface Stats {
  /** The backend's address, without its password. */
  server: string;
  /** What chose the backend: the URL that was given, `DLOCK_URL`, or nobody. */
  chosenBy: ChosenBy;
  /** Leases held now. */
  held: number;
  /** Attempts to get a key that are under way now. */
  waiting: number;
  acquired: number;
  /** Releases that the backend confirmed. */
  released: number;
  /** Releases that did not end so: `not_held`, `unknown`. */
  releaseFailures: Record<string, number>;
  /** Renewals and extensions that were acknowledged. */
  renewed: number;
  /** Renewals without an answer; each was tried again, none is ever skipped. */
  renewalFailures: number;
  /** How late renewals are acknowledged, counted from when they were due. */
  renewalLag: { count: number; total: number; longest: number };
  /** Leases lost, by reason. */
  lost: Record<string, number>;
  /** Attempts that got no lease, by the code of the error; `CANCELLED` are those whose caller left. */
  acquireFailures: Record<string, number>;
  /** What the backend was asked, by operation. */
  backendCalls: Record<string, { calls: number; errors: number; time: number }>;
  /** Leases in renewal requests that were not answered yet. */
  renewing: number;
  /** Leases that wait for their next renewal, or for their end. */
  scheduled: number;
  /** Requests that go on after their callers have left. */
  background: number;
  /** Events that wait for their observers. */
  queuedEvents: number;
  /** How many events can wait. */
  eventCapacity: number;
  /** Events that found that queue full. */
  droppedEvents: number;
}

/** Whether a client can do its work. */
export interface Health {
  /**
   * `ok`: a key can be taken and given back here, now. `degraded`: it can, but renewals are late or leases are about to be lost. `down`: no key can be
   * had, since the backend does not answer or refuses, or the client is closed.
   */
  status: 'ok' | 'degraded' | 'down';
  /** Why it is not `ok`. */
  reasons: string[];
  /** The backend's address, without its password. */
  server: string;
  /** What chose the backend: the URL that was given, `DLOCK_URL`, or nobody. */
  chosenBy: ChosenBy;
  /** What the question and its answer took, in milliseconds; `null` where no key can be had. */
  roundTrip: number | null;
  held: number;
  /** Leases whose renewal is late. */
  lagging: number;
  /** Leases that will be lost unless the backend answers soon. */
  atRisk: number;
  /** How late the latest renewal is, in milliseconds. */
  renewalLag: number;
  /** What the backend has to say of its servers and their versions. A warning alone changes no status. */
  warnings: string[];
}

export interface Holder {
  /** The owner id; the raw value where another library wrote it. */
  owner: string;
  token: number | null;
  /** What is left of the lease as the backend sees it. */
  remaining: number | null;
  host: string | null;
  pid: number | null;
  /** When the holder began its attempt. */
  since: Date | null;
  metadata: string | null;
}

export interface Inspection {
  key: string;
  /** `null` if the key is free. */
  holder: Holder | null;
  /**
   * The places in the backend's queue, first in line first: one for each *client* that waits, however many of its calls do. Empty where the backend
   * keeps no queue, as on `local:`.
   */
  queue: string[];
  /** Which cluster's count the holder's token is, where it is one: tokens of two clusters cannot be compared. */
  cluster: string | null;
  /** How many calls wait for the key through the client that was asked, on every backend. Those of other clients nobody can count. */
  waitingHere: number;
}

/** A client that has reached its backend. */
export declare function connect(url?: string | URL, options?: ClientOptions): Promise<Client>;

/**
 * Says where the default client's locks are, instead of `DLOCK_URL` or `local:`. Before its first operation only; locks made before follow, and their
 * options are checked once more when they are used. With `requireUrl` and no URL, here or in `DLOCK_URL`, it throws {@link InvalidOptions}.
 */
export declare function configure(url?: string | URL, options?: ClientOptions): void;

/**
 * For tests: makes the default client what it was when the program began. What it holds is taken away, its observers end, it counts anew, and
 * `configure` and `DLOCK_URL` say once more where its locks are. Locks that were made before follow.
 */
export declare function resetDefaultClient(): Promise<void>;

// What a client has, of the default client: see the methods of the same names.
export declare function ping(): Promise<void>;
export declare function inspect(key: string): Promise<Inspection>;
export declare function listLocks(prefix?: string): Promise<Inspection[]>;
export declare function isLocked(key: string): Promise<boolean>;
export declare function forceRelease(key: string, holder: number | string): Promise<boolean>;
export declare function stats(): Stats;
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

/** Every error of this package. Fields are there where they are known. */
export declare class LockError extends Error {
  constructor(message?: string, fields?: object);
  /** Never changes, and is the same in every language. */
  readonly code: string;
  readonly key?: string;
  readonly operation?: string;
}

/** The lock was not got. */
export declare class NotAcquired extends LockError {
  /** Who held the key when last seen. */
  readonly holder?: Holder;
}

/** Not within `wait`: somebody else holds the key. A `wait` that ends while the backend fails ends in `BackendUnavailable`. */
export declare class AcquireTimeout extends NotAcquired {
  /** How long the caller waited, in milliseconds. */
  readonly waited: number;
}

/** A single try found the key held. */
export declare class LockBusy extends NotAcquired {}

/** Every attempt of a `retry` found the key held. */
export declare class RetriesExhausted extends NotAcquired {
  readonly attempts: number;
}

/** The lease ended before its holder gave it back. */
export declare class LockLost extends LockError {
  readonly key: string;
  readonly token: number;
  readonly reason: LossReason;
}

/** The lease was given back before. */
export declare class NotHeld extends LockError {
  readonly key: string;
}

/** The backend could not be reached or cannot serve the request now. */
export declare class BackendUnavailable extends LockError {
  /** Its address, without the password. */
  readonly server: string;
}

/** The backend answers and says no: login, rights, a limit, a value that is not a lock's. Trying again will not help. */
export declare class BackendRefused extends LockError {
  /** Its address, without the password. */
  readonly server: string;
}

/** A key, URL or option that cannot be used; found before anything was sent. */
export declare class InvalidOptions extends LockError {
  readonly field: string;
  readonly value: string;
  readonly allowed: string;
}

/** The client was closed. */
export declare class ClientClosed extends LockError {}

/** The handle was made by the parent process, before a fork. */
export declare class ForkedError extends LockError {}
