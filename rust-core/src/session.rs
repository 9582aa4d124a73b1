//! A session: one identity under which leases and waiters are registered, and everything that looks after them.
//!
//! How a key is got is told in `acquire`, how it is given back in `give_back`, how a session ends in `closing`.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::backend::measured::Measured;
use crate::backend::{Backend, Context, Hint};
use crate::calls::stopped;
use crate::clock::Clock;
use crate::closing::{Closing, Leases};
use crate::error::{BackendError, CLOSED, Error, Failure, LossReason, Result};
use crate::fencing::Token;
use crate::ground::Ground;
use crate::held::Held;
use crate::holder::Notes;
use crate::lease_state::{Action, Event};
use crate::observe::Observer;
use crate::options::ClientOptions;
use crate::owner::{OwnerId, SessionId};
use crate::places::Places;
use crate::renewal::Renewals;
use crate::runtime::{self, Attended, Call, Engine};
use crate::waiters::{Lines, Parked};

/// What ties one client's leases, waiters and backend together.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) observer: Arc<Observer>,
    pub(crate) options: ClientOptions,
    pub(crate) lines: Arc<Lines>,
    pub(crate) renewals: Arc<Renewals>,
    pub(crate) places: Option<Arc<Places>>,
    pub(crate) engine: Engine,
    /// Work that goes on after its caller has left: releases, and giving up places.
    pub(crate) tasks: TaskTracker,
    pub(crate) closing: Closing,
    pub(crate) notes: Notes,
    pub(crate) leases: Mutex<Leases>,
    /// The last lease has ended, or whatever else closing waits for.
    pub(crate) no_leases: Notify,
    sequence: AtomicU64,
    floor: AtomicU64,
    loops: Vec<Call>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).field("server", self.backend.server()).finish_non_exhaustive()
    }
}

impl Session {
    /// Opens the backend and starts what looks after leases. No I/O yet.
    pub(crate) fn start(ground: &Ground, options: ClientOptions, observer: Arc<Observer>) -> Result<Arc<Self>> {
        let engine = ground.engine.clone().map_or_else(Engine::of_process, |handle| Ok(Engine::on(handle)))?;
        let session = engine.waking(|| Self::start_on(&engine, ground, options, observer)).unwrap_or_else(|| Err(stopped()))?;
        if ground.engine.is_none() {
            let session: Arc<dyn Attended> = session.clone();
            runtime::attend(&engine, Arc::downgrade(&session));
        }
        Ok(session)
    }

    fn start_on(engine: &Engine, ground: &Ground, options: ClientOptions, observer: Arc<Observer>) -> Result<Arc<Self>> {
        let clock = ground.clock.clone();
        let id = ground.session.map_or_else(SessionId::random, Ok).map_err(|error| Error::BackendUnavailable {
            key: None,
            operation: "start",
            server: "engine".into(),
            source: BackendError::because(Failure::NotSent, error),
        })?;
        let this: Arc<OnceLock<Weak<Self>>> = Arc::default();
        let session = |this: &Arc<OnceLock<Weak<Self>>>| {
            let this = this.clone();
            move || this.get().and_then(Weak::upgrade)
        };
        let hinted = session(&this);
        let context = Context {
            session: id,
            clock: clock.clone(),
            namespace: options.namespace.as_str().into(),
            connect_timeout: options.connect_timeout,
            op_timeout: options.op_timeout,
            on_hint: Arc::new(move |hint| {
                if let Some(session) = hinted() {
                    session.on_hint(&hint);
                }
            }),
        };
        // Backends may start tasks of their own.
        let _on_engine = engine.handle().enter();
        let backend: Arc<dyn Backend> = Measured::new((ground.open)(context)?, clock.clone(), observer.clone());
        let lost = session(&this);
        let on_loss = Box::new(move |held: &Arc<Held>, reason| {
            if let Some(session) = lost() {
                session.on_loss(held, reason);
            }
        });
        let abandoned = session(&this);
        let abandon = Box::new(move |key, place| {
            if let Some(session) = abandoned() {
                session.abandon(key, place);
            }
        });
        let renewals = Renewals::new(backend.clone(), clock.clone(), observer.clone(), options.renewal, on_loss);
        let places = Places::new(backend.clone(), clock.clone(), options.op_timeout);
        let mut loops = vec![engine.keep(renewals.clone().run()), engine.keep(observer.clone().run())];
        loops.extend(places.clone().map(|places| engine.keep(places.run())));
        let session = Arc::new(Self {
            id,
            backend,
            clock,
            observer,
            options,
            lines: Lines::new(abandon),
            renewals,
            places,
            engine: engine.clone(),
            tasks: TaskTracker::new(),
            closing: Closing::default(),
            notes: Notes::of_this_process(),
            leases: Mutex::default(),
            no_leases: Notify::new(),
            sequence: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            loops,
        });
        let _ = this.set(Arc::downgrade(&session));
        Ok(session)
    }

