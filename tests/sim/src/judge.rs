//! The judge: what the callers saw, held against what was promised to them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use dlock::owner::OwnerId;
use dlock::{Lease, LossReason, Status};
use parking_lot::Mutex;

use crate::history::{History, Told};
use crate::ledger::{Ledger, Troubles};
use crate::outages::Outages;
use crate::plan::Plan;
use crate::world::{MS, Nanos, SECOND, World, seconds};

/// A machine that is awake tells a loss this soon.
const TOLD: Nanos = 60 * MS;

/// What closing may take beside the time it was given.
const FAREWELL: Nanos = 2 * SECOND;

pub(crate) struct Judge {
    world: Arc<World>,
    history: Arc<History>,
    ledger: Arc<Ledger>,
    /// Up to when each machine has stood still.
    pub(crate) asleep: Arc<Troubles>,
    pub(crate) outages: Outages,
    /// Up to when each client that is being closed must go on renewing.
    drains: Mutex<Vec<Option<Nanos>>>,
    /// Since when each client is being closed.
    closing: Mutex<Vec<Option<Nanos>>>,
    /// Owners that have asked to leave at least once.
    leaving: Mutex<HashSet<OwnerId>>,
}

/// What a history came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) grants: u64,
    /// Two valid at once, after the server had forgotten one of them.
    pub(crate) overlaps: u64,
}

impl Judge {
    pub(crate) fn new(world: &Arc<World>, history: &Arc<History>, ledger: &Arc<Ledger>, plan: &Plan) -> Arc<Self> {
        let clients = plan.machines.len();
        let asleep = Troubles::new(clients);
        let outages = Outages::new(world, history, &asleep, plan.connect_timeout, plan.op_timeout);
        let (world, history, ledger) = (world.clone(), history.clone(), ledger.clone());
        Arc::new(Self {
            world,
            history,
            ledger,
            asleep,
            outages,
            drains: Mutex::new(vec![None; clients]),
            closing: Mutex::new(vec![None; clients]),
            leaving: Mutex::default(),
        })
    }

    /// A client is being closed, and drains until then.
    pub(crate) fn closing(&self, client: usize, drains_until: Nanos) {
        if let Some(drain) = self.drains.lock().get_mut(client) {
            drain.get_or_insert(drains_until);
        }
        if let Some(closing) = self.closing.lock().get_mut(client) {
            closing.get_or_insert(self.world.now());
        }
    }

    /// Whether a client has had the time to learn that it is being closed: who holds nothing of it and asks now is refused.
    pub(crate) fn refuses(&self, client: usize) -> bool {
        let since = self.closing.lock().get(client).copied().flatten();
        since.is_some_and(|since| self.world.now() > since.max(self.asleep.last(client)) + TOLD)
    }

    /// One who holds nothing got a key of a client, which `refused` them already when they asked, or does by now.
    pub(crate) fn admitted_outsider(&self, client: usize, refused: bool) {
        if refused || self.refuses(client) {
            self.world.violate(|| format!("drain: client {client} takes new work though it is being closed"));
        }
    }

    /// The holder of a lease was refused another one.
    pub(crate) fn refused_holder(&self, client: usize, lease: &Lease) {
        let drains = self.drains.lock().get(client).copied().flatten().is_none_or(|drained| self.world.now() < drained);
        if drains && lease.is_valid() {
            self.world.violate(|| format!("drain: client {client} refused the holder of {} a second key", lease.owner()));
        }
    }

    /// It is closed: within the time that it was given, and some for farewell.
    pub(crate) fn closed(&self, client: usize, began: Nanos, timeout: Nanos) {
        let now = self.world.now();
        let end = began + (timeout + FAREWELL) * 103 / 100 + TOLD;
        if now > end && self.asleep.last(client) < began {
            self.world.violate(|| format!("told late: client {client} was closed {} ms too late", (now - end) / MS));
        }
    }

    /// A machine gives a place up: nobody of it may want it.
    pub(crate) fn leaving(self: &Arc<Self>, client: usize, key: &Arc<str>, owner: OwnerId) {
        if !self.leaving.lock().insert(owner) {
            return;
        }
        let Some(since) = self.ledger.queued_since(key, owner) else { return };
        let (judge, key, left) = (self.clone(), key.clone(), self.world.now());
        // By then its callers know whether they still wait.
        self.world.after(MS, move || {
            let closing = judge.drains.lock().get(client).copied().flatten().is_some();
            if !closing && judge.asleep.last(client) < since && judge.history.was_wanted_since(client, &key, since, left) {
                judge.world.violate(|| format!("order: client {client} gave up the place of {owner} while others wait for {key}"));
            }
        });
    }

    /// A holder that listened from `since` on heard that its lease is lost: in time, and for a reason?
    pub(crate) fn loss(&self, number: usize, reason: LossReason, since: Nanos) {
        let now = self.world.now();
        let wrong = self.history.read_one(number, |told| {
            let end = told.end(now);
            let (client, owner) = (told.client, told.owner);
            self.world
                .trace(|| format!("client {client} heard that {owner} is lost: {reason}; it was valid until {:.6}", seconds(end)));
            let awake = self.asleep.last(client).max(end).max(since);
            if now > awake + TOLD {
                return Some(format!("told late: client {client} heard of the loss of {owner} {} ms after it", (now - awake) / MS));
            }
            let excused = match reason {
                LossReason::MaxHold | LossReason::MaxStall => told.is_bounded,
                LossReason::Closed => self.drains.lock().get(client).copied().flatten().is_some_and(|drained| now >= drained),
                // While it is vouched for, the server has it.
                LossReason::Gone => self.was_forgotten(told) || told.end(Nanos::MAX) <= now,
                _ => self.may_be_lost(told),
            };
            (!excused).then(|| format!("lost: client {client} lost {owner} for no reason: {reason}"))
        });
        if let Some(Some(wrong)) = wrong {
            self.world.violate(|| wrong);
        }
    }

