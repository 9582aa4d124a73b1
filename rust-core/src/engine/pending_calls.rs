//! The calls under way on an engine. Each is answered once, even if the engine stops.
//!
//! The engine's thread can end while the program goes on, for instance when the program closes descriptors that are not its own. The tasks
//! on it then never finish, so the first thread that notices answers their callers.

use std::any::Any;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::engine::weak_list::WeakList;
use crate::error::{BackendError, Error, Failure, Result};

/// The calls under way on one engine.
pub(crate) struct PendingCalls {
    stopped: AtomicBool,
    stop: Notify,
    under_way: Mutex<WeakList<dyn PendingCall>>,
}

/// A call that waits for its answer.
trait PendingCall: Send + Sync {
    fn engine_stopped(&self);
}

/// The one answer that a caller gets.
pub(crate) struct Answer<T, F> {
    then: Mutex<Option<F>>,
    value: PhantomData<fn(T)>,
}

impl<T, F: FnOnce(Result<T>)> Answer<T, F> {
    /// Answers the caller, unless it was answered before.
    pub(crate) fn give(&self, outcome: Result<T>) {
        // Unlocked first: the callback may take its time.
        let then = self.then.lock().take();
        if let Some(then) = then {
            then(outcome);
        }
    }
}

impl<T, F: FnOnce(Result<T>) + Send> PendingCall for Answer<T, F> {
    fn engine_stopped(&self) {
        self.give(Err(stopped()));
    }
}

impl PendingCalls {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { stopped: AtomicBool::new(false), stop: Notify::new(), under_way: Mutex::default() })
    }

    /// Records a call that `then` answers. Keep the [`Answer`] for as long as the call goes on. If the engine has stopped, the call is
    /// answered at once.
    pub(crate) fn begin<T: 'static, F>(&self, then: F) -> Arc<Answer<T, F>>
    where
        F: FnOnce(Result<T>) + Send + 'static,
    {
        let answer = Arc::new(Answer { then: Mutex::new(Some(then)), value: PhantomData });
        let pending: Weak<Answer<T, F>> = Arc::downgrade(&answer);
        let is_late = {
            let mut under_way = self.under_way.lock();
            under_way.add(pending);
            self.is_stopped()
        };
        if is_late {
            answer.engine_stopped();
        }
        answer
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The engine has stopped: calls `first`, then answers every call under way. Does nothing the second time.
    pub(crate) fn stop(&self, first: impl FnOnce()) {
        let calls = {
            let mut under_way = self.under_way.lock();
            if self.is_stopped() {
                return;
            }
            // Kept from before the flag is set: whoever sees it drops what it has of its call.
            let calls: Vec<_> = std::mem::take(&mut *under_way).all().collect();
            // With the calls locked, so that a call that begins now is either in the list or sees the flag.
            self.stopped.store(true, Ordering::Release);
            calls
        };
        first();
        self.stop.notify_waiters();
        for call in calls {
            // A callback that panics must not keep the others from their answers.
            let _ = catch_unwind(AssertUnwindSafe(|| call.engine_stopped()));
        }
    }

    /// The output of `future`, or an error once the engine has stopped.
    ///
    /// # Cancel safety
    /// As that of `future`.
    pub(crate) async fn unless_stopped<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        let stop = self.stop.notified();
        tokio::pin!(stop);
        stop.as_mut().enable();
        if self.is_stopped() {
            return Err(stopped());
        }
        tokio::select! {
            biased;
            value = future => Ok(value),
            () = stop => Err(stopped()),
        }
    }
}

/// The error of a call whose engine has stopped.
pub(crate) fn stopped() -> Error {
    failed("the engine's thread has ended, as when a program closes descriptors that are not its own; the next call starts another")
}

/// The error of a call that panicked while its engine goes on.
pub(crate) fn panicked() -> Error {
    failed("the call panicked, which is a bug in dlock: please report it")
}

fn failed(message: &'static str) -> Error {
    let source = BackendError::new(Failure::Unknown, message);
    Error::BackendUnavailable { key: None, operation: "call", server: "engine".into(), source }
}

/// Whether tokio panicked because it cannot wake its thread: the descriptor for that is closed, or belongs to another file by now.
pub(crate) fn says_the_engine_is_gone(panic: &(dyn Any + Send)) -> bool {
    let message = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    message.is_some_and(|message| message.contains("failed to wake I/O driver"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn is_stopped<T>(outcome: &Result<T>) -> bool {
        matches!(outcome, Err(Error::BackendUnavailable { source, .. }) if source.message.contains("the engine's thread has ended"))
    }

    #[test]
    fn a_call_is_answered_once() {
        let (calls, (said, heard)) = (PendingCalls::new(), mpsc::channel());
        let answer = calls.begin(move |outcome: Result<u8>| said.send(outcome).unwrap());
        answer.give(Ok(1));
        answer.give(Ok(2));
        calls.stop(|| {});
        assert_eq!(heard.iter().map(Result::unwrap).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_stopped_engine_answers_every_call_under_way_and_later_ones() {
        let (calls, (said, heard)) = (PendingCalls::new(), mpsc::channel());
        let begin = || {
            let said = said.clone();
            calls.begin(move |outcome: Result<u8>| said.send(is_stopped(&outcome)).unwrap())
        };
        let before: Vec<_> = (0..3).map(|_| begin()).collect();
        assert!(heard.try_recv().is_err(), "answered before it stopped");
        calls.stop(|| assert!(heard.try_recv().is_err(), "answered before what comes first"));
        calls.stop(|| panic!("it stops once"));
        before[0].give(Ok(1));
        let after = begin();
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [true; 4]);
        drop((before, after));
    }

    #[test]
    fn a_call_without_a_caller_is_not_answered() {
        let (calls, (said, heard)) = (PendingCalls::new(), mpsc::channel::<()>());
        drop(calls.begin(move |_: Result<u8>| said.send(()).unwrap()));
        calls.stop(|| {});
        assert!(heard.recv().is_err(), "it was answered, or what it keeps was not dropped");
    }

    #[tokio::test]
    async fn a_future_ends_when_the_engine_stops() {
        let calls = PendingCalls::new();
        assert_eq!(calls.unless_stopped(async { 1 }).await.unwrap(), 1);
        let (outcome, ()) = tokio::join!(calls.unless_stopped(std::future::pending::<u8>()), async { calls.stop(|| {}) });
        assert!(is_stopped(&outcome));
        assert!(is_stopped(&calls.unless_stopped(async { 1 }).await));
    }
}
