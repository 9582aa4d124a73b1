//! A leave that fails is tried again by itself, when everybody else has given it up.

use std::time::Duration;

use dlock::{Client, ClientOptions, Status};

use crate::session::{Session, TIMEOUT, all_queue_keys, onlooker, queue_keys};
use crate::support::etcd::EtcdServer;
use crate::support::eventually;
use crate::support::proxy::{Gate, Proxy};

/// The backend's pause before that is 70 s.
const ALMOST: Duration = Duration::from_secs(68);
const THE_REST: Duration = Duration::from_secs(2);

/// Lets so much time pass for timers at once. The server's own goes on as ever.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn r04_a_leave_that_failed_is_made_up_for_under_a_lease_that_lives_on() {
    let server = EtcdServer::start().await;
    let onlooker = onlooker(&server.client_url()).await;
    let proxy = Proxy::to(server.port).await;
    let session = Session::new(&format!("etcd://127.0.0.1:{}", proxy.port));
    let kept = session.granted("kept", 1).await;
    session.granted("k", 2).await;
    proxy.requests(Gate::Lost);
    // Too short for another connection.
    session.backend.leave("k".into(), session.owner(2), Duration::from_millis(300)).await.unwrap_err();
    pass(ALMOST).await;
    session.granted("other", 3).await;
    assert_eq!(queue_keys(&onlooker, "k").await.len(), 1, "it is not time yet, and nothing else deletes it");
    pass(THE_REST).await;
    eventually("it has left", || async { queue_keys(&onlooker, "k").await.is_empty() }).await;
    assert_eq!(queue_keys(&onlooker, "kept").await[0].create_revision().cast_unsigned(), kept.token);
    assert_eq!(all_queue_keys(&onlooker).await.len(), 2);
    // Its key number is free.
    session.granted("k", 4).await;
    assert!(queue_keys(&onlooker, "k").await[0].key().ends_with(b":0"));
    session.backend.leave("k".into(), session.owner(4), TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn r04_a_release_that_had_no_answer_in_its_time_is_made_up_for_under_a_lease_that_lives_on() {
    let mut server = EtcdServer::start().await;
    let (second, ttl) = (Duration::from_secs(1), Duration::from_secs(2));
    let options = ClientOptions { connect_timeout: 60 * second, op_timeout: second, ..ClientOptions::default() };
    let other = Client::new(&server.url()).unwrap();
    let _held = other.lock("w").ttl(60 * second).acquire().await.unwrap();
    let client = Client::with_options(&server.url(), options).unwrap();
    let lease = client.lock("k").ttl(ttl).acquire().await.unwrap();
    // Keeps the lease alive that both are under.
    let waiter = tokio::spawn({
        let lock = client.lock("w").ttl(ttl);
        async move { drop(lock.acquire().await) }
    });
    eventually("it waits", || async { other.inspect("w").await.unwrap().queue.len() == 1 }).await;
    server.kill();
    assert!(!lease.release().await.unwrap());
    eventually("it was given up", || async { lease.status() == Status::Unconfirmed }).await;
    server.restart().await;
    eventually("the key is free", || async { client.is_locked("k").await.is_ok_and(|locked| !locked) }).await;
    assert!(!waiter.is_finished());
    waiter.abort();
}
