//! What locks cost the cluster: entries in its log, each written to disk by most of its servers.

use std::time::{Duration, Instant};

use dlock::backend::{Acquire, Outcome};

use crate::batches::Held;
use crate::session::{Session, grant, waiting};
use crate::support::etcd::EtcdServer;
use crate::support::eventually;

const PAIRS: u64 = 20;

#[tokio::test]
async fn a_lock_taken_and_released_costs_two_entries() {
    let server = EtcdServer::start().await;
    let session = Session::new(&server.url());
    session.granted("warm", 1).await;
    let before = server.raft_index().await;
    for sequence in 2..2 + PAIRS {
        session.granted("k", sequence).await;
        assert_eq!(session.release("k", sequence).await, Outcome::Released);
    }
    assert_eq!(server.raft_index().await - before, 2 * PAIRS);
}

#[tokio::test]
async fn a_lock_that_is_waited_for_costs_two_entries_as_well() {
    let server = EtcdServer::start().await;
    let (mut one, mut two) = (Session::new(&server.url()), Session::new(&server.url()));
    one.granted("warm1", 1).await;
    two.granted("warm2", 1).await;
    one.granted("k", 2).await;
    let before = server.raft_index().await;
    for sequence in 3..3 + PAIRS {
        two.waiting("k", sequence).await;
        one.release("k", sequence - 1).await;
        two.wait("k", sequence).await;
        std::mem::swap(&mut one, &mut two);
    }
    assert_eq!(server.raft_index().await - before, 2 * PAIRS);
}

#[tokio::test]
async fn a_batch_costs_one_entry() {
    let server = EtcdServer::start().await;
    let held = Held::new(&server).await;
    let before = server.raft_index().await;
    let session = held.session();
    let asked = (10..60).map(|sequence| session.backend.acquire(session.request(&format!("k{sequence}"), sequence)));
    let asked: Vec<_> = asked.collect();
    held.let_go().await;
    for acquired in asked {
        grant(acquired.await.unwrap());
    }
    let cost = server.raft_index().await - before;
    assert!(cost <= 3, "{cost}, with the two that were under way when the others came");
}

#[tokio::test]
async fn waiting_costs_nothing() {
    let server = EtcdServer::start().await;
    let (holder, mut waiter) = (Session::new(&server.url()), Session::new(&server.url()));
    holder.granted("k", 1).await;
    let short = Acquire { ttl: Duration::from_secs(2), ..waiter.request("k", 1) };
    waiting(waiter.backend.acquire(short.clone()).await.unwrap());
    let before = server.raft_index().await;
    let started = Instant::now();
    // Its lease would have ended twice, and it looks by itself.
    eventually("two TTLs have passed", || async {
        waiting(waiter.backend.acquire(short.clone()).await.unwrap());
        started.elapsed() > short.ttl * 2
    })
    .await;
    assert_eq!(server.raft_index().await, before);
    holder.release("k", 1).await;
    assert_eq!(waiter.hint().await, dlock::backend::Hint::Key("k".into(), Some(short.owner)));
    grant(waiter.backend.acquire(short).await.unwrap());
}

#[tokio::test]
async fn a_try_that_fails_again_costs_nothing() {
    let server = EtcdServer::start().await;
    let (holder, other) = (Session::new(&server.url()), Session::new(&server.url()));
    holder.granted("k", 1).await;
    let attempt = |sequence| Acquire { enqueue: false, ..other.request("k", sequence) };
    waiting(other.backend.acquire(attempt(1)).await.unwrap());
    let before = server.raft_index().await;
    for sequence in 2..10 {
        waiting(other.backend.acquire(attempt(sequence)).await.unwrap());
    }
    assert_eq!(server.raft_index().await, before);
    holder.release("k", 1).await;
    grant(other.backend.acquire(attempt(10)).await.unwrap());
}

#[tokio::test]
async fn renewing_costs_nothing() {
    let server = EtcdServer::start().await;
    let session = Session::new(&server.url());
    for sequence in 1..=150 {
        session.granted(&format!("k{sequence}"), sequence).await;
    }
    let before = server.raft_index().await;
    let renewals = (1..=150).map(|sequence| dlock::backend::Renew {
        key: format!("k{sequence}").into(),
        owner: session.owner(sequence),
        ttl: crate::session::TTL,
        exact: false,
    });
    let renewed = session.backend.renew(renewals.collect(), crate::session::TIMEOUT).await.unwrap();
    assert!(renewed.iter().all(|renewed| *renewed == dlock::backend::Renewed::Extended(crate::session::TTL)), "{renewed:?}");
    assert_eq!(server.raft_index().await, before);
}
