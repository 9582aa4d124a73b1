//! Hints that arrive when their waiter has the key, and releases it.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dlock::backend::{
    Acquire, Acquired, Backend, Capabilities, Handover, Hint, Inspection, Plan, Release, Renew, Renewed, Reply, Whom, parse,
};
use dlock::clock::BootClock;
use dlock::environment::Environment;
use dlock::owner::OwnerId;
use dlock::{Client, ClientOptions, Status};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::Notify;

const SECOND: Duration = Duration::from_secs(1);

/// Executes a release when the test says so, and everything else at once.
#[derive(Debug)]
struct Slow {
    inner: Arc<dyn Backend>,
    post: Arc<Post>,
}

#[derive(Debug, Default)]
struct Post {
    released: AtomicUsize,
    left: AtomicUsize,
    execute: Notify,
}

impl Backend for Slow {
    fn release(&self, release: Release) -> Reply<'_, Handover> {
        async move {
            self.post.released.fetch_add(1, Ordering::Relaxed);
            self.post.execute.notified().await;
            self.inner.release(release).await
        }
        .boxed()
    }

    fn leave(&self, key: Arc<str>, owner: OwnerId, timeout: Duration) -> Reply<'_, ()> {
        self.post.left.fetch_add(1, Ordering::Relaxed);
        self.inner.leave(key, owner, timeout)
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

    fn acquire(&self, request: Acquire) -> Reply<'_, Acquired> {
        self.inner.acquire(request)
    }

    fn renew(&self, batch: Vec<Renew>, timeout: Duration) -> Reply<'_, Vec<Renewed>> {
        self.inner.renew(batch, timeout)
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

/// The one thread of the test runs everything that can run.
async fn settled() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// The withdrawal that the hint brings about must not take the key from under the release, which would then be told "not held".
#[tokio::test]
async fn r05_a_hint_that_comes_during_the_release_withdraws_after_it() {
    type Hints = Arc<dyn Fn(Hint) + Send + Sync>;
    let (post, kept) = (Arc::<Post>::default(), Arc::<Mutex<Option<Hints>>>::default());
    let (posted, hints) = (post.clone(), kept.clone());
    let memory = parse("memory:", "dlock", SECOND).unwrap();
    let (capabilities, server) = (memory.capabilities().clone(), memory.server().clone());
    let open = move |context: dlock::backend::Context| -> Arc<dyn Backend> {
        *hints.lock().unwrap() = Some(context.on_hint.clone());
        Arc::new(Slow { inner: memory.open(context), post: posted.clone() })
    };
    let backend = Arc::new(Plan::new(capabilities, server, open));
    let environment = Environment { backend, clock: Arc::new(BootClock), engine: Some(Handle::current()), session: None };
    let client = Client::in_environment(ClientOptions::default(), environment).unwrap();
    let lease = client.lock("k").acquire().await.unwrap();
    let hint = Hint::Key("k".into(), Some(lease.owner_id()));
    let on_hint = kept.lock().unwrap().clone().unwrap();

    on_hint(hint.clone());
    settled().await;
    assert!(lease.is_valid() && post.left.load(Ordering::Relaxed) == 0, "it holds the key");

    let releasing = lease.clone();
    let release = tokio::spawn(async move { releasing.release().await });
    settled().await;
    assert_eq!(post.released.load(Ordering::Relaxed), 1);
    on_hint(hint);
    settled().await;
    assert_eq!(post.left.load(Ordering::Relaxed), 0, "the release is under way");

    post.execute.notify_one();
    assert!(release.await.unwrap().unwrap());
    assert_eq!(lease.status(), Status::Released);
    settled().await;
    assert_eq!(post.left.load(Ordering::Relaxed), 1, "whatever the key was handed over for");
}
