//! The engine's own tokio runtime: one a process, made by the first operation, never by an import.
//!
//! A forked child must not use its parent's: its threads did not survive the fork. The runtime therefore knows the process that made it,
//! and a child gets a fresh one while the old is left alone.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Handle, Runtime};
use tokio::task::AbortHandle;

use crate::error::{BackendError, Error, Failure, Result};
use crate::process;
use crate::session::Session;

/// One thread keeps a Redis server busy; a second one only adds wake-ups between cores (measured: no more pairs a second with 500 tasks,
/// a third fewer with one).
const THREADS: usize = 1;

struct Engine {
    pid: u32,
    runtime: Arc<Runtime>,
    sessions: Vec<Weak<Session>>,
}

static ENGINE: Mutex<Option<Engine>> = Mutex::new(None);

/// The runtime of this process, started if need be.
///
/// # Errors
/// [`Error::BackendUnavailable`] if the operating system grants no thread.
pub(crate) fn handle() -> Result<Handle> {
    let pid = process::id();
    let mut engine = ENGINE.lock();
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
    // Dropping a parent's runtime would wait for threads that this process does not have.
    std::mem::forget(parents);
    Ok(handle)
}

/// Has a session closed when the process shuts the engine down.
pub(crate) fn register(session: &Arc<Session>) {
    if let Some(engine) = ENGINE.lock().as_mut() {
        engine.sessions.retain(|session| session.strong_count() > 0);
        engine.sessions.push(Arc::downgrade(session));
    }
}

/// Closes every client of this process and gives back what they hold, within `timeout`. For the end of a process; blocks.
///
/// Does nothing in a forked child that has not used the engine, and nothing the second time.
pub fn shutdown(timeout: Duration) {
    let (handle, sessions) = {
        let mut engine = ENGINE.lock();
        match engine.as_mut() {
            Some(engine) if engine.pid == process::id() => (engine.runtime.handle().clone(), std::mem::take(&mut engine.sessions)),
            _ => return,
        }
    };
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let sessions: Vec<_> = sessions.iter().filter_map(Weak::upgrade).collect();
    handle.spawn(async move {
        let closing = sessions.iter().map(|session| session.close(Duration::ZERO));
        futures_util::future::join_all(closing).await;
        drop(done);
    });
    // Ends when the sender is dropped, or at the timeout.
    let _ = finished.recv_timeout(timeout);
}

/// Starts a future on the engine: what bindings run their calls with. Aborting it drops the future at its next await.
///
/// # Errors
/// [`Error::BackendUnavailable`] if the engine cannot be started.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Result<AbortHandle> {
    Ok(handle()?.spawn(future).abort_handle())
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
        // The engine was shut down under the caller: there is nobody left to answer.
        Err(_) => std::future::pending().await,
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
