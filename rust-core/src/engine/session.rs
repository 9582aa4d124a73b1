//! A session: one identity under which leases and waiters are registered, and everything that looks after them.
//!
//! Other rooms hold the rest of what it does: `acquire` and `retry` how it acquires a key, `release` how it releases one, `closing`
//! how it ends.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use crate::backend::measured::Measured;
use crate::backend::{Backend, Context, Hint};
use crate::clock::{Clock, Instant};
use crate::driver::Reader;
use crate::engine::environment::Environment;
use crate::engine::lease_record::LeaseRecord;
use crate::engine::lease_state::{Action, LeaseEvent, Status};
use crate::engine::leases::{Closing, Leases};
use crate::engine::leaving::LeavingList;
use crate::engine::line::{HandoverRequest, Lines};
use crate::engine::pending_calls::stopped;
use crate::engine::renewal::Renewals;
use crate::engine::runtime::{Attended, Engine};
use crate::engine::waiter_heartbeats::WaiterHeartbeats;
use crate::error::{BackendError, Error, LossReason, Result};
use crate::fencing::Token;
use crate::holder::Notes;
use crate::observe::Observer;
use crate::observe::logs::target;
use crate::options::ClientOptions;
use crate::owner::{OwnerId, SessionId};

/// As many tasks as one caller has at the most: its attempt or its release, each counted twice while it begins.
const FEW_TASKS: usize = 3;

/// What ties together the leases, the waiters and the backend of one client.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) observer: Arc<Observer>,
    pub(crate) options: ClientOptions,
    pub(crate) lines: Arc<Lines>,
    pub(crate) renewals: Arc<Renewals>,
    pub(crate) heartbeats: Option<Arc<WaiterHeartbeats>>,
    pub(crate) engine: Engine,
    /// Work that goes on after its caller has left: releases and withdrawals.
    pub(crate) tasks: TaskTracker,
    pub(crate) closing: Closing,
    pub(crate) notes: Notes,
    pub(crate) leases: Mutex<Leases>,
    /// Notified when the last lease has ended, and whenever closing may have something less to wait for.
    pub(crate) leases_changed: Notify,
    sequence: AtomicU64,
    floor: AtomicU64,
    loops: Vec<Option<AbortHandle>>,
    /// What is being released or withdrawn in the background.
    pub(super) leaving: LeavingList,
    /// How much of it the engine has. Acquires then queue behind it, since they must not overtake the release before them.
    pub(super) left_to_engine: AtomicUsize,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).field("server", self.backend.server()).finish_non_exhaustive()
    }
}

/// The session, as its own parts reach it: weakly, since a strong reference would keep it alive.
#[derive(Clone, Default)]
struct Myself(Arc<OnceLock<Weak<Session>>>);

impl Myself {
    fn is(&self, session: &Arc<Session>) {
        let _ = self.0.set(Arc::downgrade(session));
    }

    /// `None` before the session has started and once it is gone.
    fn get(&self) -> Option<Arc<Session>> {
        self.0.get().and_then(Weak::upgrade)
    }
}

impl Session {
    /// Opens the backend and starts the tasks that look after leases. No I/O yet.
    pub(crate) fn start(environment: &Environment, options: ClientOptions, observer: Arc<Observer>) -> Result<Arc<Self>> {
        let engine = environment.engine.clone().map_or_else(Engine::of_process, |handle| Ok(Engine::on(handle)))?;
        let session = engine
            .waking_under_lock(|| {
                if environment.engine.is_none() {
                    // A dead thread is noticed here rather than in the tasks below, which stop the engine at once.
                    engine.handle().spawn(async {});
                }
                Self::start_on(&engine, environment, options, observer)
            })
            .unwrap_or_else(|| Err(stopped()))?;
        if environment.engine.is_none() {
            let session: Arc<dyn Attended> = session.clone();
            engine.attend(Arc::downgrade(&session));
        }
        Ok(session)
    }

