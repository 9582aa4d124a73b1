//! The figures themselves: plain atomics, added to where things happen.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Clock, Instant};
use crate::error::{BackendError, Error, Failure, LossReason};
use crate::observe::Observer;
use crate::observe::histogram::{Histogram, LONG, SHORT};

/// The words for how a release ended.
pub(super) const OUTCOMES: [&str; 3] = ["released", "not_held", "unknown"];
/// The words for why a lease was lost. The last is for whatever has no word yet.
pub(super) const LOSSES: [&str; 6] = ["expired", "gone", "max_hold", "max_stall", "closed", "other"];
/// The codes with which an acquire fails. The last is for whatever has no place of its own.
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
/// The code of an attempt whose caller left.
const CANCELLED: &str = "CANCELLED";
/// What came of a call to the backend.
pub(super) const ANSWERS: [&str; 4] = ["ok", "unknown", "not_sent", "refused"];

/// The calls that a backend gets.
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

type Counter = AtomicU64;

pub(crate) struct Figures {
    pub(super) acquired: Counter,
    pub(super) released: [Counter; OUTCOMES.len()],
    pub(super) renewed: Counter,
    pub(super) renewal_failures: Counter,
    pub(super) lost: [Counter; LOSSES.len()],
    pub(super) acquire_failures: [Counter; CODES.len()],
    pub(super) dropped: Counter,
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
            acquired: Counter::default(),
            released: Default::default(),
            renewed: Counter::default(),
            renewal_failures: Counter::default(),
            lost: Default::default(),
            acquire_failures: Default::default(),
            dropped: Counter::default(),
            waiting: AtomicU64::default(),
            longest_lag: AtomicU64::default(),
            wait: Histogram::new(LONG),
            hold: Histogram::new(LONG),
            lag: Histogram::new(SHORT),
            calls: std::array::from_fn(|_| std::array::from_fn(|_| Histogram::new(SHORT))),
        }
    }
}

/// Adds one where the word stands, or at the end.
fn count(counters: &[Counter], words: &[&str], word: &str) {
    let place = words.iter().position(|known| *known == word).unwrap_or(words.len() - 1);
    add(&counters[place]);
}

fn add(counter: &Counter) {
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

    /// A call to the backend was answered, or failed.
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

/// An attempt to get a key, counted while it is under way and once when it ends: an attempt that is dropped was cancelled.
pub(crate) struct Trying {
    observer: Arc<Observer>,
    clock: Arc<dyn Clock>,
    key: Arc<str>,
    started: Instant,
    over: bool,
}

impl fmt::Debug for Trying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trying").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Trying {
    pub(crate) fn new(observer: &Arc<Observer>, clock: &Arc<dyn Clock>, key: &Arc<str>, started: Instant) -> Self {
        observer.figures.waiting.fetch_add(1, Ordering::Relaxed);
        Self { observer: observer.clone(), clock: clock.clone(), key: key.clone(), started, over: false }
    }

    /// The attempt came to an end by itself. What is good of it was told when the lease was made.
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

impl Drop for Trying {
    fn drop(&mut self) {
        self.observer.figures.waiting.fetch_sub(1, Ordering::Relaxed);
        if !self.over {
            self.failed(CANCELLED);
        }
    }
}
