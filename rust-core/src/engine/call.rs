//! A call under way, and how it is begun: on the engine, or driven by its caller as far as that gets.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::task::AbortHandle;

use crate::driver::{Reader, Socket};
use crate::engine::driven::Driven;
use crate::engine::pending_calls;
use crate::engine::runtime::Engine;
use crate::engine::takeover::DrivenCall;
use crate::error::Result;

/// A call under way.
pub struct Call {
    course: Course,
    engine: Engine,
    /// It goes on without its caller, as a release does.
    goes_on: bool,
}

enum Course {
    /// A task of the engine; `None` if the call is over, or the engine has stopped.
    Task(Option<AbortHandle>),
    Driven(Arc<Driven>),
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

impl Call {
    pub(crate) fn of_task(engine: &Engine, task: Option<AbortHandle>) -> Self {
        Self { course: Course::Task(task), engine: engine.clone(), goes_on: false }
    }

    pub(super) fn of_driven(engine: &Engine, driven: Arc<Driven>) -> Self {
        Self { course: Course::Driven(driven), engine: engine.clone(), goes_on: false }
    }

    /// A release, which nobody can end.
    pub(super) fn of_release(engine: &Engine, driven: Arc<Driven>) -> Self {
        Self { course: Course::Driven(driven), engine: engine.clone(), goes_on: true }
    }

    /// The socket on which the answer comes. The caller waits until it is readable, or has hung up, and then calls [`Call::drive`]. `None` if
    /// the call is over, or is the engine's.
    pub fn socket(&self) -> Option<Arc<Socket>> {
        self.driven()?.socket()
    }

    /// Goes on with the call on this thread. Its outcome may come before this returns.
    pub fn drive(&self) {
        if let Some(driven) = self.driven() {
            driven.poll();
        }
    }

    /// Leaves the call to the engine, for callers that cannot wait for the socket. Dropping the call does the same.
    pub fn leave_to_engine(&self) {
        if let Some(driven) = self.driven() {
            driven.clone().leave_to_engine();
        }
    }

    /// Ends the call at its next await. A grant that it may still get is released. A release goes on.
    pub fn abort(&self) {
        if let Course::Task(task) = &self.course
            && task.as_ref().is_none_or(AbortHandle::is_finished)
        {
            return;
        }
        // In a forked child a thread that it does not have may hold what this locks.
        if !self.engine.is_of_this_process() {
            return;
        }
        match &self.course {
            Course::Task(Some(task)) => drop(self.engine.waking(|| task.abort())),
            Course::Task(None) => {}
            Course::Driven(driven) if self.goes_on => driven.clone().leave_to_engine(),
            Course::Driven(driven) => driven.abort(),
        }
    }

    /// The call, if it is driven and this process has begun it.
    fn driven(&self) -> Option<&Arc<Driven>> {
        match &self.course {
            Course::Driven(driven) if self.engine.is_of_this_process() => Some(driven),
            _ => None,
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Course::Driven(driven) = &self.course else { return };
        if self.engine.is_of_this_process() {
            driven.clone().leave_to_engine();
        } else {
            // Even dropping the call could wait for a lock that a thread of the parent holds.
            std::mem::forget(driven.clone());
        }
    }
}

impl Engine {
    /// [`call`] on this engine.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
        then: impl FnOnce(Result<T>) + Send + 'static,
    ) -> Call {
        let task = self.spawn(self.answering(work, then));
        Call::of_task(self, task)
    }

    /// [`Engine::call`] that the caller polls as far as it can; see [`crate::engine::call`].
    pub(crate) fn call_here<T: Send + 'static>(
        &self,
        reader: Reader,
        work: impl Future<Output = Result<T>> + Send + 'static,
        then: impl FnOnce(Result<T>) + Send + 'static,
    ) -> Call {
        let engine = self.clone();
        let driven = self.start_here(reader, Box::pin(self.answering(work, then)), move |rest| engine.spawn(rest));
        Call::of_driven(self, driven)
    }

    /// The work of a call, and the answer to its caller.
    fn answering<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
        then: impl FnOnce(Result<T>) + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (answer, engine) = (self.begin(then), self.clone());
        async move {
            // After a panic only the drop of the call is run.
            match AssertUnwindSafe(work).catch_unwind().await {
                Ok(outcome) => answer.give(outcome),
                Err(panic) if pending_calls::says_the_engine_is_gone(&*panic) => engine.stop_from_task(),
                Err(_) => answer.give(Err(pending_calls::panicked())),
            }
        }
    }
}