    fn start_on(engine: &Engine, environment: &Environment, options: ClientOptions, observer: Arc<Observer>) -> Result<Arc<Self>> {
        let clock = environment.clock.clone();
        let id = environment.session.map_or_else(SessionId::random, Ok).map_err(Error::engine_not_started)?;
        let this = Myself::default();
        let (hinted, keeper, leaver) = (this.clone(), this.clone(), this.clone());
        let context = Context {
            session: id,
            clock: clock.clone(),
            namespace: options.namespace.as_str().into(),
            connect_timeout: options.connect_timeout,
            op_timeout: options.op_timeout,
            on_hint: Arc::new(move |hint| {
                if let Some(session) = hinted.get() {
                    session.on_hint(&hint);
                }
            }),
        };
        // Backends may start tasks of their own.
        let _on_engine = engine.handle().enter();
        let backend: Arc<dyn Backend> = Measured::new(environment.backend.open(context), clock.clone(), observer.clone());
        let apply = Box::new(move |record: &Arc<LeaseRecord>, event| {
            keeper.get().map_or(Action::Wait, |session| session.apply(record, event))
        });
        let withdraw = Box::new(move |key, position| {
            if let Some(session) = leaver.get() {
                session.withdraw(key, position);
            }
        });
        let renewals = Renewals::new(backend.clone(), clock.clone(), observer.clone(), options.renewal, apply);
        let heartbeats = WaiterHeartbeats::new(backend.clone(), clock.clone(), options.op_timeout);
        let mut loops = vec![engine.keep(renewals.clone().run()), engine.keep(observer.clone().run())];
        loops.extend(heartbeats.clone().map(|heartbeats| engine.keep(heartbeats.run())));
        let session = Arc::new(Self {
            id,
            backend,
            clock,
            observer,
            options,
            lines: Lines::new(withdraw),
            renewals,
            heartbeats,
            engine: engine.clone(),
            tasks: TaskTracker::new(),
            closing: Closing::default(),
            notes: Notes::of_this_process(),
            leases: Mutex::default(),
            leases_changed: Notify::new(),
            sequence: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            loops,
            leaving: LeavingList::default(),
            left_to_engine: AtomicUsize::new(0),
        });
        this.is(&session);
        Ok(session)
    }

