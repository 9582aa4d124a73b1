//! The engine's own tokio runtime: one for each process, started by the first operation and never by an import.
//!
//! A forked child must not use its parent's runtime, whose threads did not survive the fork. So the runtime knows the process that
//! made it: a child starts another one and leaves the old one alone. An engine whose thread has ended is left alone in the same way
//! (see [`crate::engine::pending_calls`]).

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::engine::pending_calls::{self, Answer, PendingCalls};
use crate::engine::takeover::DrivenCalls;
use crate::error::{Error, Result};
use crate::observe::logs::target;
use crate::process;

/// One thread keeps a Redis server busy. A second one only adds wake-ups between cores: measured, it gives no more pairs a second
/// with 500 tasks, and a third fewer with one.
const THREADS: usize = 1;
/// How long an idle thread lives. It also bounds how late a panic of the engine's own thread is noticed: tokio reports it when the thread ends.
const KEEP_IDLE: Duration = Duration::from_millis(100);

/// How long the end of the thread may go unnoticed while callers need nothing of it.
const PROOF_NS: u64 = 10_000_000;

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What depends on the engine of a process: a session.
pub(crate) trait Attended: Send + Sync {
    /// Refuses new work and releases what is held, at once.
    fn close_now(self: Arc<Self>) -> BoxFuture<'static, ()>;

    /// The engine has stopped, so none of its tasks goes on.
    fn engine_stopped(self: Arc<Self>);
}

/// Of the standard library: a child can unlock what its thread locked before the fork.
static ENGINE: Mutex<Option<Engine>> = Mutex::new(None);