    /// A new owner id: one for each attempt.
    pub(crate) fn next_owner(&self) -> OwnerId {
        OwnerId { session: self.id, sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// The highest token this session has seen.
    pub(crate) fn floor(&self) -> Token {
        self.floor.load(Ordering::Relaxed)
    }

    /// Registers a lease that was just granted.
    pub(crate) fn adopt(&self, held: &Arc<Held>) {
        self.floor.fetch_max(held.token, Ordering::Relaxed);
        // In this order: once it is among the leases or scheduled it may end, and then it must be taken out of the line as well.
        self.lines.set_holder(held.clone());
        self.leases.lock().insert(held);
        self.renewals.schedule(held);
    }

    /// Takes a lease that has ended out of everything; returns what was parked on it.
    pub(crate) fn let_go(&self, held: &Arc<Held>) -> Option<Parked> {
        self.renewals.forget(held);
        let is_awaited = self.leases.lock().remove(held);
        if is_awaited {
            self.no_leases.notify_waiters();
        }
        self.lines.end_holder(held)
    }

    pub(crate) fn held_now(&self) -> Vec<Arc<Held>> {
        self.leases.lock().all()
    }

    /// An error of the backend, told with what was tried: unavailable or refused.
    pub(crate) fn unavailable(&self, operation: &'static str, key: Option<Arc<str>>, source: BackendError) -> Error {
        if source.message.ends_with(CLOSED) {
            // Closed while the request was on its way.
            return Error::ClientClosed { operation };
        }
        Error::of_backend(operation, key, self.backend.server().clone(), source)
    }

    /// A lease was just lost.
    pub(crate) fn on_loss(self: &Arc<Self>, held: &Arc<Held>, reason: LossReason) {
        if reason == LossReason::Closed {
            // The user's own doing.
            tracing::info!(key = %held.key, token = held.token, %reason, "lease lost");
        } else {
            tracing::warn!(key = %held.key, token = held.token, %reason, "lease lost");
        }
        self.observer.lost(held.subject(), reason);
        // Taken before the lease is out of sight, so that a session that is closing waits for the leave below.
        let _closing_waits = self.tasks.token();
        // A request parked on it is dropped here: its waiter then asks for itself.
        drop(self.let_go(held));
        // Whatever the reason, what may still be ours is given back rather than left to expire.
        self.leave_in_background(held.key.clone(), held.owner, held.unanswered);
    }

    fn on_hint(self: &Arc<Self>, hint: &Hint) {
        match hint {
            Hint::All => self.lines.hint_all(),
            Hint::Key(key, owner) => {
                if !self.lines.hint(key, *owner)
                    && let Some(owner) = owner
                {
                    // A key was handed to an attempt that is over.
                    self.leave_in_background(key.clone(), *owner, None);
                }
            }
        }
    }

    /// Does work in the background that closing waits for. If the engine has stopped the next one does it: in memory and in files, keys do not
    /// end with the engine that took them.
    pub(crate) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        let work = self.tasks.track_future(work);
        if !self.engine.is_stopped() {
            self.engine.spawn(work);
        } else if let Ok(next) = Engine::of_process() {
            next.spawn(work);
        }
    }

    /// Ends a lease that nobody renews, as the engine has stopped.
    pub(crate) fn leave_unattended(self: &Arc<Self>, held: &Arc<Held>) {
        if let Action::Lose(reason) = held.on(Event::Unattended) {
            self.on_loss(held, reason);
        }
    }

    pub(crate) fn stop(&self) {
        for task in &self.loops {
            task.abort();
        }
    }
}

impl Attended for Session {
    fn close(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { Self::close(&self, Duration::ZERO).await })
    }

    fn engine_stopped(self: Arc<Self>) {
        for held in self.held_now() {
            self.leave_unattended(&held);
        }
        self.observer.deliver();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
    }
}
