import dlock from './index.js';

export const {
  AcquireTimeout,
  BackendRefused,
  BackendUnavailable,
  Client,
  ClientClosed,
  ForkedError,
  InvalidOptions,
  LockBusy,
  LockError,
  LockLost,
  NotAcquired,
  NotHeld,
  RetriesExhausted,
  configure,
  connect,
  lock,
  version,
  withLock,
} = dlock;
export default dlock;