thread_local! {
    static PARKED: RefCell<Option<MutexGuard<'static, Option<Engine>>>> = const { RefCell::new(None) };
    /// Whether this is the thread that runs an engine's tasks, rather than one for work that blocks.
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

fn running() -> MutexGuard<'static, Option<Engine>> {
    ENGINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no engine is being started, and keeps it so until the fork is over: otherwise a child could find the lock taken by a
/// thread that it does not have.
pub(crate) fn before_fork() {
    PARKED.with_borrow_mut(|parked| {
        if parked.is_none() {
            *parked = Some(running());
        }
    });
}

/// Lets parent and child go on.
pub(crate) fn after_fork() {
    PARKED.with_borrow_mut(|parked| drop(parked.take()));
}

/// What the tasks of a session run on, and the calls that wait for them. Cloned for each call, so it is one pointer.
#[derive(Clone)]
pub(crate) struct Engine(Arc<EngineState>);

struct EngineState {
    handle: Handle,
    /// The process whose thread it is. A forked child has a copy of everything here, and must not act on it.
    pid: u32,
    calls: Arc<PendingCalls>,
    driven_calls: Arc<DrivenCalls>,
    attended: parking_lot::Mutex<Vec<Weak<dyn Attended>>>,
    /// When a caller whose call needs no engine wakes it all the same, in nanoseconds after the first engine began.
    next_proof: AtomicU64,
}

impl Engine {
    /// An engine on the threads of another runtime, for simulations and tests.
    pub(crate) fn on(handle: Handle) -> Self {
        Self(Arc::new(EngineState {
            handle,
            pid: process::id(),
            calls: PendingCalls::new(),
            driven_calls: Arc::default(),
            attended: parking_lot::Mutex::default(),
            next_proof: AtomicU64::new(0),
        }))
    }

    /// The engine of this process. Starts one if there is none yet, if the engine is the parent's, or if it has stopped.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`] if the operating system grants no thread.
    pub(crate) fn of_process() -> Result<Self> {
        let mut running = running();
        if let Some(engine) = running.as_ref()
            && engine.is_of_this_process()
            && !engine.is_stopped()
        {
            return Ok(engine.clone());
        }
        let engine = start()?;
        *running = Some(engine.clone());
        Ok(engine)
    }

    /// The engine of this process, if one was started.
    pub(super) fn if_running() -> Option<Self> {
        running().as_ref().filter(|engine| engine.is_of_this_process()).cloned()
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.0.handle
    }

    /// The calls that their callers drive.
    pub(crate) fn driven_calls(&self) -> &Arc<DrivenCalls> {
        &self.0.driven_calls
    }

    /// Whether its thread has ended, so that none of its tasks goes on.
    pub(crate) fn is_stopped(&self) -> bool {
        self.0.calls.is_stopped()
    }

    /// Whether this process made it: a forked child did not.
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.0.pid == process::id()
    }

    /// Closes a session when the process shuts the engine down, and informs it if the engine stops.
    pub(crate) fn attend(&self, session: Weak<dyn Attended>) {
        let mut attended = self.0.attended.lock();
        attended.retain(|session| session.strong_count() > 0);
        attended.push(session);
    }

    /// Calls `wake`, which may wake the engine's thread. `None` if the thread has ended; this call may be the one that notices.
    pub(crate) fn waking<T>(&self, wake: impl FnOnce() -> T) -> Option<T> {
        self.waking_or(wake, Self::stop)
    }

    /// [`Engine::waking`] for a caller that holds a lock: callbacks that hear of the stop may want the same lock, so another thread calls
    /// them.
    pub(crate) fn waking_under_lock<T>(&self, wake: impl FnOnce() -> T) -> Option<T> {
        self.waking_or(wake, |engine| {
            let stopping = engine.clone();
            if std::thread::Builder::new().name("dlock".into()).spawn(move || stopping.stop()).is_err() {
                engine.stop();
            }
        })
    }

    fn waking_or<T>(&self, wake: impl FnOnce() -> T, stop: impl FnOnce(&Self)) -> Option<T> {
        if self.is_stopped() {
            return None;
        }
        match catch_unwind(AssertUnwindSafe(wake)) {
            Ok(value) => Some(value),
            Err(panic) if pending_calls::says_the_engine_is_gone(&*panic) => {
                stop(self);
                None
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Wakes the thread now and then, for callers whose calls need it only later: if it has ended, they are not to find out when their leases
    /// run out.
    pub(super) fn prove_alive(&self) {
        let now = u64::try_from(BEGAN.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if now >= self.0.next_proof.load(Ordering::Relaxed) {
            self.0.next_proof.store(now.saturating_add(PROOF_NS), Ordering::Relaxed);
            self.spawn(async {});
        }
    }

    /// See [`PendingCalls::begin`].
    pub(crate) fn begin<T: 'static, F: FnOnce(Result<T>) + Send + 'static>(&self, then: F) -> Arc<Answer<T, F>> {
        self.0.calls.begin(then)
    }

    /// See [`PendingCalls::unless_stopped`].
    pub(super) async fn unless_stopped<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        self.0.calls.unless_stopped(future).await
    }

    /// Starts a task. An engine that has stopped drops it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        self.waking(|| self.0.handle.spawn(task).abort_handle())
    }

    /// Starts a task that its session cannot do without. If it panics the engine counts as stopped: no other task does its work.
    pub(crate) fn keep(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        let engine = self.clone();
        self.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                engine.stop_from_task();
            }
        })
    }

    /// Ends the leases of the process and answers every call under way, once.
    pub(super) fn stop(&self) {
        // The leases that a forked child sees are its parent's. The kernel is asked: hooks may have missed a fork.
        if self.0.pid == std::process::id() {
            // The leases first: a caller that is answered finds them lost.
            self.0.calls.stop(|| self.end_attended());
        }
    }

    /// [`Engine::stop`] on the engine's own thread, which then goes on with no other task.
    pub(super) fn stop_from_task(&self) {
        self.stop();
        if IS_WORKER.get() {
            self.hold_back();
        }
    }

    /// What depends on the engine. From now on nothing does.
    pub(super) fn take_attended(&self) -> Vec<Arc<dyn Attended>> {
        let attended = std::mem::take(&mut *self.0.attended.lock());
        attended.iter().filter_map(Weak::upgrade).collect()
    }

    fn end_attended(&self) {
        // Tokio may still count the thread as asleep. Then the first wake of any task fails, and tokio counts the thread as awake: that is
        // this one, and no later wake of a dead task reaches for a descriptor that may belong to another file by now.
        let _ = catch_unwind(AssertUnwindSafe(|| self.0.handle.spawn(async {})));
        tracing::error!(target: target::RUNTIME, "the engine's thread has ended: its leases are lost, and the next call starts another engine");
        for session in self.take_attended() {
            if catch_unwind(AssertUnwindSafe(|| session.engine_stopped())).is_err() {
                tracing::error!(target: target::RUNTIME, "a callback panicked while a session was informed that the engine has stopped");
            }
        }
    }

    /// Keeps a thread from going on once its engine counts as stopped: the descriptors that it polls may belong to the next engine.
    fn hold_back(&self) {
        IS_WORKER.set(true);
        while self.is_stopped() {
            std::thread::park();
        }
    }
}

fn start() -> Result<Engine> {
    let slot: Arc<OnceLock<Engine>> = Arc::default();
    let engine = |slot: &Arc<OnceLock<Engine>>, act: fn(&Engine)| {
        let slot = slot.clone();
        move || {
            if let Some(engine) = slot.get() {
                act(engine);
            }
        }
    };
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("dlock")
        .thread_keep_alive(KEEP_IDLE)
        .enable_all()
        .on_thread_park(engine(&slot, Engine::hold_back))
        .on_thread_unpark(engine(&slot, Engine::hold_back))
        .on_thread_stop(engine(&slot, |engine| {
            // The runtime is never shut down: its worker ends by a panic alone.
            if IS_WORKER.get() {
                engine.stop();
            }
        }))
        .build();
    let runtime = built.map_err(Error::engine_not_started)?;
    let engine = Engine::on(runtime.handle().clone());
    let _ = slot.set(engine.clone());
    // It is never shut down. In a forked child that would wait for threads that the child does not have; and one that has stopped would close
    // descriptors that may be somebody else's by now.
    std::mem::forget(runtime);
    Ok(engine)
}
