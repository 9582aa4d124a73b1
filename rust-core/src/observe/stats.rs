//! The figures of a client, as users get them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::choice::ChosenBy;
use crate::observe::figures::{ANSWERS, CODES, LOSSES, OPERATIONS, OUTCOMES};
use crate::observe::observer::Observer;

/// What a client has done since it was made, and what it has under way. Counts begin at zero with the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The backend's address without its password.
    pub server: Arc<str>,
    /// What chose the backend.
    pub chosen_by: ChosenBy,
    /// Leases held now.
    pub held: u64,
    /// Attempts to acquire a key that are under way now.
    pub waiting: u64,
    /// Leases granted.
    pub acquired: u64,
    /// Releases that the backend confirmed.
    pub released: u64,
    /// Releases with another end: `not_held`, `unknown`.
    pub release_failures: BTreeMap<&'static str, u64>,
    /// Renewals and extensions that were acknowledged.
    pub renewed: u64,
    /// Renewals without an answer; each was tried again. No renewal is ever skipped: there is no pool of workers that could be
    /// full.
    pub renewal_failures: u64,
    /// How late renewals are acknowledged, counted from when they were due.
    pub renewal_lag: Lag,
    /// Leases lost, by [`LossReason`](crate::LossReason).
    pub lost: BTreeMap<&'static str, u64>,
    /// Attempts that got no lease, by the code of the error; `CANCELLED` are those whose caller left.
    pub acquire_failures: BTreeMap<&'static str, u64>,
    /// Calls of the backend, by operation.
    pub backend_calls: BTreeMap<&'static str, Calls>,
    /// Leases in renewal requests that were not answered yet.
    pub renewing: u64,
    /// Leases that wait for their next renewal, or for their end.
    pub scheduled: u64,
    /// Requests that go on after their callers have left, such as releases and withdrawals, and attempts that a closing client
    /// waits for.
    pub background: u64,
    /// Events that wait for their observers.
    pub queued_events: u64,
    /// How many events can wait for one observer.
    pub event_capacity: u64,
    /// Events that found the queue of an observer full, and were dropped.
    pub dropped_events: u64,
}

/// How late something was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// How often it was measured.
    pub count: u64,
    /// All together.
    pub total: Duration,
    /// The longest.
    pub longest: Duration,
}

/// Calls of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// How many came to an end.
    pub calls: u64,
    /// How many of them failed.
    pub errors: u64,
    /// How long they took, all together.
    pub time: Duration,
}

/// Figures that only the session knows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) held: usize,
    pub(crate) renewing: usize,
    pub(crate) scheduled: usize,
    pub(crate) background: usize,
    /// Leases that will be lost unless they are renewed soon.
    pub(crate) at_risk: usize,
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn by_word(words: &[&'static str], counters: &[AtomicU64]) -> BTreeMap<&'static str, u64> {
    words.iter().copied().zip(counters.iter().map(read)).collect()
}

impl Observer {
    pub(crate) fn stats(&self, gauges: Gauges) -> Stats {
        let figures = &self.figures;
        let backend_calls = OPERATIONS.iter().zip(&figures.calls).map(|(operation, answers)| {
            let count: Vec<_> = answers.iter().map(super::histogram::Histogram::count).collect();
            let calls = count.iter().sum();
            let time = answers.iter().map(super::histogram::Histogram::sum).sum();
            (*operation, Calls { calls, errors: calls - count[0], time })
        });
        debug_assert!(ANSWERS[0] == "ok" && OUTCOMES[0] == "released");
        Stats {
            server: Arc::default(),
            chosen_by: ChosenBy::default(),
            held: gauges.held as u64,
            waiting: read(&figures.waiting),
            acquired: read(&figures.acquired),
            released: read(&figures.released[0]),
            release_failures: by_word(&OUTCOMES[1..], &figures.released[1..]),
            renewed: read(&figures.renewed),
            renewal_failures: read(&figures.renewal_failures),
            renewal_lag: Lag {
                count: figures.lag.count(),
                total: figures.lag.sum(),
                longest: Duration::from_nanos(read(&figures.longest_lag)),
            },
            lost: by_word(&LOSSES, &figures.lost),
            acquire_failures: by_word(&CODES, &figures.acquire_failures),
            backend_calls: backend_calls.collect(),
            renewing: gauges.renewing as u64,
            scheduled: gauges.scheduled as u64,
            background: gauges.background as u64,
            queued_events: self.queued() as u64,
            event_capacity: super::queue::QUEUE as u64,
            dropped_events: read(&figures.dropped),
        }
    }
}
