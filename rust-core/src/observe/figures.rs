//! The counters: plain atomics, added to where things happen.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::histogram::{Histogram, LONG, SHORT};
use crate::error::{BackendError, Failure, LossReason};

/// The words for how a release ended.
pub(super) const OUTCOMES: [&str; 3] = ["released", "not_held", "unknown"];
/// The words for why a lease was lost. The last one stands for a reason without a word.
pub(super) const LOSSES: [&str; 6] = ["expired", "gone", "max_hold", "max_stall", "closed", "other"];
/// The codes with which an acquire fails. The last one stands for every other code.
pub(super) const CODES: [&str; 9] = [
    "ACQUIRE_TIMEOUT",
    "LOCK_BUSY",
    "RETRIES_EXHAUSTED",
    "BACKEND_UNAVAILABLE",
    "BACKEND_REFUSED",
    "CLIENT_CLOSED",
    "CANCELLED",
    "LOCK_LOST",
    "OTHER",
];
/// The words for how a call of the backend ended.
pub(super) const ANSWERS: [&str; 4] = ["ok", "unknown", "not_sent", "refused"];

/// The calls of a backend.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Ping,
    Acquire,
    Renew,
    Release,
    Leave,
    KeepWaiting,
    Inspect,
    List,
    ForceRelease,
}

pub(super) const OPERATIONS: [&str; 9] =
    ["ping", "acquire", "renew", "release", "leave", "keep_places", "inspect", "list", "force_release"];

pub(crate) struct Figures {
    pub(super) acquired: AtomicU64,
    pub(super) released: [AtomicU64; OUTCOMES.len()],
    pub(super) renewed: AtomicU64,
    pub(super) renewal_failures: AtomicU64,
    pub(super) lost: [AtomicU64; LOSSES.len()],
    pub(super) acquire_failures: [AtomicU64; CODES.len()],
    pub(super) dropped: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) longest_lag: AtomicU64,
    pub(super) wait: Histogram,
    pub(super) hold: Histogram,
    pub(super) lag: Histogram,
    /// By operation, then by answer.
    pub(super) calls: [[Histogram; ANSWERS.len()]; OPERATIONS.len()],
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            acquired: AtomicU64::default(),
            released: Default::default(),
            renewed: AtomicU64::default(),
            renewal_failures: AtomicU64::default(),
            lost: Default::default(),
            acquire_failures: Default::default(),
            dropped: AtomicU64::default(),
            waiting: AtomicU64::default(),
            longest_lag: AtomicU64::default(),
            wait: Histogram::new(LONG),
            hold: Histogram::new(LONG),
            lag: Histogram::new(SHORT),
            calls: std::array::from_fn(|_| std::array::from_fn(|_| Histogram::new(SHORT))),
        }
    }
}

/// Adds one to the counter of this word, or to the last one.
fn count(counters: &[AtomicU64], words: &[&str], word: &str) {
    let index = words.iter().position(|known| *known == word).unwrap_or(words.len() - 1);
    add(&counters[index]);
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Figures {
    pub(super) fn acquired(&self, waited: Duration) {
        add(&self.acquired);
        self.wait.observe(waited);
    }

    pub(super) fn acquire_failed(&self, code: &str) {
        count(&self.acquire_failures, &CODES, code);
    }

    pub(super) fn renewed(&self, lag: Option<Duration>) {
        add(&self.renewed);
        if let Some(lag) = lag {
            self.lag.observe(lag);
            self.longest_lag.fetch_max(u64::try_from(lag.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    pub(super) fn renewal_failed(&self) {
        add(&self.renewal_failures);
    }

    pub(super) fn released(&self, outcome: &str, held: Duration) {
        count(&self.released, &OUTCOMES, outcome);
        self.hold.observe(held);
    }

    pub(super) fn lost(&self, reason: LossReason, held: Duration) {
        count(&self.lost, &LOSSES, reason.as_str());
        self.hold.observe(held);
    }

    pub(super) fn dropped(&self) {
        add(&self.dropped);
    }

    /// A call of the backend was answered, or failed.
    pub(crate) fn called(&self, operation: Operation, took: Duration, error: Option<&BackendError>) {
        let answer = match error.map(|error| error.failure) {
            None => 0,
            Some(Failure::Unknown) => 1,
            Some(Failure::NotSent) => 2,
            Some(Failure::Refused) => 3,
        };
        self.calls[operation as usize][answer].observe(took);
    }
}
