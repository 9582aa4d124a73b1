//! The engine's own tokio runtime: one for each process, started by the first operation and never by an import.
//!
//! A forked child must not use its parent's runtime, whose threads did not survive the fork. So the runtime knows the process that
//! made it: a child starts another one and leaves the old one alone.

use std::cell::RefCell;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::{Handle, Runtime};
use tokio::task::AbortHandle;

use crate::error::{BackendError, Error, Failure, Result};
use crate::process;

/// One thread keeps a Redis server busy. A second one only adds wake-ups between cores: measured, it gives no more pairs a second
/// with 500 tasks, and a third fewer with one.
const THREADS: usize = 1;

struct Engine {
    pid: u32,
    runtime: Arc<Runtime>,
    sessions: Vec<Weak<dyn Close>>,
}

/// Of the standard library: a child can unlock what its thread locked before the fork.
static ENGINE: Mutex<Option<Engine>> = Mutex::new(None);

thread_local! {
    static PARKED: RefCell<Option<MutexGuard<'static, Option<Engine>>>> = const { RefCell::new(None) };
}

fn engine() -> MutexGuard<'static, Option<Engine>> {
    ENGINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no engine is being started, and keeps it so until the fork is over: otherwise a child could find the lock taken by a
/// thread that it does not have.
pub(crate) fn before_fork() {
    PARKED.with_borrow_mut(|parked| {
        if parked.is_none() {
            *parked = Some(engine());
        }
    });
}

/// Lets parent and child go on.
pub(crate) fn after_fork() {
    PARKED.with_borrow_mut(|parked| drop(parked.take()));
}

/// The runtime of this process, started if need be.
///
/// # Errors
/// [`Error::BackendUnavailable`] if the operating system grants no thread.
pub(crate) fn handle() -> Result<Handle> {
    let pid = process::id();
    let mut engine = engine();
    if let Some(engine) = engine.as_ref()
        && engine.pid == pid
    {
        return Ok(engine.runtime.handle().clone());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).thread_name("dlock").enable_all().build().map_err(
            |error| Error::BackendUnavailable {
                key: None,
                operation: "start",
                server: "engine".into(),
                source: BackendError::because(Failure::NotSent, error),
            },
        )?;
    let handle = runtime.handle().clone();
    let parents = engine.replace(Engine { pid, runtime: Arc::new(runtime), sessions: Vec::new() });
    // Dropping the parent's runtime would wait for threads that this process does not have.
    std::mem::forget(parents);
    Ok(handle)
}

/// What is closed before the process ends, and then releases what it holds.
pub(crate) trait Close: Send + Sync {
    /// Refuses new work and releases what is held, at once.
    fn close_now(self: Arc<Self>) -> BoxFuture<'static, ()>;
}

/// Has a session closed when the process shuts the engine down.
pub(crate) fn register(session: Weak<dyn Close>) {
    if let Some(engine) = engine().as_mut() {
        engine.sessions.retain(|session| session.strong_count() > 0);
        engine.sessions.push(session);
    }
}

/// Closes every client of this process and releases what they hold, within `timeout`. For the end of a process; blocks.
///
/// Does nothing in a forked child that has not used the engine, and nothing the second time.
pub fn shutdown(timeout: Duration) {
    let (handle, sessions) = {
        let mut engine = engine();
        match engine.as_mut() {
            Some(engine) if engine.pid == process::id() => (engine.runtime.handle().clone(), std::mem::take(&mut engine.sessions)),
            _ => return,
        }
    };
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let sessions: Vec<_> = sessions.iter().filter_map(Weak::upgrade).collect();
    handle.spawn(async move {
        let closing = sessions.into_iter().map(Close::close_now);
        futures_util::future::join_all(closing).await;
        drop(done);
    });
    // Ends when the sender is dropped, or at the timeout.
    let _ = finished.recv_timeout(timeout);
}

/// Runs a call on the engine and passes its outcome to `then`, once: bindings run their calls with this. A panic in the call
/// becomes an error. Aborting it drops the call at its next await, and `then` is not called.
///
/// # Errors
/// [`Error::BackendUnavailable`] if the engine cannot be started; `then` is not called.
pub fn call<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
    then: impl FnOnce(Result<T>) + Send + 'static,
) -> Result<AbortHandle> {
    Ok(call_on(&handle()?, work, then))
}

/// [`call`] on a given engine.
pub(crate) fn call_on<T: Send + 'static>(
    engine: &Handle,
    work: impl Future<Output = Result<T>> + Send + 'static,
    then: impl FnOnce(Result<T>) + Send + 'static,
) -> AbortHandle {
    let told = async move {
        // After a panic only the drop of the call is run.
        let outcome = AssertUnwindSafe(work).catch_unwind().await;
        then(outcome.unwrap_or_else(|_| Err(broken())));
    };
    engine.spawn(told).abort_handle()
}

fn broken() -> Error {
    let source = BackendError::new(Failure::Unknown, "the call panicked, which is a bug in dlock: please report it");
    Error::BackendUnavailable { key: None, operation: "call", server: "engine".into(), source }
}

/// Runs a future on the engine and waits for it from wherever the caller is.
///
/// # Cancel safety
/// Dropping it drops the future on the engine.
pub(crate) async fn run<T: Send + 'static>(engine: &Handle, future: impl Future<Output = T> + Send + 'static) -> T {
    if Handle::try_current().is_ok_and(|current| current.id() == engine.id()) {
        return future.await;
    }
    let mut task = AbortOnDrop(engine.spawn(future));
    match (&mut task.0).await {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The engine was shut down under the caller: no answer will come.
        Err(_) => std::future::pending().await,
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
