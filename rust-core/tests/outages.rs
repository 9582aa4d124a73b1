//! Outages while several callers of one client wait for one key: each is told that the backend is gone, when its own time is up.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use dlock::{Client, ClientOptions, Error, Lease, Lock, Retry};
use rustix::process::{Pid, Signal, kill_process};
use support::etcd::EtcdServer;
use support::redis::Server;
use support::starting::free_port;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(2);
/// A request that gets no answer, and a busy machine.
const SLACK: Duration = Duration::from_secs(2);

enum Backend {
    Redis(Server),
    Etcd(Box<EtcdServer>),
}

impl Backend {
    async fn redis() -> Self {
        Self::Redis(Server::start().await)
    }

    async fn etcd() -> Self {
        Self::Etcd(Box::new(EtcdServer::start().await))
    }

    fn url(&self) -> String {
        match self {
            Self::Redis(server) => server.url(),
            Self::Etcd(server) => server.url(),
        }
    }

    fn kill(&mut self) {
        match self {
            Self::Redis(server) => server.kill(),
            Self::Etcd(server) => server.kill(),
        }
    }

    async fn freeze(&self) {
        match self {
            Self::Redis(server) => {
                kill_process(Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap(), Signal::STOP).unwrap();
            }
            Self::Etcd(server) => server.pause().await,
        }
    }
}

fn client(url: &str) -> Client {
    Client::with_options(url, ClientOptions { connect_timeout: PATIENCE, ..ClientOptions::default() }).unwrap()
}

/// What an attempt came to, and how long it took.
type Waiter = JoinHandle<(Result<Lease, Error>, Duration)>;

fn waits(lock: &Lock) -> Waiter {
    let lock = lock.clone();
    // In the line before this returns, so that the order is that of the calls.
    let wait = lock.options().wait;
    let (began, joined) = (Instant::now(), lock.join(wait));
    tokio::spawn(async move { (joined.await, began.elapsed()) })
}

async fn is_told(waiter: Waiter, from: Duration, to: Duration) {
    let (told, after) = waiter.await.unwrap();
    assert!(matches!(told, Err(Error::BackendUnavailable { .. })), "{told:?} after {after:?}");
    assert!(from <= after && after <= to, "after {after:?}, not between {from:?} and {to:?}");
}

/// And the first of them has been told that the key is held, unless this client holds it itself.
async fn all_wait(client: &Client, key: &str, number: usize, places: usize) {
    let all = || async {
        let found = client.inspect(key).await.unwrap();
        (found.waiting_here, found.queue.len()) == (number, places)
    };
    support::eventually("they wait", all).await;
}

async fn no_server(url: &str) {
    let lock = client(url).lock("k");
    let began = Instant::now();
    let mut waiters: Vec<_> = (0..8).map(|_| waits(&lock)).collect();
    waiters.extend((0..2).map(|_| waits(&lock.clone().fair(false))));
    sleep_until(began + SECOND).await;
    let latecomer = waits(&lock);
    for waiter in waiters {
        is_told(waiter, PATIENCE, PATIENCE + SLACK).await;
    }
    is_told(latecomer, PATIENCE, PATIENCE + SLACK).await;
}

#[tokio::test]
async fn r16_without_a_server_all_who_ask_for_a_key_are_told_after_connect_timeout_redis() {
    no_server(&format!("redis://127.0.0.1:{}", free_port())).await;
}

#[tokio::test]
async fn r16_without_a_server_all_who_ask_for_a_key_are_told_after_connect_timeout_etcd() {
    no_server(&format!("etcd://127.0.0.1:{}", free_port())).await;
}

/// Some run out of `wait`, others wait for ever; the wait of some ends before the outage has lasted for `connect_timeout`.
async fn server_dies(mut server: Backend) {
    let (holder, other) = (client(&server.url()), client(&server.url()));
    let _lease = holder.lock("k").acquire().await.unwrap();
    let lock = other.lock("k");
    let bounded: Vec<_> = (0..3).map(|_| waits(&lock.clone().wait(4 * SECOND))).collect();
    let endless: Vec<_> = (0..5).map(|_| waits(&lock)).collect();
    all_wait(&other, "k", 8, 1).await;
    server.kill();
    let killed = Instant::now();
    for waiter in bounded {
        is_told(waiter, PATIENCE, 4 * SECOND + SLACK).await;
    }
    for waiter in endless {
        is_told(waiter, PATIENCE, Duration::MAX).await;
    }
    // It is noticed with the next heartbeat of the waiter, and a request may hang for `op_timeout`.
    assert!(killed.elapsed() < PATIENCE + 3 * SECOND + SLACK, "{:?}", killed.elapsed());
}

#[tokio::test]
async fn r16_when_the_server_dies_all_in_the_line_are_told_so_redis() {
    server_dies(Backend::redis().await).await;
}

#[tokio::test]
async fn r16_when_the_server_dies_all_in_the_line_are_told_so_etcd() {
    server_dies(Backend::etcd().await).await;
}

