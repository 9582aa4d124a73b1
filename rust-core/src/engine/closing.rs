//! How a session is closed: new work is refused, and those who hold a lease may finish, for which they may acquire more.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::caller::Caller;
use crate::clock::Instant;
use crate::engine::lease_state::LeaseEvent;
use crate::engine::leases::{Leases, Relation};
use crate::engine::session::Session;
use crate::observe::logs::target;
use crate::process::EXIT_GRACE;

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
    /// A caller that holds a lease goes on, and so do the callers that it started, up to the end of the drain: such an attempt was
    /// admitted, and goes on waiting even if the holder's lease ends before. If nobody can know whether the caller is one of them,
    /// it goes on while any lease is held that was held when closing began.
    pub(crate) async fn refusal(&self, caller: &Caller) {
        self.closing.begun.cancelled().await;
        // Boxed so that the other attempts do not reserve space for it.
        Box::pin(self.refusal_while_draining(caller)).await;
    }

    async fn refusal_while_draining(&self, caller: &Caller) {
        let admitted = {
            let leases = self.leases.lock();
            let relation = leases.relation_of(caller);
            if self.closing.closed.is_cancelled() || relation == Relation::Outside {
                return;
            }
            // Counted while the leases are locked: the end of the drain sees either the lease or this attempt.
            (relation == Relation::Holds).then(|| {
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

    /// Whether this caller may ask about keys. Before closing begins everybody may; until the drain ends a caller that holds a
    /// lease may, and the callers that it started.
    pub(crate) fn may_ask(&self, caller: &Caller) -> bool {
        let drains = || !self.closing.closed.is_cancelled() && self.leases.lock().relation_of(caller) == Relation::Holds;
        !self.closing.begun.is_cancelled() || drains()
    }

    /// Resolves once `test` holds of the leases. It is tested whenever [`Leases::remove`] says so.
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

    /// From now on the engine serves everybody, in the order in which they ask: [`Session::close`] comes before whatever is asked later.
    pub(crate) fn announce_closing(&self) {
        self.closing.announced.store(true, Ordering::Relaxed);
        self.engine.driven_calls().take_over();
    }

    /// Refuses new attempts, waits for holders to finish while their leases are still renewed, at most until `until`, then ends the leases
    /// that are left.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the session closed to new attempts, with its leases still renewed.
    pub(crate) async fn close(self: &Arc<Self>, until: Instant) {
        self.announce_closing();
        // Counted before attempts are refused: an attempt asks at once whether its caller holds a lease.
        self.leases.lock().count_holders();
        self.closing.begun.cancel();
        let drained = self.until(|leases| leases.len() == 0 && self.closing.admitted.load(Ordering::Relaxed) == 0);
        tokio::select! {
            biased;
            () = drained => {}
            () = self.closing.closed.cancelled() => {}
            () = self.clock.sleep_until(until) => {}
        }
        self.closing.closed.cancel();
        let mut left = self.leases_now();
        left.sort_unstable_by_key(|record| record.owner.sequence);
        for record in left {
            self.apply(&record, LeaseEvent::Close);
        }
        self.tasks.close();
        let grace = self.clock.sleep_until(self.clock.now() + EXIT_GRACE);
        tokio::select! {
            biased;
            () = self.tasks.wait() => {}
            () = grace => tracing::warn!(target: target::CLOSING, server = %self.backend.server(), "closed before every release was confirmed"),
        }
        self.stop();
        self.observer.deliver();
        self.backend.close().await;
    }
}
