//! Releases and withdrawals in the background: closing waits for them, and if the engine stops, the next one goes on with them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::driver::Reader;
use crate::engine::call::Call;
use crate::engine::driven::Work;
use crate::engine::lease_record::LeaseRecord;
use crate::engine::lease_state::Status;
use crate::engine::leaving::Leaving;
use crate::engine::runtime::Engine;
use crate::engine::session::Session;
use crate::observe::logs::target;
use crate::owner::OwnerId;

/// Work that is under way for something that is leaving.
struct BackgroundWork {
    session: Arc<Session>,
    leaving: Arc<Leaving>,
    is_done: bool,
}

/// Counts what the engine has.
struct OnEngine(Arc<Session>);

impl OnEngine {
    fn of(session: &Arc<Session>) -> Self {
        session.left_to_engine.fetch_add(1, Ordering::Relaxed);
        Self(session.clone())
    }
}

impl Drop for OnEngine {
    fn drop(&mut self) {
        self.0.left_to_engine.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for BackgroundWork {
    fn drop(&mut self) {
        // An engine that has stopped drops its work: the next one goes on with it.
        if self.is_done || !self.session.engine.is_stopped() {
            self.leaving.take_over();
        }
    }
}

impl Session {
    /// Whether the engine releases or withdraws something now.
    pub(crate) fn has_left_to_engine(&self) -> bool {
        self.left_to_engine.load(Ordering::Relaxed) > 0
    }

    /// The lease of an owner that is being released.
    pub(super) fn releasing(&self, owner: OwnerId) -> Option<Arc<LeaseRecord>> {
        self.leaving.all().into_iter().filter(|leaving| leaving.owner == owner).find_map(|leaving| leaving.record.clone())
    }

    /// A lease of this key that is being released.
    pub(super) fn releasing_key(&self, key: &str) -> Option<Arc<LeaseRecord>> {
        let releasing = self.leaving.all().into_iter().filter(|leaving| &*leaving.key == key);
        releasing.filter_map(|leaving| leaving.record.clone()).find(|record| record.status() == Status::Releasing)
    }

    /// Records that the lease of a caller is being released. Its caller has checked that this process made the lease.
    pub(super) fn note_release(&self, record: &Arc<LeaseRecord>) -> Arc<Leaving> {
        let leaving = Leaving::new(record.key.clone(), record.owner, record.unanswered, Some(record.clone()));
        self.leaving.add(&leaving);
        leaving
    }

    /// Withdraws in the background. Nothing happens in a forked child: whatever it finds is its parent's.
    pub(super) fn withdraw_as(self: &Arc<Self>, leaving: Arc<Leaving>, work: impl Future<Output = ()> + Send + 'static) {
        // Asked before anything is locked, which a thread of the parent may hold.
        if self.engine.is_of_this_process() {
            self.leaving.add(&leaving);
            self.in_background(leaving, work, || None);
        }
    }

    /// Releases or withdraws in the background; closing waits for it. If the engine stops, the next one withdraws what is left: keys in
    /// memory and in files outlive the engine that took them.
    ///
    /// With a `reader`, the caller's thread goes as far as it can by itself, and the engine gets the rest.
    pub(super) fn in_background(
        self: &Arc<Self>,
        leaving: Arc<Leaving>,
        work: impl Future<Output = ()> + Send + 'static,
        reader: impl FnOnce() -> Option<Reader>,
    ) -> Option<Call> {
        let guard = BackgroundWork { session: self.clone(), leaving: leaving.clone(), is_done: false };
        let work = self.tasks.track_future(async move {
            let mut guard = guard;
            work.await;
            guard.is_done = true;
        });
        let Some(reader) = self.served_here(reader) else {
            self.leave_on_engine(&leaving, work);
            return None;
        };
        let session = self.clone();
        let rest = move |work: Work| {
            session.leave_on_engine(&leaving, work);
            // It goes on whoever leaves.
            None
        };
        Some(Call::of_release(&self.engine, self.engine.start_here(reader, Box::pin(work), rest)))
    }

    fn leave_on_engine(self: &Arc<Self>, leaving: &Leaving, work: impl Future<Output = ()> + Send + 'static) {
        let counted = OnEngine::of(self);
        self.engine.spawn(async move {
            work.await;
            drop(counted);
        });
        if self.engine.is_stopped() {
            self.leave_on_next_engine(leaving);
        }
    }

    /// The engine has stopped: the next one withdraws all that is under way.
    pub(super) fn leave_rest_on_next_engine(self: &Arc<Self>) {
        for leaving in self.leaving.all() {
            self.leave_on_next_engine(&leaving);
        }
    }

    /// Whoever comes first goes on with it: the thread that began it, or the one that informs the session of the stop.
    fn leave_on_next_engine(self: &Arc<Self>, leaving: &Leaving) {
        if !leaving.take_over() {
            return;
        }
        let Leaving { key, owner, unanswered, record, .. } = leaving;
        if let Some(record) = record.as_ref().filter(|record| record.status() == Status::Releasing) {
            self.note_release_ended(record, self.clock.now(), Status::Unconfirmed);
        }
        let (session, key, owner, unanswered) = (self.clone(), key.clone(), *owner, *unanswered);
        match Engine::of_process() {
            Ok(next) => {
                next.spawn(self.tasks.track_future(async move { session.withdraw_twice(key, owner, unanswered).await }));
            }
            Err(error) => {
                tracing::error!(target: target::SESSION, %key, %owner, %error, "a waiter could not be withdrawn; it is left to expire");
            }
        }
    }
}
