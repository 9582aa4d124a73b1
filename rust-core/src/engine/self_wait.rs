//! Warns of self-waits: a caller that waits for a key which it holds itself, or which an ancestor of it holds, may wait for ever.
//!
//! A caller that holds the key makes a mistake and is warned at once. A caller that the holder started may rightly wait until the
//! holder is done: it is warned only if that takes long, or if its wait ends before, and once for each lease.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::caller::{Caller, Kinship};
use crate::engine::attempt::Attempt;
use crate::engine::lease_record::LeaseRecord;
use crate::engine::session::Session;
use crate::observe::logs::target;

/// How long a caller may wait for its ancestor without a warning.
const GRACE: Duration = Duration::from_secs(1);

impl Attempt {
    /// Notes that the attempt begins to wait for a lease of its own session.
    pub(crate) fn waits_for(&self, record: &Arc<LeaseRecord>) {
        match self.caller.related_to(&record.holder) {
            // Only the first time counts: an attempt that is woken comes here again.
            Kinship::Same if self.own.set(record.clone()).is_ok() && self.warns => {
                tracing::warn!(target: target::SELF_WAIT, key = %record.key, token = record.token, "this caller holds the key already and now waits for itself");
            }
            Kinship::Started => drop(self.own.set(record.clone())),
            Kinship::Same | Kinship::None => {}
        }
    }
}

impl Session {
    /// Warns if the attempt has waited for an ancestor of its caller for a while. Returns at once if it waits for none.
    pub(crate) async fn warn_of_wait_for_starter(&self, attempt: &Attempt) {
        let started = |record: &&Arc<LeaseRecord>| attempt.caller.related_to(&record.holder) == Kinship::Started;
        let Some(record) = attempt.own.get().filter(started) else { return };
        let grace = attempt.wait.map_or(GRACE, |wait| wait.min(GRACE));
        if !attempt.warns && attempt.wait == Some(grace) {
            // The binding warns when the wait has ended.
            return;
        }
        self.clock.sleep_until(attempt.started + grace).await;
        let still = self.lines.holder(&attempt.key).is_some_and(|holder| Arc::ptr_eq(&holder, record));
        if still && !record.warned.in_log.swap(true, Ordering::Relaxed) {
            tracing::warn!(target: target::SELF_WAIT, key = %record.key, token = record.token, "a caller waits for a key that is held by the caller that started it");
        }
    }

    /// Whether this session holds the key for an ancestor of the caller. True once for each lease.
    pub(crate) fn is_held_by_starter(&self, key: &str, caller: &Caller) -> bool {
        let started = |record: &Arc<LeaseRecord>| caller.related_to(&record.holder) == Kinship::Started;
        self.lines.holder(key).filter(started).is_some_and(|record| !record.warned.by_binding.swap(true, Ordering::Relaxed))
    }
}