/// Runs a call on the engine and passes its outcome to `then`, once: bindings run their calls with this. A panic in the call becomes an error,
/// and so does an engine that stops. Aborting it drops the call at its next await, and `then` is not called. It runs on an engine thread, or
/// on the thread that notices that the engine has stopped, which may be this one: it must be quick and take no lock that callers hold.
///
/// # Errors
/// [`Error::BackendUnavailable`](crate::Error::BackendUnavailable) if the engine cannot be started; `then` is not called.
pub fn call<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
    then: impl FnOnce(Result<T>) + Send + 'static,
) -> Result<Call> {
    Ok(Engine::of_process()?.call(work, then))
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::sync::mpsc;
    use std::task::Poll;
    use std::time::Duration;

    use tokio::runtime::Handle;

    use super::*;
    use crate::driver;
    use crate::engine::takeover::LONGEST_UNREAD;

    fn socket() -> Arc<Socket> {
        Socket::new(rustix::pipe::pipe().unwrap().0)
    }

    /// Waits for the socket as long as a caller drives it, and says so.
    async fn waits(said: mpsc::Sender<&'static str>) {
        let socket = socket();
        poll_fn(|_| if driver::wait_for(&socket) { Poll::<()>::Pending } else { Poll::Ready(()) }).await;
        said.send("with the engine").unwrap();
    }

    fn started(engine: &Engine, work: impl Future<Output = ()> + Send + 'static) -> Call {
        let on_engine = engine.clone();
        let driven =
            engine.start_here(Reader::Once, Box::pin(work), move |rest| Some(on_engine.handle().spawn(rest).abort_handle()));
        Call::of_driven(engine, driven)
    }

    #[tokio::test]
    async fn a_call_that_needs_no_waiting_is_over_at_once() {
        let engine = Engine::on(Handle::current());
        let (said, heard) = mpsc::channel();
        let call = started(&engine, async move { said.send(()).unwrap() });
        assert!(heard.try_recv().is_ok() && call.socket().is_none());
    }

    #[tokio::test]
    async fn the_engine_takes_a_call_over_that_nobody_drives() {
        let engine = Engine::on(Handle::current());
        let (said, heard) = mpsc::channel();
        let call = started(&engine, waits(said.clone()));
        call.drive();
        assert!(call.socket().is_some() && heard.try_recv().is_err());
        tokio::task::spawn_blocking(move || heard.recv_timeout(Duration::from_secs(10)).unwrap()).await.unwrap();
        assert!(call.socket().is_none());
        let (said, heard) = mpsc::channel();
        drop(started(&engine, waits(said)));
        tokio::task::spawn_blocking(move || heard.recv_timeout(Duration::from_secs(10)).unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn whatever_wakes_a_call_leaves_it_to_the_engine() {
        let engine = Engine::on(Handle::current());
        let (said, heard) = mpsc::channel();
        let event = Arc::new(tokio::sync::Notify::new());
        let (awaited, socket) = (event.clone(), socket());
        let call = started(&engine, async move {
            tokio::select! {
                () = awaited.notified() => said.send(driver::reader()).unwrap(),
                () = poll_fn(|_| { driver::wait_for(&socket); Poll::Pending }) => {}
            }
        });
        event.notify_one();
        assert!(call.socket().is_none(), "its caller still waits for the socket");
        tokio::task::yield_now().await;
        assert_eq!(heard.try_recv(), Ok(None));
    }

    #[tokio::test]
    async fn a_call_that_is_ended_is_dropped_wherever_it_is() {
        struct Dropped(mpsc::Sender<()>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
            }
        }
        let engine = Engine::on(Handle::current());
        let (said, heard) = mpsc::channel();
        for with_engine in [false, true] {
            let (dropped, socket) = (Dropped(said.clone()), socket());
            let call = started(&engine, async move {
                let _dropped = dropped;
                poll_fn(|_| {
                    driver::wait_for(&socket);
                    Poll::<()>::Pending
                })
                .await;
            });
            if with_engine {
                call.leave_to_engine();
            }
            call.abort();
            tokio::task::yield_now().await;
            assert!(heard.try_recv().is_ok());
        }
        drop(started(&engine, pending()));
    }

    #[tokio::test]
    async fn an_engine_that_nobody_asks_has_no_timer() {
        tokio::time::pause();
        let engine = Engine::on(Handle::current());
        let (said, _heard) = mpsc::channel();
        let call = started(&engine, waits(said));
        assert!(engine.driven_calls().is_watching());
        call.abort();
        tokio::time::sleep(LONGEST_UNREAD * 3).await;
        assert!(!engine.driven_calls().is_watching());
    }
}
