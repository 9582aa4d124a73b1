//! Calls of programs in Rust: a future runs on the engine, and the current task waits for it, or drives it on its own runtime.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinError;

use crate::driver::{Reader, Socket};
use crate::engine::call::Call;
use crate::engine::pending_calls;
use crate::engine::runtime::Engine;
use crate::error::Result;

/// Whether the runtimes of callers can wait for sockets, as far as one of them has shown.
static RUNTIMES_READ: AtomicBool = AtomicBool::new(true);

impl Engine {
    /// Runs a future on the engine and waits for it from wherever the caller is.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`] if the engine stops.
    ///
    /// # Cancel safety
    /// Dropping it drops the future on the engine.
    pub(crate) async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Result<T> {
        if Handle::try_current().is_ok_and(|current| current.id() == self.handle().id()) {
            return Ok(future.await);
        }
        let Some(task) = self.waking(|| self.handle().spawn(future)) else { return Err(pending_calls::stopped()) };
        let _ended_with_us = Ended(Call::of_task(self, Some(task.abort_handle())));
        match self.unless_stopped(task).await? {
            Ok(value) => Ok(value),
            Err(error) if error.is_panic() => {
                let panic = error.into_panic();
                if pending_calls::says_the_engine_is_gone(&*panic) {
                    self.stop();
                    return Err(pending_calls::stopped());
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
        let Some(task) = self.waking(|| self.handle().spawn(future)) else { return Err(pending_calls::stopped()) };
        self.unless_stopped(task).await
    }

    /// How the current task can wait for a socket; `None` where no runtime could do it, and for the engine's own tasks.
    pub(crate) fn reader(&self) -> Option<Reader> {
        let current = Handle::try_current().ok()?;
        let is_own = current.id() == self.handle().id();
        (!is_own).then_some(if RUNTIMES_READ.load(Ordering::Relaxed) { Reader::Once } else { Reader::Never })
    }

    /// Drives a call from the current task until `done` has an output; `None` if the call is over or the engine's before.
    pub(crate) async fn drive<T>(&self, call: &Call, done: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(done);
        while let Some(socket) = call.socket() {
            tokio::select! {
                biased;
                output = &mut done => return Some(output),
                readable = readable(socket) => if readable { call.drive() } else { call.leave_to_engine() },
            }
        }
        None
    }

    /// [`Engine::run`] for a future that the current task polls as far as it can, with a `reader`.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`](crate::Error::BackendUnavailable) if the engine stops, or if the future panics.
    ///
    /// # Cancel safety
    /// Dropping it drops the future.
    pub(crate) async fn run_here<T: Send + 'static>(
        &self,
        reader: Option<Reader>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let Some(reader) = reader else { return self.run(future).await };
        // A task whose calls are over at once would otherwise keep the others of its runtime from running.
        tokio::task::consume_budget().await;
        let (tell, mut told) = oneshot::channel();
        let engine = self.clone();
        let work = Box::pin(async move { drop(tell.send(future.await)) });
        let driven = self.start_here(reader, work, move |rest| engine.spawn(rest));
        let call = Ended(Call::of_driven(self, driven));
        // Most calls are over by now.
        if let Ok(value) = told.try_recv() {
            return Ok(value);
        }
        let value = match self.unless_stopped(self.drive(&call.0, &mut told)).await? {
            Some(value) => value,
            None => self.unless_stopped(told).await?,
        };
        value.map_err(|_| if self.is_stopped() { pending_calls::stopped() } else { pending_calls::panicked() })
    }
}

/// Waits until the socket is readable. False if the current runtime cannot wait for sockets.
#[allow(deprecated)] // its successor is unsafe; the socket keeps its descriptor open for as long as it is registered
async fn readable(socket: Arc<Socket>) -> bool {
    // Tokio panics where the runtime was built without I/O, and there is no other way to know.
    let watched = catch_unwind(AssertUnwindSafe(|| AsyncFd::with_interest(socket, Interest::READABLE)));
    match watched {
        Ok(Ok(watched)) => watched.readable().await.is_ok(),
        // Another task of this runtime may still watch it.
        Ok(Err(_)) => false,
        Err(_) => {
            RUNTIMES_READ.store(false, Ordering::Relaxed);
            false
        }
    }
}

/// Aborts a call when dropped.
pub(super) struct Ended(pub(super) Call);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::error::Error;

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
