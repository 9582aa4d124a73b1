//! Optimistic batches, and what becomes of them when one precondition fails.

use std::sync::Arc;

use dlock::backend::{Acquired, Outcome};
use etcd_client::Client;

use crate::batches::Held;
use crate::session::{Session, TIMEOUT, all_queue_keys, grant, onlooker, queue_keys};
use crate::support::etcd::EtcdServer;
use crate::support::eventually;
use crate::support::proxy::{Gate, Proxy};

const FIRST: u64 = 10;
const MANY: std::ops::Range<u64> = FIRST..FIRST + 40;
const COUNT: usize = 40;

fn key(sequence: u64) -> String {
    format!("k{sequence}")
}

/// Asks for many locks at once, all of which are in line when this returns.
async fn ask(session: &Arc<Session>) -> Vec<tokio::task::JoinHandle<Acquired>> {
    let asked = MANY.map(|sequence| {
        let session = session.clone();
        tokio::spawn(async move { session.ask(&key(sequence), sequence).await })
    });
    let asked = asked.collect();
    // One thread runs them all.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    asked
}

/// Gives many locks back at once.
async fn release(session: &Arc<Session>) -> Vec<Outcome> {
    let released: Vec<_> = MANY
        .map(|sequence| {
            let session = session.clone();
            tokio::spawn(async move { session.release(&key(sequence), sequence).await })
        })
        .collect();
    let mut outcomes = Vec::new();
    for released in released {
        outcomes.push(released.await.unwrap());
    }
    outcomes
}

#[tokio::test]
async fn a_held_lock_delays_no_other() {
    let server = EtcdServer::start().await;
    let other = Session::new(&server.url());
    let held_by_other = other.granted(&key(FIRST), 1).await;
    let held = Held::new(&server).await;
    let session = held.session();
    let asked = ask(&session).await;
    let before = server.raft_index().await;
    let _proxy = held.let_go().await;
    let mut tokens = Vec::new();
    for (sequence, asked) in MANY.zip(asked) {
        match asked.await.unwrap() {
            Acquired::Waiting(waiting) => {
                assert_eq!(sequence, FIRST);
                assert_eq!(waiting.holder.unwrap().token, Some(held_by_other.token));
            }
            Acquired::Granted(grant) => tokens.push(grant.token),
        }
    }
    assert_eq!(tokens.len(), COUNT - 1);
    assert_eq!(server.raft_index().await - before, 3, "what went before, one for nothing, and one that was done");
    assert_eq!(other.release(&key(FIRST), 1).await, Outcome::Released);
    let next = session.granted(&key(FIRST), FIRST).await;
    assert!(next.token > held_by_other.token);
    assert_eq!(release(&session).await, [Outcome::Released; COUNT]);
}

#[tokio::test]
async fn a_lost_lock_does_not_keep_others_from_being_released() {
    let server = EtcdServer::start().await;
    let mut onlooker = onlooker(&server.client_url()).await;
    let session = Arc::new(Session::new(&server.url()));
    for asked in ask(&session).await {
        grant(asked.await.unwrap());
    }
    let lost = queue_keys(&onlooker, &key(FIRST + 5)).await;
    onlooker.delete(lost[0].key(), None).await.unwrap();
    let outcomes = release(&session).await;
    let not_held: Vec<_> = (0..COUNT).filter(|&index| outcomes[index] == Outcome::NotHeld).collect();
    assert_eq!(not_held, [5], "{outcomes:?}");
    assert_eq!(all_queue_keys(&onlooker).await.len(), 0);
}

#[tokio::test]
async fn a_guard_that_is_gone_is_made_again_and_all_are_granted() {
    let server = EtcdServer::start().await;
    let mut onlooker = onlooker(&server.client_url()).await;
    let held = Held::new(&server).await;
    let session = held.session();
    let asked = ask(&session).await;
    let guards = etcd_client::DeleteOptions::new().with_prefix();
    assert_eq!(onlooker.delete("ns/\0", Some(guards)).await.unwrap().deleted(), 1);
    let _proxy = held.let_go().await;
    for asked in asked {
        grant(asked.await.unwrap());
    }
    assert_eq!(release(&session).await, [Outcome::Released; COUNT]);
}

