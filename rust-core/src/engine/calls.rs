//! The calls under way on an engine: each hears once what came of it, even when the engine stops under it.
//!
//! An engine thread can end: a program that closes all descriptors of its process takes the engine's with them. What ran on it then never goes
//! on, so its callers are not left to wait for it: whoever notices first answers them.

use std::any::Any;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::{BackendError, Error, Failure, Result};

/// So many records of calls are kept before the first look for those that are over.
const TIDY: usize = 64;

/// The calls under way on one engine.
pub(crate) struct Calls {
    stopped: AtomicBool,
    stop: Notify,
    under_way: Mutex<UnderWay>,
}

struct UnderWay {
    /// Of calls that are over only the memory is left, until the next look.
    calls: Vec<Weak<dyn Pending>>,
    tidy_at: usize,
}

/// A call that waits for its answer.
trait Pending: Send + Sync {
    fn engine_stopped(&self);
}

/// Who is answered, once.
pub(crate) struct Answer<T, F> {
    then: Mutex<Option<F>>,
    value: PhantomData<fn(T)>,
}

impl<T, F: FnOnce(Result<T>)> Answer<T, F> {
    /// Answers, unless that was done.
    pub(crate) fn give(&self, outcome: Result<T>) {
        // Unlocked before it is called: it may take its time.
        let then = self.then.lock().take();
        if let Some(then) = then {
            then(outcome);
        }
    }
}

impl<T, F: FnOnce(Result<T>) + Send> Pending for Answer<T, F> {
    fn engine_stopped(&self) {
        self.give(Err(stopped()));
    }
}

impl Calls {
    pub(crate) fn new() -> Arc<Self> {
        let under_way = UnderWay { calls: Vec::new(), tidy_at: TIDY };
        Arc::new(Self { stopped: AtomicBool::new(false), stop: Notify::new(), under_way: Mutex::new(under_way) })
    }

    /// A call whose answer goes to `then`: whoever keeps the [`Answer`] may still give it. Once the engine has stopped, that is done.
    pub(crate) fn begin<T: 'static, F>(&self, then: F) -> Arc<Answer<T, F>>
    where
        F: FnOnce(Result<T>) + Send + 'static,
    {
        let answer = Arc::new(Answer { then: Mutex::new(Some(then)), value: PhantomData });
        let pending: Weak<Answer<T, F>> = Arc::downgrade(&answer);
        let is_late = {
            let mut under_way = self.under_way.lock();
            if under_way.calls.len() >= under_way.tidy_at {
                under_way.calls.retain(|call| call.strong_count() > 0);
                under_way.tidy_at = TIDY.max(under_way.calls.len() * 2);
            }
            under_way.calls.push(pending);
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

    /// The engine has stopped. Does what has to be done before anybody hears of it, then answers every call under way. Nothing the second time.
    pub(crate) fn stop(&self, first: impl FnOnce()) {
        let calls = {
            let mut under_way = self.under_way.lock();
            // With the calls locked: one that begins now is in the list, or sees this.
            if self.stopped.swap(true, Ordering::AcqRel) {
                return;
            }
            std::mem::take(&mut under_way.calls)
        };
        first();
        self.stop.notify_waiters();
        for call in calls.iter().filter_map(Weak::upgrade) {
            call.engine_stopped();
        }
    }

    /// What comes of `future`, or an error once the engine has stopped.
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
    failed("the call panicked, which is a bug of ours: please report it")
}

fn failed(message: &'static str) -> Error {
    let source = BackendError::new(Failure::Unknown, message);
    Error::BackendUnavailable { key: None, operation: "call", server: "engine".into(), source }
}

/// Whether this is how tokio says that it cannot wake its thread: the descriptor for that is closed, or is something else by now.
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
    fn a_call_hears_once_what_came_of_it() {
        let (calls, (said, heard)) = (Calls::new(), mpsc::channel());
        let answer = calls.begin(move |outcome: Result<u8>| said.send(outcome).unwrap());
        answer.give(Ok(1));
        answer.give(Ok(2));
        calls.stop(|| {});
        assert_eq!(heard.iter().map(Result::unwrap).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn every_call_under_way_hears_that_the_engine_has_stopped_and_so_does_a_later_one() {
        let (calls, (said, heard)) = (Calls::new(), mpsc::channel());
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
    fn a_call_that_nobody_waits_for_hears_nothing() {
        let (calls, (said, heard)) = (Calls::new(), mpsc::channel::<()>());
        drop(calls.begin(move |_: Result<u8>| said.send(()).unwrap()));
        calls.stop(|| {});
        assert!(heard.recv().is_err(), "it was answered, or what it keeps was not dropped");
    }

    #[test]
    fn calls_that_are_over_do_not_pile_up() {
        let calls = Calls::new();
        let under_way: Vec<_> = (0..10).map(|_| calls.begin(|_: Result<u8>| {})).collect();
        for _ in 0..10 * TIDY {
            drop(calls.begin(|_: Result<u8>| {}));
        }
        assert!(calls.under_way.lock().calls.len() <= TIDY + under_way.len());
    }

    #[tokio::test]
    async fn whoever_awaits_hears_that_the_engine_has_stopped() {
        let calls = Calls::new();
        assert_eq!(calls.unless_stopped(async { 1 }).await.unwrap(), 1);
        let (outcome, ()) = tokio::join!(calls.unless_stopped(std::future::pending::<u8>()), async { calls.stop(|| {}) });
        assert!(is_stopped(&outcome));
        assert!(is_stopped(&calls.unless_stopped(async { 1 }).await));
    }
}