/// `wait` is over long before `connect_timeout`.
async fn wait_ends_in_an_outage(mut server: Backend) {
    let (holder, other) = (client(&server.url()), Client::new(&server.url()).unwrap());
    let _lease = holder.lock("k").acquire().await.unwrap();
    let waiters: Vec<_> = (0..4).map(|_| waits(&other.lock("k").wait(5 * SECOND / 2))).collect();
    all_wait(&other, "k", 4, 1).await;
    server.kill();
    for waiter in waiters {
        is_told(waiter, 5 * SECOND / 2, 5 * SECOND / 2 + SLACK).await;
    }
}

#[tokio::test]
async fn r16_a_wait_that_ends_in_an_outage_ends_as_one_at_every_place_redis() {
    wait_ends_in_an_outage(Backend::redis().await).await;
}

#[tokio::test]
async fn r16_a_wait_that_ends_in_an_outage_ends_as_one_at_every_place_etcd() {
    wait_ends_in_an_outage(Backend::etcd().await).await;
}

/// Nothing was refused and nothing has run out yet: there is just no answer.
async fn frozen_server(server: Backend) {
    let other = client(&server.url());
    other.ping().await.unwrap();
    server.freeze().await;
    let lock = other.lock("k").wait(SECOND * 7 / 10);
    let mut waiters: Vec<_> = (0..3).map(|_| waits(&lock)).collect();
    waiters.push(waits(&lock.clone().fair(false)));
    for waiter in waiters {
        is_told(waiter, SECOND * 7 / 10, SECOND * 7 / 10 + SLACK).await;
    }
    // Longer than one request, too short for two.
    let waiters: Vec<_> = (0..3).map(|_| waits(&lock.clone().wait(SECOND * 3 / 2))).collect();
    for waiter in waiters {
        is_told(waiter, SECOND * 3 / 2, SECOND * 3 / 2 + SLACK).await;
    }
}

#[tokio::test]
async fn r16_a_frozen_server_is_not_told_as_a_held_key_redis() {
    frozen_server(Backend::redis().await).await;
}

#[tokio::test]
async fn r16_a_frozen_server_is_not_told_as_a_held_key_etcd() {
    frozen_server(Backend::etcd().await).await;
}

/// Those in line ask nobody: they wait for this session's own release. Its renewals fail.
async fn behind_the_own_lease(mut server: Backend) {
    let own = client(&server.url());
    let lease = own.lock("k").ttl(9 * SECOND).acquire().await.unwrap();
    let bounded: Vec<_> = (0..3).map(|_| waits(&own.lock("k").wait(5 * SECOND))).collect();
    let endless: Vec<_> = (0..3).map(|_| waits(&own.lock("k"))).collect();
    all_wait(&own, "k", 6, 0).await;
    server.kill();
    for waiter in bounded {
        is_told(waiter, 3 * SECOND, 5 * SECOND + SLACK).await;
    }
    for waiter in endless {
        is_told(waiter, 4 * SECOND, 5 * SECOND + SLACK).await;
    }
    drop(lease);
}

#[tokio::test]
async fn r16_behind_the_own_lease_an_outage_is_told_as_one_redis() {
    behind_the_own_lease(Backend::redis().await).await;
}

#[tokio::test]
async fn r16_behind_the_own_lease_an_outage_is_told_as_one_etcd() {
    behind_the_own_lease(Backend::etcd().await).await;
}

/// Whose attempts are bounded by number is told of an outage when `wait` is over, not after `connect_timeout`.
async fn retries(url: &str) {
    let retry = Retry { max_retries: 100_000, delay: Duration::from_millis(50), backoff: 1.0, jitter: 0.5 };
    for wait in [SECOND / 2, 3 * SECOND] {
        let lock = client(url).lock("k").retry(retry).wait(wait);
        let waiters: Vec<_> = (0..3).map(|_| waits(&lock)).collect();
        for waiter in waiters {
            is_told(waiter, wait, wait + SLACK).await;
        }
    }
}

#[tokio::test]
async fn r16_retries_that_run_out_of_wait_in_an_outage_are_told_of_it_redis() {
    retries(&format!("redis://127.0.0.1:{}", free_port())).await;
}

#[tokio::test]
async fn r16_retries_that_run_out_of_wait_in_an_outage_are_told_of_it_etcd() {
    retries(&format!("etcd://127.0.0.1:{}", free_port())).await;
}

/// An outage that is over counts for nothing.
#[tokio::test]
async fn r16_who_waits_through_a_short_outage_is_served_after_it() {
    let mut server = Server::start().await;
    let (holder, other) = (client(&server.url()), client(&server.url()));
    let lease = holder.lock("k").acquire().await.unwrap();
    let waiters: Vec<_> = (0..5).map(|_| waits(&other.lock("k"))).collect();
    all_wait(&other, "k", 5, 1).await;
    server.kill();
    let killed = Instant::now();
    sleep_until(killed + SECOND / 2).await;
    server.restart().await;
    drop(lease);
    for waiter in waiters {
        let (lease, _) = waiter.await.unwrap();
        lease.unwrap().release().await.unwrap();
    }
}
