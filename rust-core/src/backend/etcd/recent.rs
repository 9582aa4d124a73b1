//! Which locks were seen held a moment ago.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Instant;

/// For how long a lock that was seen held is thought to be.
const RECENT: Duration = Duration::from_secs(2);

/// How many are remembered.
const MOST: usize = 1_000;

/// Locks by the time at which they were last seen held.
#[derive(Default)]
pub(super) struct Seen {
    held: Mutex<HashMap<Vec<u8>, Instant>>,
}

impl Seen {
    pub(super) fn note(&self, lock: &[u8], now: Instant) {
        let mut held = self.held.lock();
        if held.len() >= MOST {
            held.retain(|_, seen| now.since(*seen) < RECENT);
        }
        // With that many locks a look more or less does not matter.
        if held.len() < MOST {
            held.insert(lock.to_vec(), now);
        }
    }

    pub(super) fn is_recent(&self, lock: &[u8], now: Instant) -> bool {
        self.held.lock().get(lock).is_some_and(|seen| now.since(*seen) < RECENT)
    }

    pub(super) fn forget(&self, lock: &[u8]) {
        self.held.lock().remove(lock);
    }
}
