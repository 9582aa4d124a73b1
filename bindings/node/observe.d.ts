/** What a client lets programs see: events, figures, health, and who holds a key. */

export type EventName = 'acquired' | 'released' | 'renewed' | 'renewal_failed' | 'acquire_failed' | 'lost';

/** Something that happened to a lease, or to an attempt to acquire one. */
export interface LockEvent {
  readonly kind: EventName;
  readonly key: string;
  /** `null` if no lease was acquired. */
  readonly token: number | null;
  /** `null` if no lease was acquired. */
  readonly owner: string | null;
  /** How long the attempt took, in milliseconds. Set on `acquired` and `acquire_failed`. */
  readonly waited: number | null;
  /** How long the lease has been held, in milliseconds. Set on every event after `acquired`. */
  readonly held: number | null;
  /**
   * For `lost` the reason; for `acquire_failed` the error's code or `CANCELLED`; for `renewal_failed` the backend's error; for `released` the status.
   */
  readonly reason: string | null;
}

export type ChosenBy = 'argument' | 'variable' | 'default';

/** What a client has done since it was made, and what it is doing. Times are in milliseconds. */
export interface Stats {
  /** The backend's address, without its password. */
  server: string;
  /** What chose the backend: the program's URL, `DLOCK_URL`, or the default. */
  chosenBy: ChosenBy;
  /** Leases held now. */
  held: number;
  /** Attempts to acquire that are under way now. */
  waiting: number;
  acquired: number;
  /** Releases that the backend confirmed. */
  released: number;
  /** Releases without a confirmation, by status: `not_held`, `unknown`. */
  releaseFailures: Record<string, number>;
  /** Renewals and extensions that the backend confirmed. */
  renewed: number;
  /** Renewals without an answer. The engine retries each of them. */
  renewalFailures: number;
  /** How late renewals are confirmed, counted from when they were due. */
  renewalLag: { count: number; total: number; longest: number };
  /** Leases lost, by reason. */
  lost: Record<string, number>;
  /** Attempts that got no lease, by the code of the error; `CANCELLED` if the caller left. */
  acquireFailures: Record<string, number>;
  /** Requests to the backend, by operation. */
  backendCalls: Record<string, { calls: number; errors: number; time: number }>;
  /** Leases whose renewal request has no answer yet. */
  renewing: number;
  /** Leases that are scheduled for their next renewal, or for their end. */
  scheduled: number;
  /** Requests that go on after their callers have left. */
  background: number;
  /** Events that are queued for observers. */
  queuedEvents: number;
  /** How many events the queue can hold. */
  eventCapacity: number;
  /** Events that were dropped because the queue was full. */
  droppedEvents: number;
}

/** What a client's backend can do. */
export interface Capabilities {
  /** The scheme of its URLs. */
  scheme: string;
  /** Whether it grants a key in order of arrival across processes. */
  fair: boolean;
  /** Whether the end of a holder's process frees its keys at once, whatever the TTL. */
  crashRelease: boolean;
  /** Whether fencing tokens are the server's own count, which nobody can raise. */
  countsTokens: boolean;
  /** The shortest TTL, in milliseconds. */
  ttlFloor: number;
  /** How many leases one renewal request can hold. */
  batch: number;
}

/** Whether a client can do its work. */
export interface Health {
  /**
   * `ok`: this client can acquire and release now. `degraded`: it can, but renewals are late or leases are about to be lost. `down`: it cannot acquire,
   * because the backend does not answer or refuses, or because the client is closed.
   */
  status: 'ok' | 'degraded' | 'down';
  /** Why the status is not `ok`. */
  reasons: string[];
  /** The backend's address, without its password. */
  server: string;
  /** What chose the backend: the program's URL, `DLOCK_URL`, or the default. */
  chosenBy: ChosenBy;
  /** How long the round trip took, in milliseconds; `null` if the status is `down`. */
  roundTrip: number | null;
  held: number;
  /** Leases whose renewal is late. */
  lagging: number;
  /** Leases that will be lost unless the backend answers soon. */
  atRisk: number;
  /** How late the latest renewal is, in milliseconds. */
  renewalLag: number;
  /** Warnings of the backend about its servers and their versions. They do not change the status. */
  warnings: string[];
}

export interface Holder {
  /** The owner id, or the raw value if another library wrote it. */
  owner: string;
  token: number | null;
  /** How much of the lease is left according to the backend, in milliseconds; `null` if it has no end. */
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
   * The waiters in the backend's queue, the first one first. Each *client* that waits has one entry, however many of its calls wait. Empty if the backend
   * keeps no queue, as `local:`.
   */
  queue: string[];
  /** The cluster that counted the holder's token, on etcd. Tokens of two clusters cannot be compared. */
  cluster: string | null;
  /** How many calls of this client wait for the key, on every backend. The calls of other clients cannot be counted. */
  waitingHere: number;
}
