//! How a session is closed: new work is refused, and who holds a lease may finish, which may take more leases.

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::caller::{Caller, CallerId};
use crate::engine::lease_record::LeaseRecord;
use crate::engine::lease_state::{Action, Event};
use crate::engine::session::Session;
use crate::observe::logs::target;

/// How long the end of a session waits for the releases that it started.
const FAREWELL: Duration = Duration::from_secs(2);

/// How far a session is on its way to its end.
#[derive(Default)]
pub(crate) struct Closing {
    /// New work is refused from here on.
    pub(crate) begun: CancellationToken,
    /// The drain is over: everything is refused from here on.
    pub(crate) closed: CancellationToken,
    /// Attempts of callers that hold a lease, or were started by one who did when the attempt was admitted.
    admitted: AtomicUsize,
}

/// The leases of a session, and once it is being closed, who holds them.
#[derive(Default)]
pub(crate) struct Leases {
    by_sequence: HashMap<u64, Arc<LeaseRecord>>,
    /// `None` until then: nobody asks.
    holders: Option<Holders>,
}

#[derive(Default)]
struct Holders {
    /// How many leases each known caller holds.
    known: HashMap<CallerId, usize>,
    /// Of the leases that were held when closing began, those that still are. Where callers are unknown, only these let one acquire more:
    /// if what is acquired now did as well, a client under load would never be drained.
    first: HashSet<u64>,
    /// How many of those may be anybody's.
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

    /// True if somebody may wait for that: none is left, or none of those that were held when closing began.
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

    /// Knows from here on who holds them.
    fn count_holders(&mut self) {
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

    /// Whether this caller, or one of those who started it, holds a lease.
    fn are_of(&self, caller: &Caller) -> Standing {
        let Some(holders) = &self.holders else { return Standing::Outside };
        if caller.lineage().any(|id| holders.known.contains_key(&id)) {
            Standing::Holds
        } else if holders.unknown > 0 || !(caller.is_known() || holders.first.is_empty()) {
            Standing::MayHold
        } else {
            Standing::Outside
        }
    }

    fn first_are_gone(&self) -> bool {
        self.holders.as_ref().is_none_or(|holders| holders.first.is_empty())
    }
}

/// How a caller stands to the leases of a session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Holds,
    /// Nobody can know.
    MayHold,
    Outside,
}

/// An attempt that the end of the drain waits for.
struct Admitted<'a>(&'a Session);

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if self.0.closing.admitted.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.leases_changed.notify_waiters();
        }
    }
}

impl Session {
    /// Resolves when an attempt of this caller is refused, because the client is closed or is being closed.
    ///
    /// Who holds a lease goes on, and so does what it started, up to the end of the drain: that was admitted once, and waits for what it has
    /// asked for even if the holder ends before. Where nobody can know whether the caller is one of those, it goes on while any of the leases
    /// is held that were held when closing began.
    pub(crate) async fn refusal(&self, caller: &Caller) {
        self.closing.begun.cancelled().await;
        // Boxed: most attempts never get here, and carry no room for it.
        Box::pin(self.refusal_while_draining(caller)).await;
    }

    async fn refusal_while_draining(&self, caller: &Caller) {
        let admitted = {
            let leases = self.leases.lock();
            let standing = leases.are_of(caller);
            if self.closing.closed.is_cancelled() || standing == Standing::Outside {
                return;
            }
            // With the leases locked: the end of the drain sees the lease, or this.
            (standing == Standing::Holds).then(|| {
                self.closing.admitted.fetch_add(1, Ordering::Relaxed);
                Admitted(self)
            })
        };
        let nothing_held = async {
            if admitted.is_some() {
                return pending().await;
            }
            self.until(Leases::first_are_gone).await;
        };
        tokio::select! {
            biased;
            () = self.closing.closed.cancelled() => {}
            () = nothing_held => {}
        }
    }

    /// Whether this caller may ask about keys: until closing begins anybody, up to the end of the drain who holds a lease, or was started by
    /// one who does.
    pub(crate) fn may_ask(&self, caller: &Caller) -> bool {
        let drains = || !self.closing.closed.is_cancelled() && self.leases.lock().are_of(caller) == Standing::Holds;
        !self.closing.begun.is_cancelled() || drains()
    }

    /// Resolves once `test` holds of the leases; looked at whenever [`Leases::remove`] says so.
    async fn until(&self, test: impl Fn(&Leases) -> bool) {
        loop {
            let empty = self.leases_changed.notified();
            tokio::pin!(empty);
            empty.as_mut().enable();
            if test(&self.leases.lock()) {
                return;
            }
            empty.await;
        }
    }

    /// Refuses new attempts, waits for holders to finish while their leases are still renewed, then takes away what is left.
    ///
    /// # Cancel safety
    /// Dropping it leaves the session closed to new attempts, with its leases still renewed.
    pub(crate) async fn close(self: &Arc<Self>, timeout: Duration) {
        // Before anybody is told: who is asks whether it may go on.
        self.leases.lock().count_holders();
        self.closing.begun.cancel();
        let drained = self.until(|leases| leases.len() == 0 && self.closing.admitted.load(Ordering::Relaxed) == 0);
        tokio::select! {
            biased;
            () = drained => {}
            () = self.closing.closed.cancelled() => {}
            () = self.clock.sleep_until(self.clock.now() + timeout) => {}
        }
        self.closing.closed.cancel();
        let mut left = self.leases_now();
        left.sort_unstable_by_key(|record| record.owner.sequence);
        for record in left {
            if let Action::Lose(reason) = record.on(Event::Close) {
                self.on_loss(&record, reason);
            }
        }
        self.tasks.close();
        let farewell = self.clock.sleep_until(self.clock.now() + FAREWELL);
        tokio::select! {
            biased;
            () = self.tasks.wait() => {}
            () = farewell => tracing::warn!(target: target::CLOSING, server = %self.backend.server(), "closed before every release was confirmed"),
        }
        self.stop();
        self.observer.deliver();
        self.backend.close().await;
    }
}