    /// A holder has listened from `since` on and heard of no loss: was there none?
    pub(crate) fn heard_nothing(&self, number: usize, since: Nanos) {
        let now = self.world.now();
        let late = self.history.read_one(number, |told| {
            let end = told.end(now).max(since).max(self.asleep.last(told.client));
            (now > end + TOLD).then(|| format!("told late: client {} never heard of the loss of {}", told.client, told.owner))
        });
        if let Some(Some(late)) = late {
            self.world.violate(|| late);
        }
    }

    /// How a release stands, `in_time` while the lease would still have been vouched for: until then the server has the lease, and the
    /// release is tried again, not given up.
    pub(crate) fn released(&self, number: usize, lease: &Lease, in_time: bool) {
        let wrong = self.history.read_one(number, |told| match lease.status() {
            Status::Unconfirmed if !self.may_be_closed(told.client) => Some("given up before its time"),
            Status::NotHeld if !self.was_forgotten(told) => Some("told that it is not held"),
            _ => None,
        });
        if let (true, Some(Some(wrong))) = (in_time, wrong) {
            self.world.violate(|| format!("release: {} was {wrong}", lease.owner()));
        }
    }

    /// Whether a client has been closed for so long that its requests may be refused.
    fn may_be_closed(&self, client: usize) -> bool {
        let since = self.closing.lock().get(client).copied().flatten();
        since.is_some_and(|since| self.world.now() >= since + FAREWELL * 97 / 100)
    }

    /// Whether anything happened that a lease may be lost by.
    fn may_be_lost(&self, told: &Told) -> bool {
        told.renewed_after.is_none()
            || told.is_bounded
            || self.was_forgotten(told)
            || self.ledger.troubles.last(told.client) >= told.at
            || self.asleep.last(told.client) >= told.at
    }

    fn was_forgotten(&self, told: &Told) -> bool {
        self.ledger.grant(told.owner, told.token).is_some_and(|(_, forgotten)| forgotten.is_some())
    }

    /// Compares every two leases of a key.
    pub(crate) fn compare(&self) -> Sums {
        self.history.read(|told| {
            let mut sums = Sums { grants: told.len() as u64, overlaps: 0 };
            for lease in told {
                self.forgotten_in_time(lease);
            }
            for (index, one) in told.iter().enumerate() {
                for other in told[index + 1..].iter().filter(|other| other.key == one.key) {
                    sums.overlaps += u64::from(self.compare_two(one, other));
                }
            }
            sums
        })
    }

    /// True if both were valid at once and the server's memory is to blame. `one` was told first.
    fn compare_two(&self, one: &Told, other: &Told) -> bool {
        let overlap = one.valid.iter().find_map(|(from, to)| {
            let common = |(start, end): &(Nanos, Nanos)| (*start.max(from), *end.min(to));
            other.valid.iter().map(common).find(|(start, end)| start < end)
        });
        let falls = one.token >= other.token;
        if overlap.is_none() && !falls {
            return false;
        }
        if self.forgotten_before(one, other) || self.forgotten_before(other, one) {
            return overlap.is_some();
        }
        let who = |told: &Told| format!("{} (client {}, token {})", told.owner, told.client, told.token);
        if let Some((from, to)) = overlap {
            let (from, to) = (seconds(from), seconds(to));
            self.world.violate(|| format!("overlap: {} and {} both valid from {from:.6} to {to:.6}", who(one), who(other)));
        }
        if falls {
            self.world.violate(|| format!("token: {} was told before {}", who(one), who(other)));
        }
        false
    }

    /// Whether the server had forgotten `one` when it granted `other`.
    fn forgotten_before(&self, one: &Told, other: &Told) -> bool {
        let forgotten = self.ledger.grant(one.owner, one.token).and_then(|(_, forgotten)| forgotten);
        let granted = self.ledger.grant(other.owner, other.token).map(|(granted, _)| granted);
        forgotten.zip(granted).is_some_and(|(forgotten, granted)| forgotten <= granted)
    }

    /// Whoever lost a lease to the server's bad memory knows after the next renewal.
    fn forgotten_in_time(&self, told: &Told) {
        let Some((_, Some(forgotten))) = self.ledger.grant(told.owner, told.token) else { return };
        let Some(after) = told.renewed_after else { return };
        let knows = forgotten.max(told.at) + u64::try_from((after + Duration::from_secs(1)).as_nanos()).unwrap_or(Nanos::MAX);
        let end = told.end(Nanos::MAX);
        let quiet = |troubles: &Troubles| troubles.last(told.client) < forgotten;
        if end > knows && quiet(&self.ledger.troubles) && quiet(&self.asleep) {
            let late = (end - knows) / MS;
            self.world.violate(|| format!("told late: {} was forgotten, and valid {late} ms too long", told.owner));
        }
    }

    /// What one machine does between two runs is its own matter, for so long.
    pub(crate) fn sleeps(&self, client: usize, lasts: Nanos) {
        self.asleep.add(client, self.world.now() + lasts);
        self.ledger.trouble(client, lasts + SECOND);
    }
}
