//! Waiters whose leases, watches and connections fail.

use std::time::Duration;

use dlock::backend::{Acquire, Hint, Outcome};

use crate::session::{Session, grant, onlooker, queue_keys, waiting};
use crate::support::etcd::EtcdServer;
use crate::support::proxy::{Gate, Proxy};

#[tokio::test]
async fn r02_a_waiter_whose_lease_died_is_never_granted_the_lock() {
    let server = EtcdServer::start().await;
    let onlooker = onlooker(&server.client_url()).await;
    let (holder, mut waiter, third) = (Session::new(&server.url()), Session::new(&server.url()), Session::new(&server.url()));
    let held = holder.granted("k", 1).await;
    waiter.waiting("k", 1).await;
    let queue_key = queue_keys(&onlooker, "k").await.into_iter().max_by_key(etcd_client::KeyValue::create_revision).unwrap();
    onlooker.clone().lease_revoke(queue_key.lease()).await.unwrap();
    assert_eq!(holder.release("k", 1).await, Outcome::Released);
    let taken = third.granted("k", 1).await;
    assert!(taken.token > held.token);
    waiter.waiting("k", 1).await;
    assert_eq!(third.release("k", 1).await, Outcome::Released);
    let granted = waiter.wait("k", 1).await;
    assert!(granted.token > taken.token);
    assert_eq!(queue_keys(&onlooker, "k").await[0].create_revision(), i64::try_from(granted.token).unwrap());
}

#[tokio::test]
async fn r02_a_lease_that_dies_under_a_waiter_makes_it_look() {
    let server = EtcdServer::start().await;
    let onlooker = onlooker(&server.client_url()).await;
    let (holder, mut waiter) = (Session::new(&server.url()), Session::new(&server.url()));
    holder.granted("k", 1).await;
    let short = Acquire { ttl: Duration::from_secs(2), ..waiter.request("k", 1) };
    waiting(waiter.backend.acquire(short.clone()).await.unwrap());
    let queue_key = queue_keys(&onlooker, "k").await.into_iter().max_by_key(etcd_client::KeyValue::create_revision).unwrap();
    onlooker.clone().lease_revoke(queue_key.lease()).await.unwrap();
    assert_eq!(waiter.hint().await, Hint::All, "its next keep-alive finds out");
    waiting(waiter.backend.acquire(short).await.unwrap());
    assert_eq!(queue_keys(&onlooker, "k").await.len(), 2, "it has a key again");
}

#[tokio::test]
async fn a_watch_that_fell_silent_is_taken_up_elsewhere() {
    let server = EtcdServer::start().await;
    let proxy = Proxy::to(server.port).await;
    let (holder, mut waiter) = (Session::new(&server.url()), Session::new(&format!("etcd://127.0.0.1:{}", proxy.port)));
    holder.granted("k", 1).await;
    waiter.waiting("k", 1).await;
    proxy.answers(Gate::Lost);
    holder.release("k", 1).await;
    assert_eq!(waiter.hint().await, Hint::Key("k".into(), Some(waiter.owner(1))), "from a new connection");
    grant(waiter.ask("k", 1).await);
}

#[tokio::test]
async fn a_past_that_is_forgotten_makes_the_waiter_look() {
    let server = EtcdServer::start().await;
    let mut onlooker = onlooker(&server.client_url()).await;
    let proxy = Proxy::to(server.port).await;
    let (holder, mut waiter) = (Session::new(&server.url()), Session::new(&format!("etcd://127.0.0.1:{}", proxy.port)));
    holder.granted("k", 1).await;
    waiter.waiting("k", 1).await;
    proxy.answers(Gate::Lost);
    proxy.requests(Gate::Lost);
    holder.release("k", 1).await;
    holder.granted("other", 2).await;
    let revision = onlooker.get("none", None).await.unwrap().header().unwrap().revision();
    onlooker.compact(revision, None).await.unwrap();
    assert_eq!(waiter.hint().await, Hint::Key("k".into(), Some(waiter.owner(1))));
    grant(waiter.ask("k", 1).await);
}
