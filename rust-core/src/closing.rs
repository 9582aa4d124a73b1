//! How a session is closed: new work is refused, and who holds a lease may finish, which may take more leases.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::caller::{Caller, CallerId};
use crate::held::Held;
use crate::lease_state::{Action, Event};
use crate::session::Session;

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

/// The leases of a session, and while it is being closed, who holds them.
#[derive(Default)]
pub(crate) struct Leases {
    by_sequence: HashMap<u64, Arc<Held>>,
    /// Kept while somebody asks for it only: most sessions are closed once.
    holders: Option<Holders>,
}

/// How many leases each caller holds.
#[derive(Default)]
struct Holders {
    known: HashMap<CallerId, usize>,
    /// Leases that may be anybody's.
    unknown: usize,
}

impl Holders {
    fn add(&mut self, holder: &Caller) {
        match holder.id() {
            Some(id) => *self.known.entry(id).or_default() += 1,
            None => self.unknown += 1,
        }
    }

    fn remove(&mut self, holder: &Caller) {
        let Some(id) = holder.id() else {
            self.unknown = self.unknown.saturating_sub(1);
            return;
        };
        if let Some(count) = self.known.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.known.remove(&id);
            }
        }
    }
}

impl Leases {
    pub(crate) fn insert(&mut self, held: &Arc<Held>) {
        if self.by_sequence.insert(held.owner.sequence, held.clone()).is_none()
            && let Some(holders) = &mut self.holders
        {
            holders.add(&held.holder);
        }
    }

    /// True if that was the last one.
    pub(crate) fn remove(&mut self, held: &Held) -> bool {
        if self.by_sequence.remove(&held.owner.sequence).is_some()
            && let Some(holders) = &mut self.holders
        {
            holders.remove(&held.holder);
        }
        self.by_sequence.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_sequence.len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Held>> {
        self.by_sequence.values().cloned().collect()
    }

    /// Keeps from here on who holds them.
    fn count_holders(&mut self) {
        if self.holders.is_none() {
            let mut holders = Holders::default();
            self.by_sequence.values().for_each(|held| holders.add(&held.holder));
            self.holders = Some(holders);
        }
    }

    /// Whether this caller, or one of those who started it, holds a lease.
    fn are_of(&self, caller: &Caller) -> Standing {
        let Some(holders) = &self.holders else { return Standing::Outside };
        if caller.lineage().any(|id| holders.known.contains_key(&id)) {
            Standing::Holds
        } else if holders.unknown > 0 || !(caller.is_known() || self.by_sequence.is_empty()) {
            Standing::MayHold
        } else {
            Standing::Outside
        }
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
            self.0.no_leases.notify_waiters();
        }
    }
}

impl Session {
    /// Resolves when an attempt of this caller is refused, because the client is closed or is being closed.
    ///
    /// Who holds a lease goes on, and so does what it started, up to the end of the drain: that was admitted once, and waits for what it has
    /// asked for even if the holder ends before. Where nobody can know whether the caller is one of those, it goes on while any lease is held.
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
            self.until(|leases| leases.len() == 0).await;
        };
        tokio::select! {
            biased;
            () = self.closing.closed.cancelled() => {}
            () = nothing_held => {}
        }
    }

    /// Resolves once `test` holds of the leases; looked at whenever the last of them has ended.
    async fn until(&self, test: impl Fn(&Leases) -> bool) {
        loop {
            let empty = self.no_leases.notified();
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
        let mut left = self.held_now();
        left.sort_unstable_by_key(|held| held.owner.sequence);
        for held in left {
            if let Action::Lose(reason) = held.on(Event::Close) {
                self.on_loss(&held, reason);
            }
        }
        self.tasks.close();
        let farewell = self.clock.sleep_until(self.clock.now() + FAREWELL);
        tokio::select! {
            biased;
            () = self.tasks.wait() => {}
            () = farewell => tracing::warn!(server = %self.backend.server(), "closed before every release was confirmed"),
        }
        self.stop();
        self.observer.deliver();
        self.backend.close().await;
    }
}
