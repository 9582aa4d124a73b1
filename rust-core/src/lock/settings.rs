//! The options of a lock, one setter each.

use std::sync::Arc;
use std::time::Duration;

use super::Lock;
use crate::options::{LockOptions, Retry};

impl Lock {
    /// Lease time: without renewal a lease ends after this long. Default 30 s.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.change().ttl = ttl;
        self
    }

    /// How long acquire waits; zero tries once. Default: for ever.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.change().wait = Some(wait);
        self
    }

    /// Whether the engine renews leases. Default true.
    #[must_use]
    pub fn renew(mut self, renew: bool) -> Self {
        self.change().renew = renew;
        self
    }

    /// Renews when the remaining share of the TTL falls to this: between 0 and 1, both excluded. Default two thirds.
    #[must_use]
    pub fn renewal_threshold(mut self, renewal_threshold: f64) -> Self {
        self.change().renewal_threshold = renewal_threshold;
        self
    }

    /// Whether waiters are served in order of arrival, where the backend can. Default true; with false, an acquire may take a free
    /// key before those who wait.
    #[must_use]
    pub fn fair(mut self, fair: bool) -> Self {
        self.change().fair = fair;
        self
    }

    /// Ends a lease after this long, renewed or not. Default: never.
    #[must_use]
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.change().max_hold = Some(max_hold);
        self
    }

    /// Ends a lease whose holder sends no heartbeat for this long. Default: never. [`Lock::with`] sends heartbeats while the task
    /// that awaits it is polled; other holders call [`Lease::heartbeat`](crate::Lease::heartbeat).
    #[must_use]
    pub fn max_stall(mut self, max_stall: Duration) -> Self {
        self.change().max_stall = Some(max_stall);
        self
    }

    /// Bounded attempts instead of waiting: [`Error::RetriesExhausted`](crate::Error::RetriesExhausted) ends them. `wait` bounds
    /// them all together. Default: wait.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.change().retry = Some(retry);
        self
    }

    /// Whether a task that holds the lock through this instance, or a clone of it, may acquire it again: it then gets the same
    /// lease, and the last release gives up the key. Default false. Futures that one task polls at the same time are one caller.
    ///
    /// Needs a tokio runtime; a thread in `block_on` counts as a task. [`Lock::join`] and [`Lock::acquire_then`] do not know who
    /// waits for them and never re-enter.
    #[must_use]
    pub fn reentrant(mut self, reentrant: bool) -> Self {
        self.change().reentrant = reentrant;
        self.entered = reentrant.then(Arc::default);
        self
    }

    /// How long one backend request about this lock may take. Default: the client's.
    #[must_use]
    pub fn op_timeout(mut self, op_timeout: Duration) -> Self {
        self.change().op_timeout = Some(op_timeout);
        self
    }

    /// Text that `inspect` shows beside host, pid and since.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<String>) -> Self {
        self.change().metadata = Some(metadata.into());
        self
    }

    /// The options, to be changed and checked anew. They are copied only where another handle shares them.
    fn change(&mut self) -> &mut LockOptions {
        self.checked = Arc::default();
        Arc::make_mut(&mut self.options)
    }
}