#[tokio::test]
async fn r04_a_batch_that_was_done_and_not_answered_is_done_once() {
    let server = EtcdServer::start().await;
    let onlooker = onlooker(&server.client_url()).await;
    let held = Held::new(&server).await;
    let session = held.session();
    let asked = ask(&session).await;
    let (proxy, under_way) = held.into_parts();
    proxy.answers(Gate::Lost);
    proxy.requests(Gate::Open);
    for under_way in under_way {
        under_way.await.unwrap();
    }
    for (sequence, asked) in MANY.zip(asked) {
        let token = grant(asked.await.unwrap()).token;
        let queue_keys = queue_keys(&onlooker, &key(sequence)).await;
        assert_eq!(queue_keys.iter().map(|queue_key| queue_key.create_revision().cast_unsigned()).collect::<Vec<_>>(), [token]);
    }
    let before = server.raft_index().await;
    assert_eq!(release(&session).await, [Outcome::Released; COUNT]);
    let cost = server.raft_index().await - before;
    assert!(cost <= 2, "{cost}: what is left of them goes together");
}

/// A session whose batch is held up on its way to the server, while what it sends from then on gets there.
struct Stuck {
    server: EtcdServer,
    proxy: Proxy,
    session: Arc<Session>,
    asked: Vec<tokio::task::JoinHandle<Acquired>>,
    onlooker: Client,
}

impl Stuck {
    async fn new(server: EtcdServer) -> Self {
        let proxy = Proxy::to(server.port).await;
        let session = Arc::new(Session::new(&format!("etcd://127.0.0.1:{}", proxy.port)));
        session.granted("warm", 1).await;
        let onlooker = onlooker(&server.client_url()).await;
        // Two are under way, so that the others line up.
        proxy.answers(Gate::Stalled);
        let kept = proxy.kept();
        let under_way = ["before2", "before3"].map(|key| {
            let session = session.clone();
            tokio::spawn(async move { session.ask(key, key[6..].parse().unwrap()).await })
        });
        eventually("they were answered", || async { proxy.kept() > kept && queue_keys(&onlooker, "before3").await.len() == 1 })
            .await;
        proxy.requests(Gate::Stalled);
        let asked = ask(&session).await;
        proxy.answers(Gate::Open);
        for under_way in under_way {
            grant(under_way.await.unwrap());
        }
        Self { server, proxy, session, asked, onlooker }
    }

    /// Has what was held up executed.
    async fn execute_it(&self) {
        let before = self.server.raft_index().await;
        self.proxy.let_late_requests_through();
        eventually("it is executed", || async { self.server.raft_index().await > before }).await;
    }
}

#[tokio::test]
async fn r04_a_batch_that_is_executed_late_makes_no_keys() {
    let mut stuck = Stuck::new(EtcdServer::start().await).await;
    for asked in std::mem::take(&mut stuck.asked) {
        grant(asked.await.unwrap());
    }
    assert_eq!(release(&stuck.session).await, [Outcome::Released; COUNT]);
    stuck.execute_it().await;
    assert_eq!(all_queue_keys(&stuck.onlooker).await.len(), 3, "keys that nobody wants");
}

#[tokio::test]
async fn r04_one_that_failed_elsewhere_and_is_executed_late_makes_no_keys() {
    let server = EtcdServer::start().await;
    let other = Session::new(&server.url());
    other.granted(&key(FIRST), 1).await;
    let mut stuck = Stuck::new(server).await;
    for (sequence, asked) in MANY.zip(std::mem::take(&mut stuck.asked)) {
        let acquired = asked.await.unwrap();
        assert_eq!(matches!(acquired, Acquired::Waiting(_)), sequence == FIRST, "{acquired:?}");
    }
    stuck.session.backend.leave(key(FIRST).into(), stuck.session.owner(FIRST), TIMEOUT).await.unwrap();
    assert_eq!(release(&stuck.session).await[1..], [Outcome::Released; COUNT - 1]);
    assert_eq!(other.release(&key(FIRST), 1).await, Outcome::Released);
    stuck.execute_it().await;
    assert_eq!(all_queue_keys(&stuck.onlooker).await.len(), 3, "keys that nobody wants");
}

#[tokio::test]
async fn r04_releases_that_are_executed_late_spare_the_next_ones_with_the_key_numbers() {
    let server = EtcdServer::start().await;
    let proxy = Proxy::to(server.port).await;
    let session = Arc::new(Session::new(&format!("etcd://127.0.0.1:{}", proxy.port)));
    for asked in ask(&session).await {
        grant(asked.await.unwrap());
    }
    proxy.requests(Gate::Stalled);
    assert_eq!(release(&session).await, [Outcome::Released; COUNT], "on another connection");
    let next = ask(&session).await;
    for asked in next {
        grant(asked.await.unwrap());
    }
    let before = server.raft_index().await;
    proxy.let_late_requests_through();
    eventually("they are executed", || async { server.raft_index().await > before }).await;
    assert_eq!(all_queue_keys(&onlooker(&server.client_url()).await).await.len(), COUNT);
    assert_eq!(release(&session).await, [Outcome::Released; COUNT]);
}
