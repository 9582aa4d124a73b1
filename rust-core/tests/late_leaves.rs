//! Places that are given up, on a backend whose answers are late.

#![allow(clippy::unwrap_used)]

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dlock::backend::{
    Acquire, Acquired, Backend, Capabilities, Handover, Inspection, Plan, Release, Renew, Renewed, Reply, Waiter, Whom, parse,
};
use dlock::clock::ManualClock;
use dlock::environment::Environment;
use dlock::owner::OwnerId;
use dlock::{Client, ClientOptions};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

const SECOND: Duration = Duration::from_secs(1);

/// Executes requests when the test says so, and leaves at once, but answers the first of those when it is told to.
#[derive(Debug)]
struct Late {
    inner: Arc<dyn Backend>,
    capabilities: Capabilities,
    post: Arc<Post>,
}

#[derive(Debug, Default)]
struct Post {
    asked: Mutex<Vec<Acquire>>,
    left: AtomicUsize,
    answer: Notify,
}

impl Backend for Late {
    fn acquire(&self, request: Acquire) -> Reply<'_, Acquired> {
        self.post.asked.lock().unwrap().push(request);
        pending().boxed()
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
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
        async move {
            self.inner.leave(key, owner, timeout).await?;
            if self.post.left.fetch_add(1, Ordering::Relaxed) == 0 {
                self.post.answer.notified().await;
            }
            Ok(())
        }
        .boxed()
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

/// The leave was executed before the request, which was under way for long; and answered when that could not be executed any more.
#[tokio::test]
async fn r04_a_leave_that_was_answered_late_is_made_again() {
    let (clock, post) = (ManualClock::new(), Arc::<Post>::default());
    let other = Client::with_clock("memory:late", ClientOptions::default(), Arc::new(clock.clone())).unwrap();
    let (posted, store) = (post.clone(), Arc::<Mutex<Option<Arc<dyn Backend>>>>::default());
    let kept = store.clone();
    let memory = parse("memory:late", "dlock", SECOND).unwrap();
    let capabilities = Capabilities { late_window: SECOND, ..memory.capabilities().clone() };
    let (server, late) = (memory.server().clone(), capabilities.clone());
    let open = move |context| -> Arc<dyn Backend> {
        let inner = memory.open(context);
        *kept.lock().unwrap() = Some(inner.clone());
        Arc::new(Late { inner, capabilities: late.clone(), post: posted.clone() })
    };
    let backend = Arc::new(Plan::new(capabilities, server, open));
    let environment = Environment { backend, clock: Arc::new(clock.clone()), engine: None, session: None };
    let client = Client::in_environment(ClientOptions::default(), environment).unwrap();
    let waiter = tokio::spawn(client.lock("k").join(None));
    eventually("it asks", async || post.asked.lock().unwrap().len() == 1).await;
    waiter.abort();
    eventually("it leaves", async || post.left.load(Ordering::Relaxed) == 1).await;
    let (inner, request) = (store.lock().unwrap().clone().unwrap(), post.asked.lock().unwrap()[0].clone());
    assert!(matches!(inner.acquire(request).await.unwrap(), Acquired::Granted(_)));
    clock.advance(2 * SECOND);
    post.answer.notify_one();
    eventually("nobody holds it", async || other.inspect("k").await.unwrap().holder.is_none()).await;
}
