//! A session's attempts at one lock use a few keys again and again: a request that is executed late must not touch the key of the next attempt.

use std::collections::BTreeSet;
use std::time::Duration;

use dlock::backend::{Acquire, Grant, Outcome, Renew, Renewed};
use dlock::error::Failure;
use etcd_client::{Client, PutOptions, WatchOptions};

use crate::session::{Session, TIMEOUT, TTL, all_queue_keys, onlooker, queue_keys, waiting};
use crate::support::etcd::{EtcdServer, Options};
use crate::support::eventually;
use crate::support::proxy::{Gate, Proxy};

/// The key numbers of a lock's holder and waiters, by age.
async fn key_numbers(onlooker: &Client, key: &str) -> Vec<String> {
    let mut queue_keys = queue_keys(onlooker, key).await;
    queue_keys.sort_by_key(etcd_client::KeyValue::create_revision);
    queue_keys.iter().map(|queue_key| key_number(queue_key.key())).collect()
}

fn key_number(queue_key: &[u8]) -> String {
    String::from_utf8_lossy(queue_key).rsplit_once(':').unwrap().1.to_owned()
}

/// All key numbers that there have ever been.
async fn key_numbers_ever(onlooker: &mut Client, key: &str) -> BTreeSet<String> {
    let now = onlooker.get("none", None).await.unwrap().header().unwrap().revision();
    // The last thing that happens, so that the end of the past is seen.
    onlooker.put(format!("ns/{key}\0end:end"), "", None).await.unwrap();
    let options = WatchOptions::new().with_prefix().with_start_revision(1);
    let mut past = onlooker.watch(format!("ns/{key}\0"), Some(options)).await.unwrap();
    let mut key_numbers = BTreeSet::new();
    while let Some(response) = past.message().await.unwrap() {
        for event in response.events() {
            let queue_key = event.kv().unwrap();
            if queue_key.mod_revision() > now {
                return key_numbers;
            }
            key_numbers.insert(key_number(queue_key.key()));
        }
    }
    panic!("the past ended early");
}

#[tokio::test]
async fn a_thousand_holders_use_one_key_and_those_who_are_handed_it_two() {
    let server = EtcdServer::start().await;
    let mut onlooker = onlooker(&server.client_url()).await;
    let session = Session::new(&server.url());
    for sequence in 1..=1_000 {
        session.granted("k", sequence).await;
        assert_eq!(session.release("k", sequence).await, Outcome::Released);
    }
    assert_eq!(key_numbers_ever(&mut onlooker, "k").await, BTreeSet::from(["0".to_owned()]));
    session.granted("handed", 2_000).await;
    for sequence in 2_000..2_100 {
        let next = session.request("handed", sequence + 1);
        assert_eq!(session.hand("handed", sequence, Some(next)).await.outcome, Outcome::Released);
    }
    assert_eq!(key_numbers_ever(&mut onlooker, "handed").await, BTreeSet::from(["0".to_owned(), "1".to_owned()]));
}

#[tokio::test]
async fn attempts_of_one_session_have_their_own_numbers_and_the_last_to_come_is_last() {
    let server = EtcdServer::start().await;
    let onlooker = onlooker(&server.client_url()).await;
    let mut session = Session::new(&server.url());
    session.granted("k", 1).await;
    for sequence in 2..=4 {
        session.waiting("k", sequence).await;
    }
    assert_eq!(key_numbers(&onlooker, "k").await, ["0", "1", "2", "3"]);
    assert_eq!(session.release("k", 1).await, Outcome::Released);
    session.waiting("k", 5).await;
    assert_eq!(key_numbers(&onlooker, "k").await, ["1", "2", "3", "0"]);
    let seen = session.backend.inspect("k".into(), TIMEOUT).await.unwrap();
    assert_eq!(seen.holder.unwrap().owner, session.owner(2).to_string());
    assert_eq!(seen.queue, [3, 4, 5].map(|sequence| session.owner(sequence).to_string()));
    for sequence in 2..=5 {
        session.wait("k", sequence).await;
        assert_eq!(session.release("k", sequence).await, Outcome::Released);
    }
    assert_eq!(all_queue_keys(&onlooker).await.len(), 0);
}

/// A server, a session that reaches it through a proxy, and somebody who looks on.
struct Scene {
    server: EtcdServer,
    proxy: Proxy,
    session: Session,
    onlooker: Client,
}

impl Scene {
    async fn new() -> Self {
        Self::at(EtcdServer::start().await).await
    }

    async fn at(server: EtcdServer) -> Self {
        let proxy = Proxy::to(server.port).await;
        let session = Session::new(&format!("etcd://127.0.0.1:{}", proxy.port));
        session.granted("warm", 1).await;
        session.release("warm", 1).await;
        let onlooker = onlooker(&server.client_url()).await;
        Self { server, proxy, session, onlooker }
    }

    /// Has what was kept back so far executed by the server.
    async fn execute_late_requests(&self) {
        let before = self.server.raft_index().await;
        self.proxy.let_late_requests_through();
        eventually("the late request is executed", || async { self.server.raft_index().await > before }).await;
    }

    /// The attempt holds the lock with the lowest key number, as far as the server and the session know.
    async fn holds(&self, key: &str, sequence: u64, grant: Grant) {
        let queue_keys = queue_keys(&self.onlooker, key).await;
        let [queue_key] = &*queue_keys else { panic!("one has a key: {queue_keys:?}") };
        assert_eq!((key_number(queue_key.key()), queue_key.create_revision().cast_unsigned()), ("0".to_owned(), grant.token));
        let owner = self.session.owner(sequence);
        assert!(queue_key.value().starts_with(format!("{owner}|").as_bytes()), "{queue_key:?}");
        let renew = Renew { key: key.into(), owner, ttl: TTL, exact: false };
        assert_eq!(self.session.backend.renew(vec![renew], TIMEOUT).await.unwrap(), [Renewed::Extended(TTL)]);
    }
}

