//! The engine's own tokio runtime: one for each process, started by the first operation and never by an import.
//!
//! A forked child must not use its parent's runtime, whose threads did not survive the fork. So the runtime knows the process that
//! made it: a child starts another one and leaves the old one alone. An engine whose thread has ended is left alone in the same way
//! (see [`crate::engine::calls`]).

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinError};

use crate::engine::calls::{self, Answer, PendingCalls};
use crate::error::{BackendError, Error, Failure, Result};
use crate::observe::logs::target;
use crate::process;

/// One thread keeps a Redis server busy. A second one only adds wake-ups between cores: measured, it gives no more pairs a second
/// with 500 tasks, and a third fewer with one.
const THREADS: usize = 1;
/// How long an idle thread lives. It also bounds how late a panic of the engine's own thread is noticed: tokio reports it when the thread ends.
const KEEP_IDLE: Duration = Duration::from_millis(100);

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

/// What the tasks of a session run on, and the calls that wait for them.
#[derive(Clone)]
pub(crate) struct Engine {
    handle: Handle,
    /// The process whose thread it is. A forked child has a copy of everything here, and must not act on it.
    pid: u32,
    calls: Arc<PendingCalls>,
    attended: Arc<parking_lot::Mutex<Vec<Weak<dyn Attended>>>>,
}

impl Engine {
    /// An engine on the threads of another runtime, for simulations and tests.
    pub(crate) fn on(handle: Handle) -> Self {
        Self { handle, pid: process::id(), calls: PendingCalls::new(), attended: Arc::default() }
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

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Whether its thread has ended, so that none of its tasks goes on.
    pub(crate) fn is_stopped(&self) -> bool {
        self.calls.is_stopped()
    }

    /// Whether this process made it: a forked child did not.
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.pid == process::id()
    }

    /// Closes a session when the process shuts the engine down, and informs it if the engine stops.
    pub(crate) fn attend(&self, session: Weak<dyn Attended>) {
        let mut attended = self.attended.lock();
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
            Err(panic) if calls::says_the_engine_is_gone(&*panic) => {
                stop(self);
                None
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    /// See [`PendingCalls::begin`].
    pub(crate) fn begin<T: 'static, F: FnOnce(Result<T>) + Send + 'static>(&self, then: F) -> Arc<Answer<T, F>> {
        self.calls.begin(then)
    }

    /// Starts a task. An engine that has stopped drops it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Call {
        Call { task: self.waking(|| self.handle.spawn(task).abort_handle()), engine: self.clone() }
    }

    /// Starts a task that its session cannot do without. If it panics the engine counts as stopped: no other task does its work.
    pub(crate) fn keep(&self, task: impl Future<Output = ()> + Send + 'static) -> Call {
        let engine = self.clone();
        self.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                engine.stop_from_task();
            }
        })
    }

    /// [`call`] on this engine.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
        then: impl FnOnce(Result<T>) + Send + 'static,
    ) -> Call {
        let (answer, engine) = (self.calls.begin(then), self.clone());
        self.spawn(async move {
            // After a panic only the drop of the call is run.
            match AssertUnwindSafe(work).catch_unwind().await {
                Ok(outcome) => answer.give(outcome),
                Err(panic) if calls::says_the_engine_is_gone(&*panic) => engine.stop_from_task(),
                Err(_) => answer.give(Err(calls::panicked())),
            }
        })
    }

    /// Runs a future on the engine and waits for it from wherever the caller is.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`] if the engine stops.
    ///
    /// # Cancel safety
    /// Dropping it drops the future on the engine.
    pub(crate) async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Result<T> {
        if Handle::try_current().is_ok_and(|current| current.id() == self.handle.id()) {
            return Ok(future.await);
        }
        let Some(task) = self.waking(|| self.handle.spawn(future)) else { return Err(calls::stopped()) };
        let _ended_with_us = Ended(Call { task: Some(task.abort_handle()), engine: self.clone() });
        match self.calls.unless_stopped(task).await? {
            Ok(value) => Ok(value),
            Err(error) if error.is_panic() => {
                let panic = error.into_panic();
                if calls::says_the_engine_is_gone(&*panic) {
                    self.stop();
                    return Err(calls::stopped());
                }
                resume_unwind(panic)
            }
            // The engine was shut down under the caller: no answer will come.
            Err(_) => std::future::pending().await,
        }
    }

    /// [`Engine::run`] for a future that goes on when the caller leaves.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`] if the engine stops.
    pub(crate) async fn finish<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<std::result::Result<T, JoinError>> {
        let Some(task) = self.waking(|| self.handle.spawn(future)) else { return Err(calls::stopped()) };
        self.calls.unless_stopped(task).await
    }

    /// Ends the leases of the process and answers every call under way, once.
    fn stop(&self) {
        // The leases that a forked child sees are its parent's. The kernel is asked: hooks may have missed a fork.
        if self.pid == std::process::id() {
            // The leases first: a caller that is answered finds them lost.
            self.calls.stop(|| self.end_attended());
        }
    }

    /// [`Engine::stop`] on the engine's own thread, which then goes on with no other task.
    fn stop_from_task(&self) {
        self.stop();
        if IS_WORKER.get() {
            self.hold_back();
        }
    }

    fn end_attended(&self) {
        // Tokio may still count the thread as asleep. Then the first wake of any task fails, and tokio counts the thread as awake: that is
        // this one, and no later wake of a dead task reaches for a descriptor that may belong to another file by now.
        let _ = catch_unwind(AssertUnwindSafe(|| self.handle.spawn(async {})));
        tracing::error!(target: target::RUNTIME, "the engine's thread has ended: its leases are lost, and the next call starts another engine");
        let attended = std::mem::take(&mut *self.attended.lock());
        for session in attended.iter().filter_map(Weak::upgrade) {
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
    let runtime = built.map_err(|error| Error::BackendUnavailable {
        key: None,
        operation: "start",
        server: "engine".into(),
        source: BackendError::because(Failure::NotSent, error),
    })?;
    let engine = Engine::on(runtime.handle().clone());
    let _ = slot.set(engine.clone());
    // It is never shut down. In a forked child that would wait for threads that the child does not have; and one that has stopped would close
    // descriptors that may be somebody else's by now.
    std::mem::forget(runtime);
    Ok(engine)
}

/// Closes every client of this process and releases what they hold, within `timeout`. For the end of a process; blocks.
///
/// Does nothing in a forked child that has not used the engine, and nothing the second time.
pub fn shutdown(timeout: Duration) {
    let engine = match running().as_ref() {
        Some(engine) if engine.is_of_this_process() => engine.clone(),
        _ => return,
    };
    let attended = std::mem::take(&mut *engine.attended.lock());
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let attended: Vec<_> = attended.iter().filter_map(Weak::upgrade).collect();
    let closed = async move {
        futures_util::future::join_all(attended.into_iter().map(Attended::close_now)).await;
        Ok(())
    };
    engine.call(closed, move |_| drop(done));
    // Ends when the sender is dropped, be it by an engine that stops, or at the timeout.
    let _ = finished.recv_timeout(timeout);
}

/// Runs a call on the engine and passes its outcome to `then`, once: bindings run their calls with this. A panic in the call becomes an error,
/// and so does an engine that stops. Aborting it drops the call at its next await, and `then` is not called. It runs on an engine thread, or
/// on the thread that notices that the engine has stopped, which may be this one: it must be quick and take no lock that callers hold.
///
/// # Errors
/// [`Error::BackendUnavailable`] if the engine cannot be started; `then` is not called.
pub fn call<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
    then: impl FnOnce(Result<T>) + Send + 'static,
) -> Result<Call> {
    Ok(Engine::of_process()?.call(work, then))
}

