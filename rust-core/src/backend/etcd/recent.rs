//! Which locks were held or contended a moment ago.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Instant;

/// How long an observation counts.
const RECENT: Duration = Duration::from_secs(2);

/// How many locks are remembered.
const MOST: usize = 1_000;

/// Locks by the time of their last observation.
#[derive(Default)]
pub(super) struct RecentLocks {
    noted: Mutex<HashMap<Vec<u8>, Instant>>,
}

impl RecentLocks {
    pub(super) fn note(&self, lock: &[u8], now: Instant) {
        let mut noted = self.noted.lock();
        if noted.len() >= MOST {
            noted.retain(|_, at| now.since(*at) < RECENT);
        }
        // A client with this many locks at a time does not notice one more read.
        if noted.len() < MOST {
            noted.insert(lock.to_vec(), now);
        }
    }

    pub(super) fn contains(&self, lock: &[u8], now: Instant) -> bool {
        self.noted.lock().get(lock).is_some_and(|at| now.since(*at) < RECENT)
    }

    pub(super) fn forget(&self, lock: &[u8]) {
        self.noted.lock().remove(lock);
    }
}