#[tokio::test]
async fn r04_a_release_that_is_executed_late_spares_the_next_one_with_the_key_number() {
    let scene = Scene::new().await;
    scene.session.granted("k", 2).await;
    scene.proxy.requests(Gate::Stalled);
    assert_eq!(scene.session.release("k", 2).await, Outcome::Released, "on another connection");
    let next = scene.session.granted("k", 3).await;
    scene.execute_late_requests().await;
    scene.holds("k", 3, next).await;
}

#[tokio::test]
async fn r04_an_acquire_that_is_executed_late_makes_no_key_with_the_next_ones_number() {
    let scene = Scene::new().await;
    scene.proxy.requests(Gate::Stalled);
    scene.session.granted("k", 2).await;
    assert_eq!(scene.session.release("k", 2).await, Outcome::Released);
    let next = scene.session.granted("k", 3).await;
    scene.holds("k", 3, next).await;
    assert_eq!(scene.session.release("k", 3).await, Outcome::Released);
    scene.execute_late_requests().await;
    assert_eq!(all_queue_keys(&scene.onlooker).await.len(), 0, "a key that nobody wants");
}

#[tokio::test]
async fn r04_a_deletion_that_moves_the_guard_on_is_executed_once() {
    let scene = Scene::new().await;
    scene.proxy.answers(Gate::Lost);
    scene.session.granted("k", 2).await;
    // That one was asked for twice, so the guard moves on with its end.
    scene.proxy.requests(Gate::Stalled);
    assert_eq!(scene.session.release("k", 2).await, Outcome::Released, "on another connection");
    let next = scene.session.granted("k", 3).await;
    scene.execute_late_requests().await;
    scene.holds("k", 3, next).await;
    let before = scene.server.raft_index().await;
    scene.session.granted("other", 4).await;
    assert_eq!(scene.server.raft_index().await - before, 1, "the guard is where it was");
}

#[tokio::test]
async fn r04_a_deletion_without_an_answer_is_found_done_and_the_key_number_is_free() {
    let scene = Scene::new().await;
    scene.proxy.answers(Gate::Lost);
    scene.session.granted("k", 2).await;
    scene.proxy.answers(Gate::Lost);
    let release = dlock::backend::Release { key: "k".into(), owner: scene.session.owner(2), next: None, timeout: TIMEOUT };
    let unknown = scene.session.backend.release(release).await.unwrap_err();
    assert_eq!(unknown.failure, Failure::Unknown, "whether it was this that ended it: {unknown:?}");
    assert_eq!(all_queue_keys(&scene.onlooker).await.len(), 0);
    let next = scene.session.granted("k", 3).await;
    scene.holds("k", 3, next).await;
}

#[tokio::test]
async fn r04_a_try_that_is_executed_late_makes_no_key() {
    let scene = Scene::new().await;
    let holder = Session::new(&scene.server.url());
    holder.granted("k", 1).await;
    scene.proxy.requests(Gate::Stalled);
    let attempt = Acquire { enqueue: false, ..scene.session.request("k", 2) };
    waiting(scene.session.backend.acquire(attempt).await.unwrap());
    assert_eq!(holder.release("k", 1).await, Outcome::Released);
    scene.execute_late_requests().await;
    assert_eq!(all_queue_keys(&scene.onlooker).await.len(), 0, "nothing remains of a try");
}

#[tokio::test]
async fn r04_a_deletion_that_is_executed_late_spares_what_its_owner_asked_for_since() {
    let scene = Scene::new().await;
    let holder = Session::new(&scene.server.url());
    holder.granted("k", 1).await;
    scene.session.waiting("k", 2).await;
    scene.proxy.requests(Gate::Stalled);
    // Too short for another connection.
    scene.session.backend.leave("k".into(), scene.session.owner(2), Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(holder.release("k", 1).await, Outcome::Released);
    let grant = scene.session.granted("k", 2).await;
    scene.execute_late_requests().await;
    scene.holds("k", 2, grant).await;
}

#[tokio::test]
async fn r04_a_server_that_takes_few_operations_is_asked_for_one_deletion_after_the_other() {
    let few = Options { arguments: vec!["--max-txn-ops=3".to_owned()], ..Options::default() };
    let scene = Scene::at(EtcdServer::start_with(few).await).await;
    // All of them are asked for twice, so the guard moves on with their end.
    for sequence in 2..7 {
        scene.proxy.answers(Gate::Lost);
        scene.session.granted(&format!("k{sequence}"), sequence).await;
    }
    let before = scene.server.raft_index().await;
    let released = (2..7).map(async |sequence| scene.session.release(&format!("k{sequence}"), sequence).await);
    assert_eq!(futures_util::future::join_all(released).await, [Outcome::Released; 5]);
    assert_eq!(scene.server.raft_index().await - before, 5);
    assert_eq!(all_queue_keys(&scene.onlooker).await.len(), 0);
}

#[tokio::test]
async fn a_key_that_a_snapshot_brought_back_is_in_nobodys_way() {
    let scene = Scene::new().await;
    scene.session.granted("k", 2).await;
    let [queue_key] = &*queue_keys(&scene.onlooker, "k").await else { panic!("one has a key") };
    assert_eq!(scene.session.release("k", 2).await, Outcome::Released);
    let back = PutOptions::new().with_lease(queue_key.lease());
    scene.onlooker.clone().put(queue_key.key(), queue_key.value(), Some(back)).await.unwrap();
    let next = scene.session.granted("k", 3).await;
    scene.holds("k", 3, next).await;
}
