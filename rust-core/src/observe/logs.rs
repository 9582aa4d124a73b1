//! The engine's log records, for languages that have loggers of their own.
//!
//! The engine logs through `tracing`. A Rust program subscribes there; a binding calls [`listen`] instead and gets records through
//! a queue, so that engine threads never touch the language. The queue is bounded and has no lock, so that a fork at any moment
//! leaves it usable. A record below the chosen level costs one comparison.

use std::fmt::{Debug, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};

/// How many records wait to be taken; more are dropped.
const QUEUE: usize = 1024;

/// The targets under which the engine logs. They are written out because users filter by them: they stay when code moves.
pub(crate) mod target {
    pub(crate) const ACQUIRE: &str = "dlock::acquire";
    pub(crate) const ATTEMPT: &str = "dlock::attempt";
    pub(crate) const ETCD_CLUSTER: &str = "dlock::backend::etcd::cluster";
    pub(crate) const ETCD_LEASES: &str = "dlock::backend::etcd::leases";
    pub(crate) const ETCD_MEMBER: &str = "dlock::backend::etcd::member";
    pub(crate) const ETCD_WATCH: &str = "dlock::backend::etcd::watch";
    pub(crate) const LOCAL: &str = "dlock::backend::local";
    pub(crate) const LOCAL_LEFT_BEHIND: &str = "dlock::backend::local::left_behind";
    pub(crate) const REDIS_CONNECT: &str = "dlock::backend::redis::connect";
    pub(crate) const REDIS_LOOKOUT: &str = "dlock::backend::redis::lookout";
    pub(crate) const CLIENT: &str = "dlock::client";
    pub(crate) const CLIENT_CHOICE: &str = "dlock::client::place";
    pub(crate) const CLOSING: &str = "dlock::closing";
    pub(crate) const RELEASE: &str = "dlock::give_back";
    pub(crate) const LEASE_RECORD: &str = "dlock::held";
    pub(crate) const LEASE: &str = "dlock::lease";
    pub(crate) const EVENTS: &str = "dlock::observe::events";
    pub(crate) const WAITER_HEARTBEATS: &str = "dlock::places";
    pub(crate) const RENEWAL: &str = "dlock::renewal";
    pub(crate) const RUNTIME: &str = "dlock::runtime";
    pub(crate) const SELF_WAIT: &str = "dlock::self_wait";
    pub(crate) const SESSION: &str = "dlock::session";
}

/// Every target under which the engine logs. A language with loggers of its own asks these for their levels.
pub const TARGETS: &[&str] = &[
    target::ACQUIRE,
    target::ATTEMPT,
    target::ETCD_CLUSTER,
    target::ETCD_LEASES,
    target::ETCD_MEMBER,
    target::ETCD_WATCH,
    target::LOCAL,
    target::LOCAL_LEFT_BEHIND,
    target::REDIS_CONNECT,
    target::REDIS_LOOKOUT,
    target::CLIENT,
    target::CLIENT_CHOICE,
    target::CLOSING,
    target::RELEASE,
    target::LEASE_RECORD,
    target::LEASE,
    target::EVENTS,
    target::WAITER_HEARTBEATS,
    target::RENEWAL,
    target::RUNTIME,
    target::SELF_WAIT,
    target::SESSION,
];

/// A log record of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its level.
    pub level: Level,
    /// The part of the engine that logs it, such as `dlock::session`.
    pub target: &'static str,
    /// Its message.
    pub message: String,
    /// Its fields: key, token and others.
    pub fields: Vec<(&'static str, String)>,
}

struct Sink {
    sender: SyncSender<Record>,
    records: Mutex<Receiver<Record>>,
    rung: AtomicBool,
    dropped: AtomicU64,
    wake: Box<dyn Fn() + Send + Sync>,
}

static SINK: OnceLock<Sink> = OnceLock::new();
/// Index into [`LEVELS`].
static CHOSEN: AtomicUsize = AtomicUsize::new(0);
const LEVELS: [LevelFilter; 6] =
    [LevelFilter::OFF, LevelFilter::ERROR, LevelFilter::WARN, LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::TRACE];