    /// A new owner id, one for each attempt.
    pub(crate) fn next_owner(&self) -> OwnerId {
        OwnerId { session: self.id, sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// The highest token that this session has seen.
    pub(crate) fn floor(&self) -> Token {
        self.floor.load(Ordering::Relaxed)
    }

    /// Registers a lease that was just granted.
    pub(crate) fn register(self: &Arc<Self>, record: &Arc<LeaseRecord>) {
        self.floor.fetch_max(record.token, Ordering::Relaxed);
        // The line comes first: a lease that is registered or scheduled may end at once, and must then be found in its line.
        self.lines.set_holder(record.clone());
        self.leases.lock().insert(record);
        self.renewals.schedule(record);
        if self.engine.is_stopped() {
            // The leases may have been ended before this one was among them.
            self.apply(record, LeaseEvent::Unattended);
        }
    }

    /// Passes on a heartbeat of the holder. False once the lease has ended.
    pub(crate) fn heartbeat(self: &Arc<Self>, record: &Arc<LeaseRecord>) -> bool {
        // A heartbeat only moves the deadline away: the heap of renewals finds out when it gets there.
        self.apply(record, LeaseEvent::Heartbeat);
        record.status() == Status::Held
    }

    /// Deregisters a lease that has ended; returns the hand-over request that waits for its release.
    pub(crate) fn deregister(&self, record: &Arc<LeaseRecord>) -> Option<HandoverRequest> {
        self.renewals.forget(record);
        let is_awaited = self.leases.lock().remove(record);
        if is_awaited {
            self.leases_changed.notify_waiters();
        }
        self.lines.end_holder(record)
    }

    pub(crate) fn leases_now(&self) -> Vec<Arc<LeaseRecord>> {
        self.leases.lock().all()
    }

    /// The error of a call that the backend failed: unavailable or refused.
    pub(crate) fn unavailable(&self, operation: &'static str, key: Option<Arc<str>>, source: BackendError) -> Error {
        if source.is_closed() {
            return Error::ClientClosed { operation };
        }
        Error::of_backend(operation, key, self.backend.server().clone(), source)
    }

    /// Gives an event to the state machine of a lease and does what follows from it. Nobody else gives events to a lease.
    ///
    /// A loss is passed on in one order. The holder comes first, since it may have to stop at once. Then come the observers, before
    /// anything can happen to the next lease of the key. Last comes the session, which no longer looks after the lease. Sending a
    /// renewal or a release is left to the caller.
    pub(crate) fn apply(self: &Arc<Self>, record: &Arc<LeaseRecord>, event: LeaseEvent) -> Action {
        self.apply_at(self.clock.now(), record, event)
    }

    /// [`Session::apply`] for callers that have just read the clock.
    pub(crate) fn apply_at(self: &Arc<Self>, now: Instant, record: &Arc<LeaseRecord>, event: LeaseEvent) -> Action {
        let action = record.on(now, event);
        if let Action::Lose(reason) = action {
            record.call_on_lost(Status::Lost(reason));
            self.report_loss(record, reason);
            self.end_lost(record);
        }
        action
    }

    fn report_loss(&self, record: &LeaseRecord, reason: LossReason) {
        if reason == LossReason::Closed {
            // The program itself closed the client.
            tracing::info!(target: target::SESSION, key = %record.key, token = record.token, %reason, "lease lost");
        } else {
            tracing::warn!(target: target::SESSION, key = %record.key, token = record.token, %reason, "lease lost");
        }
        self.observer.lost(record.subject(), reason);
    }

    fn end_lost(self: &Arc<Self>, record: &Arc<LeaseRecord>) {
        // Taken before the lease is deregistered, so that a closing session waits for the withdrawal below.
        let _closing_waits = self.tasks.token();
        // Drops a hand-over request: its waiter then asks for itself.
        drop(self.deregister(record));
        // Whatever the reason: a key that the backend may still keep is released rather than left to expire.
        self.withdraw_in_background(record.key.clone(), record.owner, record.unanswered);
    }

    fn on_hint(self: &Arc<Self>, hint: &Hint) {
        match hint {
            Hint::All => self.lines.hint_all(),
            Hint::Key(key, owner) => {
                if !self.lines.hint(key, *owner)
                    && let Some(owner) = owner
                {
                    // The key was handed to an attempt that is over.
                    self.withdraw_after_release(key.clone(), *owner);
                }
            }
        }
    }

    /// How a caller waits that should poll its request itself, if it should. `reader` is asked only then.
    pub(crate) fn served_here(&self, reader: impl FnOnce() -> Option<Reader>) -> Option<Reader> {
        if self.closing.announced.load(Ordering::Relaxed) {
            return None;
        }
        if self.backend.answers_at_once() {
            return reader();
        }
        // This is read first because it costs nothing: among many calls, none is alone.
        if self.tasks.len() > FEW_TASKS {
            return None;
        }
        reader().filter(|reader| self.engine.waking(|| self.backend.serves_callers(*reader)).unwrap_or(false))
    }

    pub(crate) fn stop(&self) {
        for task in self.loops.iter().flatten() {
            self.engine.waking(|| task.abort());
        }
    }
}

impl Attended for Session {
    fn close_now(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.close(self.clock.now()).await })
    }

    fn engine_stopped(self: Arc<Self>) {
        self.backend.engine_stopped();
        self.leave_rest_on_next_engine();
        for record in self.leases_now() {
            self.apply(&record, LeaseEvent::Unattended);
        }
        self.observer.deliver();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
    }
}
