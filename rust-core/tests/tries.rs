//! Tries past the local line, on a backend that does not answer them.

#![allow(clippy::unwrap_used)]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dlock::backend::{
    Acquire, Acquired, Backend, Capabilities, Handover, Inspection, Plan, Release, Renew, Renewed, Reply, Waiter, Whom, parse,
};
use dlock::clock::ManualClock;
use dlock::environment::Environment;
use dlock::owner::OwnerId;
use dlock::{Client, ClientOptions, Error};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

const SECOND: Duration = Duration::from_secs(1);

/// Passes everything on but tries, which it counts.
#[derive(Debug)]
struct Mute {
    inner: Arc<dyn Backend>,
    tries: Arc<AtomicUsize>,
}

impl Backend for Mute {
    fn acquire(&self, request: Acquire) -> Reply<'_, Acquired> {
        if request.enqueue {
            return self.inner.acquire(request);
        }
        self.tries.fetch_add(1, Ordering::Relaxed);
        pending().boxed()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn server(&self) -> &Arc<str> {
        self.inner.server()
    }

    fn ping(&self, timeout: Duration) -> Reply<'_, ()> {
        self.inner.ping(timeout)
    }

    fn probe(&self, timeout: Duration) -> Reply<'_, ()> {
        self.inner.probe(timeout)
    }

    fn renew(&self, batch: Vec<Renew>, timeout: Duration) -> Reply<'_, Vec<Renewed>> {
        self.inner.renew(batch, timeout)
    }

    fn release(&self, release: Release) -> Reply<'_, Handover> {
        self.inner.release(release)
    }

    fn leave(&self, key: Arc<str>, owner: OwnerId, timeout: Duration) -> Reply<'_, ()> {
        self.inner.leave(key, owner, timeout)
    }

    fn keep_waiting(&self, waiters: Vec<Waiter>, timeout: Duration) -> Reply<'_, Vec<Duration>> {
        self.inner.keep_waiting(waiters, timeout)
    }

    fn inspect(&self, key: Arc<str>, timeout: Duration) -> Reply<'_, Inspection> {
        self.inner.inspect(key, timeout)
    }

    fn list(&self, prefix: Arc<str>, timeout: Duration) -> Reply<'_, Vec<Inspection>> {
        self.inner.list(prefix, timeout)
    }

    fn force_release(&self, key: Arc<str>, whom: Whom, timeout: Duration) -> Reply<'_, bool> {
        self.inner.force_release(key, whom, timeout)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(5 * SECOND, waited).await.unwrap_or_else(|_| panic!("still not: {what}"));
}

/// A try's answer comes in time by itself, so `wait` is not timed while the first one is under way. When the turn comes meanwhile the try
/// is dropped; from then on it is.
#[tokio::test]
async fn r17_wait_ends_for_one_whose_first_try_was_dropped_for_its_turn() {
    let (clock, tries) = (ManualClock::new(), Arc::new(AtomicUsize::new(0)));
    let options = || ClientOptions { op_timeout: SECOND, ..ClientOptions::default() };
    let other = Client::with_clock("memory:tries", options(), Arc::new(clock.clone())).unwrap();
    let counter = tries.clone();
    let memory = parse("memory:tries", "dlock", SECOND).unwrap();
    let (capabilities, server) = (memory.capabilities().clone(), memory.server().clone());
    let open = move |context| -> Arc<dyn Backend> { Arc::new(Mute { inner: memory.open(context), tries: counter.clone() }) };
    let backend = Arc::new(Plan::new(capabilities, server, open));
    let environment = Environment { backend, clock: Arc::new(clock.clone()), engine: None, session: None };
    let client = Client::in_environment(options(), environment).unwrap();
    let lease = other.lock("k").acquire().await.unwrap();
    let first = tokio::spawn({
        let lock = client.lock("k");
        async move { lock.acquire().await }
    });
    eventually("the first one waits", async || other.inspect("k").await.unwrap().queue.len() == 1).await;
    let second = tokio::spawn({
        let lock = client.lock("k").fair(false).wait(2 * SECOND);
        async move { lock.acquire().await }
    });
    eventually("the second one tries", async || tries.load(Ordering::Relaxed) == 1).await;
    lease.release().await.unwrap();
    let held = first.await.unwrap().unwrap();
    clock.advance(2 * SECOND);
    let ended = tokio::time::timeout(5 * SECOND, second).await.expect("its wait is over").unwrap();
    assert!(matches!(ended, Err(Error::AcquireTimeout { .. })), "{ended:?}");
    held.release().await.unwrap();
}
