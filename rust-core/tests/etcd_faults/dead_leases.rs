//! A lease that is over, in a batch that one server has and does not answer, and that another one refuses: what was refused may still be
//! executed, and the other leases in it are not over.

use std::sync::Arc;
use std::time::Duration;

use dlock::backend::{Acquire, Grant, Renew, Renewed};
use dlock::error::Failure;
use etcd_client::Client;
use tokio::task::JoinHandle;

use crate::session::{Session, TIMEOUT, TTL, grant, onlooker, queue_keys, waiting};
use crate::support::etcd::EtcdServer;
use crate::support::eventually;
use crate::support::proxy::{Gate, Proxy};

/// A session whose requests reach the server by a proxy, or past it when the proxy is silent.
struct Scene {
    server: EtcdServer,
    proxy: Proxy,
    session: Arc<Session>,
    onlooker: Client,
}

impl Scene {
    async fn new() -> Self {
        let server = EtcdServer::start().await;
        let proxy = Proxy::to(server.port).await;
        let session = Arc::new(Session::new(&format!("etcd://127.0.0.1:{}", proxy.port)));
        session.granted("warm", 1).await;
        let onlooker = onlooker(&server.client_url()).await;
        Self { server, proxy, session, onlooker }
    }

    fn request(&self, key: &str, sequence: u64, ttl: Duration) -> Acquire {
        Acquire { ttl, ..self.session.request(key, sequence) }
    }

    fn ask(&self, request: Acquire) -> JoinHandle<Grant> {
        let session = self.session.clone();
        tokio::spawn(async move { persist(&session, request).await })
    }

    /// Revokes the lease of `dead` when `batch` has lined up behind two requests, and sends that to a server which is silent.
    async fn send_stuck<T>(&mut self, dead: &str, batch: impl FnOnce(&Self) -> T) -> T {
        self.proxy.answers(Gate::Stalled);
        let kept = self.proxy.kept();
        let under_way = [("before2", 2), ("before3", 3)].map(|(key, sequence)| self.ask(self.request(key, sequence, TTL)));
        let (proxy, onlooker) = (&self.proxy, &self.onlooker);
        eventually("they were answered", || async { proxy.kept() > kept && queue_keys(onlooker, "before3").await.len() == 1 })
            .await;
        self.proxy.requests(Gate::Stalled);
        let batch = batch(self);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let lease = queue_keys(&self.onlooker, dead).await[0].lease();
        self.onlooker.lease_revoke(lease).await.unwrap();
        self.proxy.answers(Gate::Open);
        for under_way in under_way {
            under_way.await.unwrap();
        }
        batch
    }

    /// Has what was stuck executed.
    async fn execute_it(&self) {
        let before = self.server.raft_index().await;
        self.proxy.let_late_requests_through();
        eventually("it is executed", || async { self.server.raft_index().await > before }).await;
    }
}

/// Asks as the engine does: again while the outcome is unknown.
async fn persist(session: &Session, request: Acquire) -> Grant {
    for _ in 0..20 {
        match session.backend.acquire(request.clone()).await {
            Err(error) => assert_eq!(error.failure, Failure::Unknown, "{error:?}"),
            Ok(acquired) => return grant(acquired),
        }
    }
    panic!("its outcome stays unknown");
}

async fn renew(session: &Session, key: &str, sequence: u64, ttl: Duration) -> Renewed {
    for _ in 0..20 {
        let renew = Renew { key: key.into(), owner: session.owner(sequence), ttl, exact: false };
        match session.backend.renew(vec![renew], TIMEOUT).await {
            Err(error) => assert_eq!(error.failure, Failure::Unknown, "{error:?}"),
            Ok(renewed) => return renewed[0],
        }
    }
    panic!("its outcome stays unknown");
}

#[tokio::test]
async fn r04_a_dead_lease_ends_no_other_one_of_its_batch_and_leaves_no_key() {
    const LONG: Duration = Duration::from_secs(40);
    let mut scene = Scene::new().await;
    scene.session.granted("a-warm", 20).await;
    grant(scene.session.backend.acquire(scene.request("dead", 4, LONG)).await.unwrap());
    // Both were wanted by others, so that they are nested.
    let other = Session::new(&scene.server.url());
    for (key, sequence) in [("a", 5), ("b", 6)] {
        other.granted(key, sequence).await;
        waiting(scene.session.ask(key, sequence).await);
        scene.session.backend.leave(key.into(), scene.session.owner(sequence), TIMEOUT).await.unwrap();
        other.release(key, sequence).await;
    }
    let asked = scene.send_stuck("dead", |scene| [scene.ask(scene.request("a", 10, TTL)), scene.ask(scene.request("b", 11, LONG))]);
    for asked in asked.await {
        asked.await.unwrap();
    }
    assert!(matches!(renew(&scene.session, "warm", 1, TTL).await, Renewed::Extended(_)), "its lease is alive");
    scene.session.backend.leave("a".into(), scene.session.owner(10), TIMEOUT).await.unwrap();
    scene.execute_it().await;
    assert_eq!(queue_keys(&scene.onlooker, "a").await.len(), 0, "a key that nobody wants");
    assert_eq!(queue_keys(&scene.onlooker, "b").await.len(), 1);
}

#[tokio::test]
async fn r01_a_key_that_was_to_be_moved_stays_under_a_lease_that_is_kept() {
    let [short, moved, long] = [7, 9, 40].map(Duration::from_secs);
    let mut scene = Scene::new().await;
    for (key, sequence, ttl) in [("k", 4, short), ("w", 5, moved), ("dead", 6, long)] {
        grant(scene.session.backend.acquire(scene.request(key, sequence, ttl)).await.unwrap());
    }
    let stuck = scene.send_stuck("dead", |scene| {
        let session = scene.session.clone();
        let renewed = tokio::spawn(async move { renew(&session, "k", 4, moved).await });
        (renewed, scene.ask(scene.request("b", 11, long)))
    });
    let (renewed, asked) = stuck.await;
    assert!(matches!(renewed.await.unwrap(), Renewed::Extended(_)));
    asked.await.unwrap();
    scene.execute_it().await;
    let left = || async {
        let lease = queue_keys(&scene.onlooker, "k").await[0].lease();
        scene.onlooker.clone().lease_time_to_live(lease, None).await.unwrap().ttl()
    };
    eventually("some of its time is over", || async { left().await <= 6 }).await;
    assert!(matches!(renew(&scene.session, "k", 4, moved).await, Renewed::Extended(_)));
    assert!(left().await > 6, "what was extended is another lease than the one that it is under");
}
