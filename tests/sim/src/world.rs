//! The world: true time, what is going to happen in it, and what was seen.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;

use parking_lot::Mutex;

/// True time: nanoseconds since the world began.
pub(crate) type Nanos = u64;

pub(crate) const MS: Nanos = 1_000_000;
pub(crate) const SECOND: Nanos = 1000 * MS;

/// Where a sleeper leaves its waker. When it goes, its timer goes with it.
pub(crate) type Bell = Mutex<Option<Waker>>;

/// Something that is going to happen.
enum Coming {
    Ring(Weak<Bell>),
    Happen(Box<dyn FnOnce() + Send>),
}

struct Entry {
    at: Nanos,
    number: u64,
    what: Coming,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[derive(Default)]
struct Agenda {
    heap: BinaryHeap<Reverse<Entry>>,
    numbers: u64,
}

/// One seed's world.
pub(crate) struct World {
    now: AtomicU64,
    agenda: Mutex<Agenda>,
    tracing: bool,
    trace: Mutex<String>,
    violations: Mutex<Vec<String>>,
    /// A digest of everything that happened: two runs of one seed must agree.
    digest: AtomicU64,
}

impl World {
    pub(crate) fn new(tracing: bool) -> Arc<Self> {
        Arc::new(Self {
            now: AtomicU64::new(0),
            agenda: Mutex::default(),
            tracing,
            trace: Mutex::default(),
            violations: Mutex::default(),
            digest: AtomicU64::new(0xCBF2_9CE4_8422_2325),
        })
    }

    pub(crate) fn now(&self) -> Nanos {
        self.now.load(Ordering::Relaxed)
    }

    /// Has something happen `after` from now.
    pub(crate) fn after(&self, after: Nanos, happen: impl FnOnce() + Send + 'static) {
        self.put(self.now() + after, Coming::Happen(Box::new(happen)));
    }

    /// Wakes a sleeper at a true time.
    pub(crate) fn ring(&self, at: Nanos, bell: &Arc<Bell>) {
        self.put(at, Coming::Ring(Arc::downgrade(bell)));
    }

    fn put(&self, at: Nanos, what: Coming) {
        let mut agenda = self.agenda.lock();
        agenda.numbers += 1;
        let number = agenda.numbers;
        agenda.heap.push(Reverse(Entry { at, number, what }));
    }

    /// Moves time to what comes next and lets it happen. False if nothing ever will, or not before `end`.
    pub(crate) fn go_on(&self, end: Nanos) -> bool {
        loop {
            let entry = {
                let mut agenda = self.agenda.lock();
                match agenda.heap.peek() {
                    Some(Reverse(first)) if first.at <= end => {}
                    _ => return false,
                }
                agenda.heap.pop()
            };
            let Some(Reverse(entry)) = entry else { return false };
            let happen: Box<dyn FnOnce() + Send> = match entry.what {
                Coming::Happen(happen) => happen,
                Coming::Ring(bell) => {
                    // Time does not move for a timer that nobody waits for any more.
                    let Some(bell) = bell.upgrade() else { continue };
                    let waker = bell.lock().take();
                    let Some(waker) = waker else { continue };
                    Box::new(move || waker.wake())
                }
            };
            self.now.fetch_max(entry.at, Ordering::Relaxed);
            self.note(entry.at);
            happen();
            return true;
        }
    }

    /// Lets time pass up to `end` when nothing more comes before it.
    pub(crate) fn skip_to(&self, end: Nanos) {
        self.now.fetch_max(end, Ordering::Relaxed);
    }

    /// Takes something that happened into the digest.
    pub(crate) fn note(&self, what: u64) {
        let digest = (self.digest.load(Ordering::Relaxed) ^ what).wrapping_mul(0x0100_0000_01B3);
        self.digest.store(digest.rotate_left(23), Ordering::Relaxed);
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest.load(Ordering::Relaxed)
    }

    /// Writes a line of the trace, if there is one.
    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        if !self.tracing {
            return;
        }
        let now = self.now();
        let _ = writeln!(self.trace.lock(), "{:>12.6}  {}", seconds(now), line());
    }

    /// Words for the trace; none, if there is none.
    pub(crate) fn label(&self, words: impl FnOnce() -> String) -> String {
        if self.tracing { words() } else { String::new() }
    }

    /// A promise was broken.
    pub(crate) fn violate(&self, what: impl FnOnce() -> String) {
        let what = what();
        self.trace(|| format!("VIOLATION {what}"));
        self.violations.lock().push(format!("at {:.6}: {what}", seconds(self.now())));
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    pub(crate) fn take_trace(&self) -> String {
        std::mem::take(&mut self.trace.lock())
    }

    /// Forgets what was to come: the tasks and requests in it refer to this world.
    pub(crate) fn end(&self) {
        let agenda = std::mem::take(&mut *self.agenda.lock());
        drop(agenda);
    }
}

/// Nanoseconds as seconds, for people.
#[allow(clippy::cast_precision_loss)] // nobody reads that far
pub(crate) fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}
