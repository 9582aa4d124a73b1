//! Keeps the waiters of a session alive in backend queues: heartbeats for all of them, many in one request.
//!
//! The answer to a heartbeat says when the waiter should ask again, so that a waiter sends a request of its own only when it is
//! worth it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::backend::{Backend, Waiter};
use crate::clock::Clock;
use crate::engine::deadlines::Deadlines;
use crate::engine::line_status::LineStatus;
use crate::observe::logs::target;

/// How many waiters go into one request.
const BATCH: usize = 1000;

#[derive(Clone)]
struct WaitEntry {
    /// Unique for each wait, not for each waiter, so that a stale guard cannot cancel a newer wait's heartbeats.
    number: u64,
    waiter: Waiter,
    ask_again: Arc<Notify>,
    /// What the line of its key knows.
    line_status: Arc<LineStatus>,
    /// Gone once the guard is dropped: an entry that is being sent must not be scheduled again after that.
    wanted: Weak<()>,
}

/// All waiters that a session has in queues.
pub(crate) struct WaiterHeartbeats {
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    op_timeout: Duration,
    heartbeat: Duration,
    deadlines: Deadlines<WaitEntry>,
    numbers: AtomicU64,
}

impl WaiterHeartbeats {
    /// `None` if the backend wants no heartbeats.
    pub(crate) fn new(backend: Arc<dyn Backend>, clock: Arc<dyn Clock>, op_timeout: Duration) -> Option<Arc<Self>> {
        let heartbeat = backend.capabilities().heartbeat?;
        let deadlines = Deadlines::new(clock.clone());
        Some(Arc::new(Self { backend, clock, op_timeout, heartbeat, deadlines, numbers: AtomicU64::new(0) }))
    }

    /// Sends heartbeats until the guard is dropped, and notifies `ask_again` when it is worth asking again.
    pub(crate) fn keep(
        self: &Arc<Self>,
        waiter: Waiter,
        ask_again: Arc<Notify>,
        line_status: Arc<LineStatus>,
        look_again: Duration,
    ) -> HeartbeatGuard {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let wanted = Arc::new(());
        let entry = WaitEntry { number, waiter, ask_again, line_status, wanted: Arc::downgrade(&wanted) };
        self.deadlines.set(number, self.next_heartbeat(look_again), entry);
        HeartbeatGuard { waiters: self.clone(), number, _wanted: wanted }
    }

    fn next_heartbeat(&self, look_again: Duration) -> crate::clock::Instant {
        self.clock.now() + look_again.min(self.heartbeat)
    }

    /// The loop. It never ends by itself: its session aborts it.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            // A heartbeat may come a little early, so those that are due at about the same time share a request.
            let mut due = self.deadlines.due(self.heartbeat / 4).await;
            due.retain(|entry| entry.wanted.strong_count() > 0);
            for entry in &due {
                // Until the answer says otherwise.
                self.deadlines.set(entry.number, self.next_heartbeat(self.heartbeat), entry.clone());
            }
            for batch in due.chunks(BATCH) {
                tokio::spawn(self.clone().send(batch.to_vec()));
            }
        }
    }

    async fn send(self: Arc<Self>, batch: Vec<WaitEntry>) {
        let waiters = batch.iter().map(|entry| entry.waiter.clone()).collect();
        // The next heartbeat is due by then: requests without an answer must not pile up.
        let answers = self.backend.keep_waiting(waiters, self.op_timeout.min(self.heartbeat)).await;
        if let Err(error) = &answers {
            tracing::warn!(target: target::WAITER_HEARTBEATS, server = %self.backend.server(), waiters = batch.len(), %error, "heartbeat of waiters failed");
        }
        for (index, entry) in batch.into_iter().enumerate() {
            if let Err(error) = &answers
                && entry.wanted.strong_count() > 0
            {
                // The next request of the waiter ends the outage, or confirms it.
                entry.line_status.failed(self.clock.now(), error.clone());
            }
            match answers.as_ref().ok().and_then(|answers| answers.get(index)) {
                Some(look_again) if !look_again.is_zero() => self.send_sooner(entry, *look_again),
                // It is time to ask, or no answer came: then the waiter's own request finds out what is wrong.
                _ => entry.ask_again.notify_one(),
            }
        }
    }

    fn send_sooner(&self, entry: WaitEntry, look_again: Duration) {
        if look_again < self.heartbeat && entry.wanted.strong_count() > 0 {
            self.deadlines.set(entry.number, self.next_heartbeat(look_again), entry);
        }
    }
}

/// Ends the heartbeats of a waiter when it is dropped.
pub(crate) struct HeartbeatGuard {
    waiters: Arc<WaiterHeartbeats>,
    number: u64,
    _wanted: Arc<()>,
}

impl Drop for HeartbeatGuard {
    fn drop(&mut self) {
        self.waiters.deadlines.remove(self.number);
    }
}