/// A call under way on the engine.
pub struct Call {
    task: Option<AbortHandle>,
    engine: Engine,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Call").field(&self.task).finish()
    }
}

impl Call {
    /// Ends the call at its next await. A grant that it may still get is released.
    pub fn abort(&self) {
        if let Some(task) = &self.task
            // In a forked child a thread that it does not have may hold what this locks.
            && self.engine.is_of_this_process()
        {
            self.engine.waking(|| task.abort());
        }
    }
}

struct Ended(Call);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Waits for what `told` is sent, on a thread that may block.
    async fn heard<T: Send + 'static>(told: mpsc::Receiver<T>) -> T {
        tokio::task::spawn_blocking(move || told.recv_timeout(Duration::from_secs(10)).unwrap()).await.unwrap()
    }

    fn says(outcome: &Result<()>, words: &str) -> bool {
        matches!(outcome, Err(Error::BackendUnavailable { source, .. }) if source.message.contains(words))
    }

    #[tokio::test]
    async fn a_call_that_panics_ends_alone() {
        let engine = Engine::on(Handle::current());
        let (tell, told) = mpsc::channel();
        engine.call(async { panic!("on purpose") }, move |outcome: Result<()>| tell.send(outcome).unwrap());
        assert!(says(&heard(told).await, "a bug in dlock"));
        assert!(!engine.is_stopped());
    }

    #[tokio::test]
    async fn whatever_says_that_the_thread_cannot_be_woken_stops_the_engine() {
        let engine = Engine::on(Handle::current());
        let (tell, told) = mpsc::channel();
        engine.call(async { panic!("failed to wake I/O driver: it is closed") }, move |outcome: Result<()>| {
            tell.send(outcome).unwrap();
        });
        assert!(says(&heard(told).await, "thread has ended"));
        assert!(engine.is_stopped());
        let caller = Engine::on(Handle::current());
        assert_eq!(caller.waking(|| -> u8 { panic!("failed to wake I/O driver: it is closed") }), None);
        assert!(caller.is_stopped());
    }

    #[tokio::test]
    async fn an_engine_that_loses_what_looks_after_the_leases_has_stopped() {
        let engine = Engine::on(Handle::current());
        let (tell, told) = mpsc::channel();
        engine.call(std::future::pending(), move |outcome: Result<()>| tell.send(outcome).unwrap());
        engine.keep(async { panic!("on purpose") });
        assert!(says(&heard(told).await, "thread has ended"));
        assert!(engine.run(async {}).await.is_ok(), "on its own threads a future runs where it is");
        assert!(engine.finish(async {}).await.is_err());
    }
}
