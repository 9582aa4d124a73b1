//! Requests that are forced into one batch.

use std::sync::Arc;

use dlock::backend::{Acquired, Outcome};

use crate::session::{Session, all_queue_keys, onlooker, queue_keys};
use crate::support::etcd::EtcdServer;
use crate::support::eventually;
use crate::support::proxy::{Gate, Proxy};

/// A session with two requests under way, so that whatever it sends next goes into one batch.
pub(crate) struct Held {
    session: Arc<Session>,
    proxy: Proxy,
    under_way: Vec<tokio::task::JoinHandle<Acquired>>,
}

impl Held {
    pub(crate) async fn new(server: &EtcdServer) -> Self {
        let proxy = Proxy::to(server.port).await;
        let session = Arc::new(Session::new(&format!("etcd://127.0.0.1:{}", proxy.port)));
        session.granted("warm", 1).await;
        proxy.requests(Gate::Stalled);
        let mut under_way = Vec::new();
        for sequence in [2, 3] {
            let session = session.clone();
            under_way.push(tokio::spawn(async move { session.ask(&format!("before{sequence}"), sequence).await }));
        }
        eventually("requests are under way", || async { proxy.kept() > 0 }).await;
        Self { session, proxy, under_way }
    }

    pub(crate) fn session(&self) -> Arc<Session> {
        self.session.clone()
    }

    /// The proxy that holds the requests back, and those requests.
    pub(crate) fn into_parts(self) -> (Proxy, Vec<tokio::task::JoinHandle<Acquired>>) {
        (self.proxy, self.under_way)
    }

    /// Lets the requests through.
    pub(crate) async fn let_go(self) -> Proxy {
        // Those that were made meanwhile are in line.
        tokio::task::yield_now().await;
        self.proxy.requests(Gate::Open);
        for under_way in self.under_way {
            under_way.await.unwrap();
        }
        self.proxy
    }
}

#[tokio::test]
async fn two_acquires_of_one_name_in_one_window_are_one_grant() {
    let server = EtcdServer::start().await;
    let held = Held::new(&server).await;
    let session = held.session();
    let asked = [10, 11].map(|sequence| session.backend.acquire(session.request("k", sequence)));
    let _proxy = held.let_go().await;
    let [one, two] = asked;
    let (one, two) = (one.await.unwrap(), two.await.unwrap());
    let grants = [&one, &two].iter().filter(|acquired| matches!(acquired, Acquired::Granted(_))).count();
    assert_eq!(grants, 1, "{one:?} {two:?}");
    let onlooker = onlooker(&server.client_url()).await;
    let ages: Vec<_> = queue_keys(&onlooker, "k").await.iter().map(etcd_client::KeyValue::create_revision).collect();
    assert!(ages.len() == 2 && ages[0] != ages[1], "{ages:?}");
}

#[tokio::test]
async fn an_acquire_and_its_leave_in_one_window_leave_nothing() {
    let server = EtcdServer::start().await;
    let held = Held::new(&server).await;
    let session = held.session();
    let asked = session.backend.acquire(session.request("k", 10));
    drop(asked);
    let left = session.backend.leave("k".into(), session.owner(10), crate::session::TIMEOUT);
    let kept = session.backend.acquire(session.request("other", 11));
    let _proxy = held.let_go().await;
    left.await.unwrap();
    kept.await.unwrap();
    let onlooker = onlooker(&server.client_url()).await;
    assert_eq!(queue_keys(&onlooker, "k").await.len(), 0);
    assert_eq!(all_queue_keys(&onlooker).await.len(), 4, "what was not left is there");
}

#[tokio::test]
async fn one_dead_lease_does_not_spoil_a_batch() {
    let server = EtcdServer::start().await;
    let onlooker = onlooker(&server.client_url()).await;
    let held = Held::new(&server).await;
    let session = held.session();
    let lease = queue_keys(&onlooker, "warm").await[0].lease();
    onlooker.clone().lease_revoke(lease).await.unwrap();
    let asked = (10..20).map(|sequence| session.backend.acquire(session.request(&format!("k{sequence}"), sequence)));
    let asked: Vec<_> = asked.collect();
    let released = session.backend.leave("warm".into(), session.owner(1), crate::session::TIMEOUT);
    let proxy = held.proxy;
    proxy.requests(Gate::Open);
    for acquired in asked {
        assert!(matches!(acquired.await.unwrap(), Acquired::Granted(_)));
    }
    released.await.unwrap();
    assert_eq!(all_queue_keys(&onlooker).await.len(), 12, "all but the one whose lease was revoked");
}

#[tokio::test]
async fn a_release_and_the_next_waiter_go_in_one_request() {
    let server = EtcdServer::start().await;
    let session = Session::new(&server.url());
    session.granted("k", 1).await;
    let before = server.raft_index().await;
    let handover = session.hand("k", 1, Some(session.request("k", 2))).await;
    assert_eq!(handover.outcome, Outcome::Released);
    assert!(matches!(handover.next, Some(Acquired::Granted(_))), "{handover:?}");
    assert_eq!(server.raft_index().await - before, 1);
}
