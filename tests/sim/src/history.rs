//! The callers' side of a history: who was told of which lease, for how long the engine vouched for it, and how it ended.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use dlock::clock::{Clock, Instant};
use dlock::owner::OwnerId;
use dlock::{Lease, LossReason, Status};
use parking_lot::Mutex;

use crate::clock::MachineClock;
use crate::world::{Nanos, World};

impl Told {
    /// When the engine stopped vouching for it, or will.
    pub(crate) fn end(&self, now: Nanos) -> Nanos {
        self.valid.last().map_or(self.at, |(_, end)| (*end).min(now))
    }
}

/// Reads up to when a lease is vouched for.
type Gauge = Box<dyn Fn() -> Option<Instant> + Send + Sync>;

/// A lease that a caller was told of.
pub(crate) struct Told {
    pub(crate) key: Arc<str>,
    pub(crate) owner: OwnerId,
    pub(crate) token: u64,
    pub(crate) client: usize,
    pub(crate) at: Nanos,
    /// While the engine vouched for it, in true time; the last one may be open.
    pub(crate) valid: Vec<(Nanos, Nanos)>,
    /// After which time it is renewed; `None` if it is not meant to be, or was not always.
    pub(crate) renewed_after: Option<Duration>,
    /// By `max_hold` or `max_stall`.
    pub(crate) is_bounded: bool,
    gauge: Gauge,
}

/// Who waits in the local line of one machine, by arrival.
type Line = BTreeMap<u64, Waits>;

struct Waits {
    fair: bool,
    since: Nanos,
}

/// Who still waits in a line that somebody has just left.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remaining {
    Nobody,
    /// Only who came at this very moment. They may have found the line empty: in an outage all in it are told at once.
    Newcomers,
    Others,
}

#[derive(Default)]
struct Pages {
    told: Vec<Told>,
    /// Owners that have been released, from the moment their caller said so.
    released: HashSet<OwnerId>,
    lines: BTreeMap<(usize, Arc<str>), Line>,
    /// When the last one left a line.
    emptied: BTreeMap<(usize, Arc<str>), Nanos>,
    arrivals: u64,
}

pub(crate) struct History {
    world: Arc<World>,
    clocks: Vec<Arc<MachineClock>>,
    pages: Mutex<Pages>,
}

impl History {
    pub(crate) fn new(world: &Arc<World>, clocks: Vec<Arc<MachineClock>>) -> Arc<Self> {
        Arc::new(Self { world: world.clone(), clocks, pages: Mutex::default() })
    }

    /// A caller joins the line of its machine; `fair` says whether it waits for its turn.
    pub(crate) fn enter(&self, client: usize, key: &Arc<str>, fair: bool) -> u64 {
        let mut pages = self.pages.lock();
        pages.arrivals += 1;
        let number = pages.arrivals;
        pages.lines.entry((client, key.clone())).or_default().insert(number, Waits { fair, since: self.world.now() });
        number
    }

    /// It has its answer, or has left.
    pub(crate) fn leave(&self, client: usize, key: &Arc<str>, number: u64, granted: bool) -> Remaining {
        let mut pages = self.pages.lock();
        let Some(line) = pages.lines.get_mut(&(client, key.clone())) else { return Remaining::Nobody };
        let fair = line.remove(&number).is_some_and(|waits| waits.fair);
        let first = line.keys().next().copied();
        let now = self.world.now();
        let remaining = match first {
            None => Remaining::Nobody,
            Some(_) if line.values().all(|waits| waits.since == now) => Remaining::Newcomers,
            Some(_) => Remaining::Others,
        };
        let emptied = match remaining {
            Remaining::Nobody => now,
            // A place that is asked for at this moment is theirs.
            Remaining::Newcomers => now.saturating_sub(1),
            Remaining::Others => 0,
        };
        let last = pages.emptied.entry((client, key.clone())).or_default();
        *last = emptied.max(*last);
        drop(pages);
        if let (true, true, Some(first)) = (granted, fair, first)
            && first < number
        {
            self.world.violate(|| format!("order: client {client} served caller {number} of {key} before caller {first}"));
        }
        remaining
    }

