//! Notices who waits for a key that it holds itself, or that whoever started it holds: that may be for ever.
//!
//! A caller that is the holder makes a mistake, and hears of it at once. What the holder started may rightly wait until the holder is done;
//! only if that takes long, or its wait ends before, is it worth a word, and one for each lease.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::caller::{Caller, Kinship};
use crate::engine::attempt::Attempt;
use crate::engine::lease_record::LeaseRecord;
use crate::engine::session::Session;
use crate::observe::logs::target;

/// So long may what the holder started wait for the holder without a word.
const GRACE: Duration = Duration::from_secs(1);

impl Attempt {
    /// It begins to wait for a lease of its own session.
    pub(crate) fn waits_for(&self, record: &Arc<LeaseRecord>) {
        match self.caller.related_to(&record.holder) {
            // Only the first time counts: an attempt that is told to look again comes here more than once.
            Kinship::Same if self.own.set(record.clone()).is_ok() && self.warns => {
                tracing::warn!(target: target::SELF_WAIT, key = %record.key, token = record.token, "this caller holds the key already and now waits for itself");
            }
            Kinship::Started => drop(self.own.set(record.clone())),
            Kinship::Same | Kinship::None => {}
        }
    }
}

impl Session {
    /// Says so if the attempt has waited for a while for whoever started it. Returns at once if it does not.
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
        if still && !record.said.in_log.swap(true, Ordering::Relaxed) {
            tracing::warn!(target: target::SELF_WAIT, key = %record.key, token = record.token, "a caller waits for a key that is held by the caller that started it");
        }
    }

    /// Whether this session holds the key for one who started the caller, which has not been asked before about this lease.
    pub(crate) fn is_held_by_starter(&self, key: &str, caller: &Caller) -> bool {
        let started = |record: &Arc<LeaseRecord>| caller.related_to(&record.holder) == Kinship::Started;
        self.lines.holder(key).filter(started).is_some_and(|record| !record.said.by_binding.swap(true, Ordering::Relaxed))
    }
}
