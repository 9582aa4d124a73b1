//! The engine's record of one lease: its state under a lock, and who learns that it ends.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::caller::Caller;
use crate::clock::{Clock, Instant};
use crate::engine::lease_state::{Action, LeaseEvent, LeaseState, Status};
use crate::engine::line_status::{LineStatus, OwnLease};
use crate::error::BackendError;
use crate::fencing::Token;
use crate::observe::Subject;
use crate::observe::logs::target;
use crate::owner::OwnerId;

/// Called once, when the lease is lost.
pub(crate) type OnLost = Box<dyn FnOnce(Status) + Send>;

/// Which warnings of a self-wait were given for a lease. Each is given once, however many callers wait.
#[derive(Default)]
pub(crate) struct Warned {
    pub(crate) in_log: AtomicBool,
    pub(crate) by_binding: AtomicBool,
}

/// The record of one lease, shared by its holder, the renewal heap and the waiters of the same key.
pub(crate) struct LeaseRecord {
    pub(crate) key: Arc<str>,
    pub(crate) owner: OwnerId,
    pub(crate) token: Token,
    /// Wall time, for display.
    pub(crate) acquired_at: SystemTime,
    /// How long one request about it may take.
    pub(crate) op_timeout: Duration,
    /// When a request for it was sent that was never answered: executed late, it could take the key once more after the release.
    pub(crate) unanswered: Option<Instant>,
    /// Who holds it. While the client is being closed, this caller and those that it started may acquire more.
    pub(crate) holder: Caller,
    pub(crate) warned: Warned,
    /// When it was granted.
    since: Instant,
    clock: Arc<dyn Clock>,
    state: Mutex<LeaseState>,
    changed: Notify,
    on_lost: Mutex<Option<OnLost>>,
    /// One extension at a time: the backend could execute two in either order.
    pub(crate) extending: tokio::sync::Mutex<()>,
    /// What the line of its key knows.
    line: OnceLock<Arc<LineStatus>>,
    /// The last renewal failed, and the line knows it.
    failing: AtomicBool,
    /// Its handles, and the lock that keeps one of them: they are counted, never used.
    handles: OnceLock<(Weak<Counted>, Weak<Counted>)>,
}

type Counted = dyn Any + Send + Sync;

impl fmt::Debug for LeaseRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseRecord")
            .field("key", &self.key)
            .field("owner", &self.owner)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

impl LeaseRecord {
    pub(crate) fn new(
        key: Arc<str>,
        owner: OwnerId,
        token: Token,
        op_timeout: Duration,
        since: Instant,
        clock: Arc<dyn Clock>,
        state: LeaseState,
    ) -> Self {
        Self {
            key,
            owner,
            token,
            acquired_at: clock.wall(),
            op_timeout,
            unanswered: None,
            holder: Caller::unknown(),
            warned: Warned::default(),
            since,
            clock,
            state: Mutex::new(state),
            changed: Notify::new(),
            on_lost: Mutex::new(None),
            extending: tokio::sync::Mutex::new(()),
            line: OnceLock::new(),
            failing: AtomicBool::new(false),
            handles: OnceLock::new(),
        }
    }

    /// Gives an event to the state machine and wakes the holder's tasks that wait for a change. Called by [`Session::apply`] alone,
    /// which does what follows from the event.
    ///
    /// [`Session::apply`]: crate::engine::session::Session::apply
    pub(super) fn on(&self, now: Instant, event: LeaseEvent) -> Action {
        let (action, before, after) = {
            let mut state = self.state.lock();
            let before = state.status();
            (state.on(now, event), before, state.status())
        };
        if before != after {
            self.changed.notify_waiters();
        }
        action
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&LeaseState) -> T) -> T {
        read(&self.state.lock())
    }

    pub(crate) fn set_renew(&self, renew: bool) {
        let now = self.clock.now();
        self.state.lock().set_renew(now, renew);
        if !renew && self.failing.swap(false, Ordering::Relaxed) {
            self.with_line(LineStatus::renewals_ended);
        }
    }

    /// Sets its handles, and the lock that keeps one of them.
    pub(crate) fn handled_by(&self, handles: Weak<Counted>, lock: Weak<Counted>) {
        let _ = self.handles.set((handles, lock));
    }

    /// Whether only its lock can still reach it: the holder has dropped every handle.
    pub(crate) fn is_discarded(&self) -> bool {
        self.handles.get().is_some_and(|(handles, lock)| handles.strong_count() == 1 && lock.strong_count() > 0)
    }

    /// How long it has been held.
    pub(crate) fn held_for(&self) -> Duration {
        self.clock.now().since(self.since)
    }

    /// Notes in the line of its key that this lease holds the key.
    pub(crate) fn stands_before(&self, line: &Arc<LineStatus>) {
        line.granted(self.since, self.own());
        let _ = self.line.set(line.clone());
    }

    pub(crate) fn own(&self) -> OwnLease {
        OwnLease { owner: self.owner, token: self.token, acquired_at: self.acquired_at }
    }

    /// Notes a failed renewal, for the callers that wait for the lease to end.
    pub(crate) fn renewal_failed(&self, error: &BackendError) {
        if self.status() == Status::Held {
            self.failing.store(true, Ordering::Relaxed);
            self.with_line(|line| line.failed(self.clock.now(), error.clone()));
        }
    }

    /// Notes a renewal that was answered.
    pub(crate) fn renewal_answered(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            self.with_line(|line| line.answered(self.clock.now(), None));
        }
    }

    fn with_line(&self, act: impl FnOnce(&LineStatus)) {
        if let Some(line) = self.line.get() {
            act(line);
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.read(LeaseState::status)
    }

    pub(crate) fn is_valid(&self) -> bool {
        let now = self.clock.now();
        self.read(|state| state.is_valid(now))
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) fn wall(&self) -> SystemTime {
        self.clock.wall()
    }

    /// [`LeaseRecord::subject`] of a lease that ended at `end`.
    pub(crate) fn subject_until(&self, end: Instant) -> Subject<'_> {
        Subject { key: &self.key, token: self.token, owner: self.owner, held: end.since(self.since) }
    }

    /// What observers learn about it with each event.
    pub(crate) fn subject(&self) -> Subject<'_> {
        self.subject_until(self.clock.now())
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.read(LeaseState::next_deadline)
    }

    /// Calls `on_lost` when the lease is lost, at once if it already is.
    pub(crate) fn when_lost(&self, on_lost: OnLost) {
        *self.on_lost.lock() = Some(on_lost);
        // The loss may have come before the callback was set: whichever side takes it out calls it.
        let status = self.status();
        if let Status::Lost(_) = status {
            self.call_on_lost(status);
        }
    }

    /// Calls the holder's callback, unless there is none or it was called before.
    pub(super) fn call_on_lost(&self, status: Status) {
        // Unlocked before the call: the callback may set another one.
        let on_lost = self.on_lost.lock().take();
        let Some(on_lost) = on_lost else { return };
        // A panic here would end the loop that renews every lease of the session.
        if catch_unwind(AssertUnwindSafe(|| on_lost(status))).is_err() {
            tracing::error!(target: target::LEASE_RECORD, key = %self.key, token = self.token, "the callback for a lost lease panicked");
        }
    }

    /// Resolves once `test` holds of the status.
    pub(crate) async fn until(&self, test: impl Fn(Status) -> bool) -> Status {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let status = self.status();
            if test(status) {
                return status;
            }
            changed.await;
        }
    }
}
