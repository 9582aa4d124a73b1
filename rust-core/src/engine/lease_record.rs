//! The engine's record of one lease: its state under a lock, and who is told when it ends.

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

/// What was said about a lease to those whom its holder started and that wait for it. Once each: there may be many.
#[derive(Default)]
pub(crate) struct Warned {
    pub(crate) in_log: AtomicBool,
    pub(crate) by_binding: AtomicBool,
}

/// One lease, shared by its holder, the renewal heap and the waiters of the same key.
pub(crate) struct LeaseRecord {
    pub(crate) key: Arc<str>,
    pub(crate) owner: OwnerId,
    pub(crate) token: Token,
    /// Wall time, for display.
    pub(crate) acquired_at: SystemTime,
    /// How long one request about it may take.
    pub(crate) op_timeout: Duration,
    /// When a request for it left that was never answered: executed late, it could take the key once more after the release.
    pub(crate) unanswered: Option<Instant>,
    /// Who took it, and with it what that one started may take more while the client is being closed.
    pub(crate) holder: Caller,
    pub(crate) said: Warned,
    /// When it was got.
    since: Instant,
    clock: Arc<dyn Clock>,
    state: Mutex<LeaseState>,
    changed: Notify,
    on_lost: Mutex<Option<OnLost>>,
    /// One extension at a time: two in flight could be executed in either order.
    pub(crate) extending: tokio::sync::Mutex<()>,
    /// What the line of its key knows.
    line: OnceLock<Arc<LineStatus>>,
    /// The last renewal failed, and the line was told.
    failing: AtomicBool,
    /// Its handles and the lock that remembers one of them: they are counted, never used.
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
            said: Warned::default(),
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

    /// Gives an event to the state machine and wakes the holder's tasks that wait for a change. Called by [`Session::apply`] alone, which does
    /// what follows from it.
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
            self.line(LineStatus::renewals_ended);
        }
    }

    /// These are its handles; the lock remembers one of them.
    pub(crate) fn handled_by(&self, handles: Weak<Counted>, lock: Weak<Counted>) {
        let _ = self.handles.set((handles, lock));
    }

    /// Whether only its lock can still reach it: whoever took it has thrown it away.
    pub(crate) fn is_discarded(&self) -> bool {
        self.handles.get().is_some_and(|(handles, lock)| handles.strong_count() == 1 && lock.strong_count() > 0)
    }

    /// How long it has been held.
    pub(crate) fn held_for(&self) -> Duration {
        self.clock.now().since(self.since)
    }

    /// The key of this line is held by it.
    pub(crate) fn stands_before(&self, line: &Arc<LineStatus>) {
        line.granted(self.since, self.own());
        let _ = self.line.set(line.clone());
    }

    pub(crate) fn own(&self) -> OwnLease {
        OwnLease { owner: self.owner, token: self.token, acquired_at: self.acquired_at }
    }

    /// A renewal failed: those who wait for its end know.
    pub(crate) fn renewal_failed(&self, error: &BackendError) {
        if self.status() == Status::Held {
            self.failing.store(true, Ordering::Relaxed);
            self.line(|line| line.failed(self.clock.now(), error.clone()));
        }
    }

    /// A renewal was answered.
    pub(crate) fn renewal_answered(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            self.line(|line| line.answered(self.clock.now(), None));
        }
    }

    fn line(&self, tell: impl FnOnce(&LineStatus)) {
        if let Some(line) = self.line.get() {
            tell(line);
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

    /// [`LeaseRecord::subject`] of a lease whose life ended at `end`.
    pub(crate) fn subject_until(&self, end: Instant) -> Subject<'_> {
        Subject { key: &self.key, token: self.token, owner: self.owner, held: end.since(self.since) }
    }

    /// What is told of it when something happens to it.
    pub(crate) fn subject(&self) -> Subject<'_> {
        self.subject_until(self.clock.now())
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.read(LeaseState::next_deadline)
    }

    /// Has `on_lost` called when the lease is lost, at once if it already is.
    pub(crate) fn when_lost(&self, on_lost: OnLost) {
        *self.on_lost.lock() = Some(on_lost);
        // The loss may have come before the callback was there: whoever takes it out calls it.
        let status = self.status();
        if let Status::Lost(_) = status {
            self.tell_loss(status);
        }
    }

    /// Calls the holder's callback, if there is one and it was not called yet.
    pub(super) fn tell_loss(&self, status: Status) {
        // Unlocked before it is called: it may ask for another one.
        let on_lost = self.on_lost.lock().take();
        let Some(on_lost) = on_lost else { return };
        // A panic here would end the loop that renews every lease of the session.
        if catch_unwind(AssertUnwindSafe(|| on_lost(status))).is_err() {
            tracing::error!(target: target::HELD, key = %self.key, token = self.token, "the callback for a lost lease panicked");
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
