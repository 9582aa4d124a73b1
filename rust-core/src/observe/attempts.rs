//! Attempts to acquire a key, as they are counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::observer::Observer;
use crate::clock::{Clock, Instant};
use crate::error::Error;

/// The code of an attempt whose caller left.
const CANCELLED: &str = "CANCELLED";

/// An attempt to acquire a key, counted while it is under way and once when it ends: a dropped attempt counts as cancelled.
pub(crate) struct ObservedAttempt {
    observer: Arc<Observer>,
    clock: Arc<dyn Clock>,
    key: Arc<str>,
    started: Instant,
    over: bool,
}

impl fmt::Debug for ObservedAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObservedAttempt").field("key", &self.key).finish_non_exhaustive()
    }
}

impl ObservedAttempt {
    pub(crate) fn new(observer: &Arc<Observer>, clock: &Arc<dyn Clock>, key: &Arc<str>, started: Instant) -> Self {
        observer.figures.waiting.fetch_add(1, Ordering::Relaxed);
        Self { observer: observer.clone(), clock: clock.clone(), key: key.clone(), started, over: false }
    }

    /// The attempt has ended by itself. Success was already reported when the lease was made.
    pub(crate) fn ended<T>(&mut self, result: &Result<T, Error>) {
        self.over = true;
        if let Err(error) = result {
            self.failed(error.code());
        }
    }

    fn failed(&self, code: &'static str) {
        self.observer.acquire_failed(&self.key, code, self.clock.now().since(self.started));
    }
}

impl Drop for ObservedAttempt {
    fn drop(&mut self) {
        self.observer.figures.waiting.fetch_sub(1, Ordering::Relaxed);
        if !self.over {
            self.failed(CANCELLED);
        }
    }
}
