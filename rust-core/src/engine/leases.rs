//! The leases of a session, and who holds them once it is being closed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use tokio_util::sync::CancellationToken;

use crate::caller::{Caller, CallerId};
use crate::engine::lease_record::LeaseRecord;

/// How far a session has been closed.
#[derive(Default)]
pub(crate) struct Closing {
    /// No caller drives its call any more, so that what closing begins with is not overtaken.
    pub(super) announced: AtomicBool,
    /// New work is refused from here on.
    pub(crate) begun: CancellationToken,
    /// The drain is over: everything is refused from here on.
    pub(crate) closed: CancellationToken,
    /// Attempts that were admitted while closing: their callers hold a lease, or were started by a caller that did.
    pub(super) admitted: AtomicUsize,
}

/// The leases of a session and, once it is being closed, who holds them.
#[derive(Default)]
pub(crate) struct Leases {
    by_sequence: HashMap<u64, Arc<LeaseRecord>>,
    /// `None` until closing begins: nobody needs it before.
    holders: Option<Holders>,
}

#[derive(Default)]
struct Holders {
    /// How many leases each known caller holds.
    known: HashMap<CallerId, usize>,
    /// The leases that were held when closing began and still are. Where callers are unknown, only these admit more attempts: if
    /// newer leases did as well, a client under load would never be drained.
    first: HashSet<u64>,
    /// How many of those have an unknown holder.
    unknown: usize,
}

impl Holders {
    fn add(&mut self, record: &LeaseRecord) {
        if let Some(id) = record.holder.id() {
            *self.known.entry(id).or_default() += 1;
        }
    }

    /// True if that was the last of those that were held when closing began.
    fn remove(&mut self, record: &LeaseRecord) -> bool {
        let was_first = self.first.remove(&record.owner.sequence);
        match record.holder.id() {
            None => self.unknown -= usize::from(was_first),
            Some(id) => {
                if let Some(count) = self.known.get_mut(&id) {
                    *count -= 1;
                    if *count == 0 {
                        self.known.remove(&id);
                    }
                }
            }
        }
        was_first && self.first.is_empty()
    }
}

impl Leases {
    pub(crate) fn insert(&mut self, record: &Arc<LeaseRecord>) {
        if self.by_sequence.insert(record.owner.sequence, record.clone()).is_none()
            && let Some(holders) = &mut self.holders
        {
            holders.add(record);
        }
    }

    /// True if somebody may wait for this: no lease is left, or none of those that were held when closing began.
    pub(crate) fn remove(&mut self, record: &LeaseRecord) -> bool {
        let known = self.by_sequence.remove(&record.owner.sequence).is_some();
        let first_are_gone = known && self.holders.as_mut().is_some_and(|holders| holders.remove(record));
        first_are_gone || self.by_sequence.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_sequence.len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<LeaseRecord>> {
        self.by_sequence.values().cloned().collect()
    }

    /// Counts the holders from here on.
    pub(super) fn count_holders(&mut self) {
        if self.holders.is_none() {
            let mut holders = Holders::default();
            for record in self.by_sequence.values() {
                holders.add(record);
                holders.first.insert(record.owner.sequence);
                holders.unknown += usize::from(record.holder.id().is_none());
            }
            self.holders = Some(holders);
        }
    }

    /// How this caller and its ancestors stand to the leases.
    pub(super) fn relation_of(&self, caller: &Caller) -> Relation {
        let Some(holders) = &self.holders else { return Relation::Outside };
        if caller.lineage().any(|id| holders.known.contains_key(&id)) {
            Relation::Holds
        } else if holders.unknown > 0 || !(caller.is_known() || holders.first.is_empty()) {
            Relation::MayHold
        } else {
            Relation::Outside
        }
    }

    pub(super) fn first_are_gone(&self) -> bool {
        self.holders.as_ref().is_none_or(|holders| holders.first.is_empty())
    }
}

/// How a caller stands to the leases of a session: it counts as a holder if an ancestor of it holds one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Holds,
    /// Nobody can know.
    MayHold,
    Outside,
}
