//! What is promised to those who wait while the backend does not answer: each is told so, and when its own time is up.
//!
//! Judged by what went over the wire for one key of one machine, whoever of its callers it was sent for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dlock::Error;
use parking_lot::Mutex;

use crate::history::History;
use crate::ledger::Troubles;
use crate::world::{MS, Nanos, World};

/// What a machine may take to tell a caller what it knows.
const AIR: Nanos = 60 * MS;
/// So short an outage may have begun too late for a caller whose time was up.
const MOMENT: Nanos = 2 * MS;
/// Between two requests of one attempt in an outage.
const LONGEST_PAUSE: Nanos = 520 * MS;

/// What a machine can know of a key.
#[derive(Clone, Copy, Debug, Default)]
struct Wire {
    /// When the first request left that had no answer since, and the first and the last that failed.
    asked: Option<Nanos>,
    failing: Option<(Nanos, Nanos)>,
    /// When the last definite answer came.
    answered: Option<Nanos>,
}

pub(crate) struct Outages {
    world: Arc<World>,
    history: Arc<History>,
    asleep: Arc<Troubles>,
    connect_timeout: Nanos,
    op_timeout: Nanos,
    wires: Mutex<BTreeMap<(usize, Arc<str>), Wire>>,
}

impl Outages {
    pub(crate) fn new(
        world: &Arc<World>,
        history: &Arc<History>,
        asleep: &Arc<Troubles>,
        connect_timeout: Duration,
        op_timeout: Duration,
    ) -> Self {
        let nanos = |timeout: Duration| u64::try_from(timeout.as_nanos()).unwrap_or(Nanos::MAX);
        Self {
            world: world.clone(),
            history: history.clone(),
            asleep: asleep.clone(),
            connect_timeout: nanos(connect_timeout),
            op_timeout: nanos(op_timeout),
            wires: Mutex::default(),
        }
    }

    fn on(&self, client: usize, key: &Arc<str>, change: impl FnOnce(&mut Wire, Nanos)) {
        change(self.wires.lock().entry((client, key.clone())).or_default(), self.world.now());
    }

    /// A machine asks for a place in the queue.
    pub(crate) fn asking(&self, client: usize, key: &Arc<str>) {
        self.on(client, key, |wire, now| wire.asked = wire.asked.or(Some(now)));
    }

    /// That request failed. After a while in which nobody asked, it is another outage.
    pub(crate) fn failed(&self, client: usize, key: &Arc<str>) {
        let goes_on = self.op_timeout * 103 / 100 + LONGEST_PAUSE + AIR;
        self.on(client, key, |wire, now| {
            let first = wire.failing.filter(|(_, last)| now <= last + goes_on).map_or(now, |(first, _)| first);
            wire.failing = Some((first, now));
        });
    }

    /// A definite answer about the key.
    pub(crate) fn answered(&self, client: usize, key: &Arc<str>) {
        self.on(client, key, |wire, now| *wire = Wire { answered: Some(now), ..Wire::default() });
    }

    /// Nobody of a machine waits for the key any more: what is wrong with the backend is forgotten.
    pub(crate) fn nobody_waits(&self, client: usize, key: &Arc<str>) {
        self.on(client, key, |wire, _| (wire.asked, wire.failing) = (None, None));
    }

    /// Who waits for the key came at this moment, perhaps to a new line: that knows nothing of an outage, and has asked just now if at all.
    pub(crate) fn may_begin_anew(&self, client: usize, key: &Arc<str>) {
        self.on(client, key, |wire, now| (wire.asked, wire.failing) = (wire.asked.map(|_| now), None));
    }

    /// A caller that waited in line from `joined` on did not get the key.
    pub(crate) fn told(&self, client: usize, key: &Arc<str>, joined: Nanos, error: &Error) {
        let now = self.world.now();
        let wire = self.wires.lock().get(&(client, key.clone())).copied().unwrap_or_default();
        if self.asleep.last(client) >= joined {
            return;
        }
        // Behind a lease of its own a machine asks nobody.
        if let Some((first, _)) = wire.failing.filter(|(_, last)| *last >= joined) {
            let known = first.max(joined);
            let due = known + (self.connect_timeout + self.op_timeout) * 103 / 100 + AIR;
            if now > due {
                let late = (now - due) / MS;
                self.world
                    .violate(|| format!("told late: a caller of client {client} for {key} heard of the outage {late} ms too late"));
            }
            if matches!(error, Error::AcquireTimeout { .. }) && known + MOMENT < now {
                self.world.violate(|| {
                    format!("told wrongly: client {client} could not ask for {key}, and told a caller that it is held: {error}")
                });
            }
        }
        let silent = wire.asked.filter(|_| wire.answered.is_none_or(|answered| answered < joined));
        if let (Some(asked), Error::AcquireTimeout { .. }) = (silent, error)
            && now > asked + self.op_timeout / 2
            && !self.history.was_held_by_itself(client, key, joined)
        {
            self.world
                .violate(|| format!("told wrongly: client {client} heard nothing of {key}, and told a caller that it is held"));
        }
    }
}