    /// Whether somebody of a machine has waited for the key at every moment since then, and somebody who came before `left` still does.
    pub(crate) fn was_wanted_since(&self, client: usize, key: &Arc<str>, since: Nanos, left: Nanos) -> bool {
        let (pages, line) = (self.pages.lock(), (client, key.clone()));
        let emptied = pages.emptied.get(&line).copied().unwrap_or(0);
        emptied < since && pages.lines.get(&line).is_some_and(|line| line.values().any(|waits| waits.since < left))
    }

    /// Whether a lease of the machine's own was valid at some moment since then.
    pub(crate) fn was_held_by_itself(&self, client: usize, key: &Arc<str>, since: Nanos) -> bool {
        let now = self.world.now();
        self.pages.lock().told.iter().any(|told| told.client == client && told.key == *key && told.end(now) >= since)
    }

    /// A caller is told of a lease. Returns what to call it by.
    pub(crate) fn told(&self, client: usize, lease: &Lease, renewed_after: Option<Duration>, is_bounded: bool) -> usize {
        let now = self.world.now();
        self.world.note(lease.token());
        if !lease.is_valid() && !self.was_closed_on_the_way(client, lease) {
            self.world.violate(|| format!("told late: client {client}, token {} was over before it was told", lease.token()));
        }
        let mut pages = self.pages.lock();
        pages.told.push(Told {
            key: lease.key().clone(),
            owner: lease.owner_id(),
            token: lease.token(),
            client,
            at: now,
            valid: Vec::new(),
            renewed_after,
            is_bounded,
            gauge: Box::new(lease.gauge()),
        });
        pages.told.len() - 1
    }

    /// Closing may take a lease away between the grant and the moment when its caller runs. No time passes between the two.
    fn was_closed_on_the_way(&self, client: usize, lease: &Lease) -> bool {
        let is_new = |clock: &Arc<MachineClock>| lease.acquired_at() == clock.wall() && clock.now() < lease.valid_until();
        lease.status() == Status::Lost(LossReason::Closed) && self.clocks.get(client).is_some_and(is_new)
    }

    /// From now on it is renewed otherwise.
    pub(crate) fn set_renewed_after(&self, number: usize, change: impl FnOnce(Option<Duration>) -> Option<Duration>) {
        if let Some(told) = self.pages.lock().told.get_mut(number) {
            told.renewed_after = change(told.renewed_after);
        }
    }

    /// Its caller releases it: nothing may renew it any more.
    pub(crate) fn releasing(&self, number: usize) {
        let mut pages = self.pages.lock();
        let Some(told) = pages.told.get_mut(number) else { return };
        let (owner, client) = (told.owner, told.client);
        pages.released.insert(owner);
        drop(pages);
        self.world.trace(|| format!("client {client} gives {owner} back"));
    }

    pub(crate) fn is_released(&self, owner: OwnerId) -> bool {
        self.pages.lock().released.contains(&owner)
    }

    /// Has a look at one lease.
    pub(crate) fn read_one<T>(&self, number: usize, read: impl FnOnce(&Told) -> T) -> Option<T> {
        self.pages.lock().told.get(number).map(read)
    }

    /// Reads every lease of a machine that has just run.
    pub(crate) fn sample(&self, client: usize) {
        let now = self.world.now();
        let mut pages = self.pages.lock();
        for told in pages.told.iter_mut().filter(|told| told.client == client) {
            let Some(clock) = self.clocks.get(client) else { continue };
            let end = (told.gauge)().map(|end| clock.true_time(end));
            match (told.valid.last_mut(), end) {
                // Vouched for since the last look: its end has moved.
                (Some((_, last)), Some(end)) if *last >= now => *last = end,
                (_, Some(end)) => told.valid.push((now.max(told.at), end)),
                (Some((_, last)), None) => *last = (*last).min(now),
                (None, None) => {}
            }
        }
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&[Told]) -> T) -> T {
        read(&self.pages.lock().told)
    }

    /// Lets go of what the gauges keep.
    pub(crate) fn end(&self) {
        self.pages.lock().told.clear();
    }
}