/// Keeps the records of this process for [`take`] from now on. `wake` is called when there are some, and not again before they were
/// taken. Works once in a process; it changes nothing later, or if the program has a `tracing` subscriber already.
pub fn listen(wake: impl Fn() + Send + Sync + 'static) {
    let (sender, records) = sync_channel(QUEUE);
    let (records, rung, dropped) = (Mutex::new(records), AtomicBool::new(false), AtomicU64::new(0));
    let sink = Sink { sender, records, rung, dropped, wake: Box::new(wake) };
    if SINK.set(sink).is_ok() {
        let _ = tracing::subscriber::set_global_default(Collector);
    }
}

/// Keeps records of this level and graver ones. Before the first call none are kept.
pub fn set_level(level: LevelFilter) {
    let index = LEVELS.iter().position(|known| *known == level).unwrap_or_default();
    if CHOSEN.swap(index, Ordering::Relaxed) != index {
        tracing::callsite::rebuild_interest_cache();
    }
}

/// The records since the last call, oldest first, and how many records were dropped because nobody took them.
pub fn take() -> (Vec<Record>, u64) {
    let Some(sink) = SINK.get() else { return (Vec::new(), 0) };
    // Cleared first: what is logged from here on wakes again.
    sink.rung.store(false, Ordering::SeqCst);
    let records = sink.records.lock().unwrap_or_else(PoisonError::into_inner);
    (records.try_iter().collect(), sink.dropped.swap(0, Ordering::Relaxed))
}

fn chosen() -> LevelFilter {
    LEVELS[CHOSEN.load(Ordering::Relaxed)]
}

struct Collector;

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= chosen() && metadata.target().starts_with("dlock")
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(chosen())
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let Some(sink) = SINK.get() else { return };
        let metadata = event.metadata();
        let mut record = Record { level: *metadata.level(), target: metadata.target(), message: String::new(), fields: Vec::new() };
        event.record(&mut record);
        if sink.sender.try_send(record).is_err() {
            sink.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if !sink.rung.swap(true, Ordering::SeqCst) {
            (sink.wake)();
        }
    }

    // No span is enabled: an event has its subject in its own fields.
    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.fields.push((field.name(), value.to_owned()));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // A string takes whatever is written to it.
        let _ = write!(text, "{value:?}");
        self.record_str(field, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Tests of other modules run beside this one: one that has logged may not have called `wake` yet.
    fn calls_are(woken: &AtomicU64, count: u64) -> bool {
        let started = std::time::Instant::now();
        while woken.load(Ordering::SeqCst) < count && started.elapsed().as_secs() < 5 {
            std::thread::yield_now();
        }
        woken.load(Ordering::SeqCst) == count
    }

    // One test, since there is one queue in a process.
    #[test]
    fn records_of_the_level_asked_for_are_kept_and_others_cost_nothing() {
        let woken = Arc::new(AtomicU64::new(0));
        let wakes = woken.clone();
        listen(move || _ = wakes.fetch_add(1, Ordering::SeqCst));
        tracing::error!("before a level was chosen");
        assert_eq!(take(), (vec![], 0));

        set_level(LevelFilter::WARN);
        assert!(tracing::level_enabled!(Level::WARN) && !tracing::level_enabled!(Level::INFO));
        tracing::warn!(target: "dlock::session", key = %"k", token = 7, "lease lost");
        tracing::warn!(target: "redis", "of somebody else");
        tracing::info!(target: "dlock::session", "too low");
        let fields = vec![("key", "k".to_owned()), ("token", "7".to_owned())];
        let lost = Record { level: Level::WARN, target: "dlock::session", message: "lease lost".to_owned(), fields };
        assert!(calls_are(&woken, 1));
        // Others may log as well.
        assert!(take().0.contains(&lost));

        for number in 0..QUEUE + 10 {
            tracing::warn!(target: "dlock::session", number);
        }
        assert!(calls_are(&woken, 2), "not again before it was taken");
        let (kept, dropped) = take();
        assert_eq!(kept.len(), QUEUE);
        assert!(dropped >= 10);
        set_level(LevelFilter::OFF);
    }
}
