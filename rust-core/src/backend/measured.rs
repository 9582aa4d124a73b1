//! A backend that counts and times the calls of another one, and cuts what others wrote to a bounded length.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{
    Acquire, Acquired, Backend, Capabilities, Handover, Inspection, Release, Renew, Renewed, Reply, Waiter, Waiting, Whom,
};
use crate::clock::Clock;
use crate::driver::Reader;
use crate::error::BackendError;
use crate::holder::Holder;
use crate::observe::{Observer, Operation};
use crate::owner::OwnerId;
use crate::printable::{LONGEST, bound};

#[derive(Debug)]
pub(crate) struct Measured {
    inner: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    observer: Arc<Observer>,
}

impl Measured {
    pub(crate) fn new(inner: Arc<dyn Backend>, clock: Arc<dyn Clock>, observer: Arc<Observer>) -> Arc<Self> {
        Arc::new(Self { inner, clock, observer })
    }

    fn measure<'a, T: Send + 'a>(&'a self, operation: Operation, call: Reply<'a, T>) -> Reply<'a, T> {
        self.measure_and(operation, call, |_| {})
    }

    /// A call that is dropped before its answer is not counted.
    fn measure_and<'a, T: Send + 'a>(&'a self, operation: Operation, call: Reply<'a, T>, cut: fn(&mut T)) -> Reply<'a, T> {
        let started = self.clock.now();
        async move {
            let mut answer = call.await;
            if let Ok(answer) = &mut answer {
                cut(answer);
            }
            self.observer.figures.called(operation, self.clock.now().since(started), answer.as_ref().err());
            answer
        }
        .boxed()
    }
}

fn cut_acquired(answer: &mut Acquired) {
    if let Acquired::Waiting(Waiting { holder: Some(holder), .. }) = answer {
        holder.bound();
    }
}

fn cut_inspection(found: &mut Inspection) {
    found.holder.iter_mut().for_each(Holder::bound);
    found.queue.iter_mut().for_each(|owner| bound(owner, LONGEST));
}

impl Backend for Measured {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn server(&self) -> &Arc<str> {
        self.inner.server()
    }

    fn warnings(&self) -> Vec<String> {
        self.inner.warnings()
    }

    fn answers_at_once(&self) -> bool {
        self.inner.answers_at_once()
    }

    fn serves_callers(&self, reader: Reader) -> bool {
        self.inner.serves_callers(reader)
    }

    fn ping(&self, timeout: Duration) -> Reply<'_, ()> {
        self.measure(Operation::Ping, self.inner.ping(timeout))
    }

    fn probe(&self, timeout: Duration) -> Reply<'_, ()> {
        self.measure(Operation::Ping, self.inner.probe(timeout))
    }

    fn acquire(&self, request: Acquire) -> Reply<'_, Acquired> {
        self.measure_and(Operation::Acquire, self.inner.acquire(request), cut_acquired)
    }

    fn renew(&self, batch: Vec<Renew>, timeout: Duration) -> Reply<'_, Vec<Renewed>> {
        self.measure(Operation::Renew, self.inner.renew(batch, timeout))
    }

    fn release(&self, release: Release) -> Reply<'_, Handover> {
        self.measure_and(Operation::Release, self.inner.release(release), |handed| handed.next.iter_mut().for_each(cut_acquired))
    }

    fn leave(&self, key: Arc<str>, owner: OwnerId, timeout: Duration) -> Reply<'_, ()> {
        self.measure(Operation::Leave, self.inner.leave(key, owner, timeout))
    }

    fn keep_waiting(&self, waiters: Vec<Waiter>, timeout: Duration) -> Reply<'_, Vec<Duration>> {
        self.measure(Operation::KeepWaiting, self.inner.keep_waiting(waiters, timeout))
    }

    fn inspect(&self, key: Arc<str>, timeout: Duration) -> Reply<'_, Inspection> {
        self.measure_and(Operation::Inspect, self.inner.inspect(key, timeout), cut_inspection)
    }

    fn list(&self, prefix: Arc<str>, timeout: Duration) -> Reply<'_, Vec<Inspection>> {
        self.measure_and(Operation::List, self.inner.list(prefix, timeout), |found| found.iter_mut().for_each(cut_inspection))
    }

    fn force_release(&self, key: Arc<str>, whom: Whom, timeout: Duration) -> Reply<'_, bool> {
        self.measure(Operation::ForceRelease, self.inner.force_release(key, whom, timeout))
    }

    fn engine_stopped(&self) {
        self.inner.engine_stopped();
    }

    fn lock_files(&self, key: &Arc<str>, owner: OwnerId) -> Result<Vec<OwnedFd>, BackendError> {
        self.inner.lock_files(key, owner)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}
