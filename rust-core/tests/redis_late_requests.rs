//! `redis://`: requests that are executed long after their caller gave up.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use dlock::backend::Acquire;
use dlock::{Client, ClientOptions, Status};
use support::proxy::{Gate, Proxy};
use support::redis::{Cli, Server, Setup};
use tokio::time::timeout;

const MS: Duration = Duration::from_millis(1);

async fn evals(cli: &Cli) -> u64 {
    let stats: String = cli.run(&["INFO", "commandstats"]).await;
    let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_eval")?.split_once("calls="));
    lines.map(|(_, rest)| rest.split(',').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn r01_a_late_acquire_does_not_shorten_the_lease_that_a_later_one_got() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let proxy = Proxy::to(server.port).await;
    let session = Setup::new(format!("redis://127.0.0.1:{}", proxy.port)).open();
    session.granted("warm", 7).await;
    proxy.requests(Gate::Stalled);
    // A caller with a short TTL gives up before its answer comes; the next caller inherits its owner id.
    let short = Acquire { ttl: 1_000 * MS, ..session.request("k", 1) };
    let mut late = Box::pin(session.backend.acquire(short));
    assert!(timeout(50 * MS, &mut late).await.is_err());
    support::eventually("it is under way", || async { proxy.kept() == 1 }).await;
    drop(late);
    session.backend.ping(50 * MS).await.unwrap_err();
    session.granted("k", 1).await;
    assert_eq!(proxy.connections(), 2);
    let before = evals(&cli).await;
    proxy.requests(Gate::Open);
    support::eventually("the late request is executed", || async { evals(&cli).await > before }).await;
    assert!(cli.left("ns/k").await > 20_000 * MS, "the later request was granted 30 s");
}

/// The connection ends on the client's side while the request is in flight, and a second request gets the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r04_an_acquire_that_is_executed_after_the_release_does_not_keep_the_key() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let proxy = Proxy::to(server.port).await;
    let options = ClientOptions { op_timeout: 2_000 * MS, ..ClientOptions::default() };
    let client = Client::with_options(&format!("redis://127.0.0.1:{}", proxy.port), options).unwrap();
    client.lock("warm").acquire().await.unwrap().release().await.unwrap();
    proxy.requests(Gate::Stalled);
    let lock = client.lock("k").ttl(3_600_000 * MS);
    let acquiring = tokio::spawn(async move { lock.acquire().await.unwrap() });
    support::eventually("it is under way", || async { proxy.kept() == 1 }).await;
    proxy.answers(Gate::Closed);
    let lease = acquiring.await.unwrap();
    assert_eq!(proxy.connections(), 2);
    assert!(lease.release().await.unwrap());
    let before = evals(&cli).await;
    proxy.requests(Gate::Open);
    support::eventually("the late request is executed", || async { evals(&cli).await > before }).await;
    assert_eq!(cli.run::<i64>(&["EXISTS", "dlock/k"]).await, 1, "it was not too late");
    support::eventually("it is released", || async { cli.run::<i64>(&["EXISTS", "dlock/k"]).await == 0 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r04_a_try_that_is_executed_after_its_end_does_not_keep_the_key() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let proxy = Proxy::to(server.port).await;
    let options = ClientOptions { op_timeout: 2_000 * MS, ..ClientOptions::default() };
    let client = Client::with_options(&format!("redis://127.0.0.1:{}", proxy.port), options).unwrap();
    client.lock("warm").acquire().await.unwrap().release().await.unwrap();
    let other = Client::new(&server.url()).unwrap();
    let held = other.lock("k").acquire().await.unwrap();
    proxy.requests(Gate::Stalled);
    let lock = client.lock("k").ttl(3_600_000 * MS);
    let trying = tokio::spawn(async move { lock.try_acquire().await.unwrap() });
    support::eventually("it is under way", || async { proxy.kept() == 1 }).await;
    proxy.answers(Gate::Closed);
    assert!(trying.await.unwrap().is_none());
    assert!(held.release().await.unwrap());
    let before = evals(&cli).await;
    proxy.requests(Gate::Open);
    support::eventually("the late request is executed", || async { evals(&cli).await > before }).await;
    support::eventually("nobody holds it", || async { cli.run::<i64>(&["EXISTS", "dlock/k"]).await == 0 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_further_away_than_the_ttl_is_an_error() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let proxy = Proxy::to(server.port).await;
    let options = ClientOptions { connect_timeout: 1_000 * MS, ..ClientOptions::default() };
    let client = Client::with_options(&format!("redis://127.0.0.1:{}", proxy.port), options).unwrap();
    client.lock("warm").acquire().await.unwrap().release().await.unwrap();
    proxy.answers(Gate::Slow);
    let lock = client.lock("k").ttl(100 * MS);
    let error = timeout(5_000 * MS, lock.acquire()).await.expect("an end").unwrap_err();
    assert_eq!(error.code(), "BACKEND_UNAVAILABLE", "{error}");
    let error = timeout(5_000 * MS, lock.try_acquire()).await.expect("an end").unwrap_err();
    assert_eq!(error.code(), "BACKEND_UNAVAILABLE", "{error}");
    support::eventually("nobody holds it", || async { cli.run::<i64>(&["EXISTS", "dlock/k"]).await == 0 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r17_a_release_is_not_tried_on_once_its_client_is_closed() {
    let mut server = Server::start().await;
    let client = Client::new(&server.url()).unwrap();
    let lease = client.lock("k").ttl(3_600_000 * MS).acquire().await.unwrap();
    server.kill();
    lease.begin_release().unwrap();
    client.close(Duration::ZERO).await.unwrap();
    support::eventually("it has ended", || async { lease.status() == Status::Unconfirmed }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_without_an_answer_is_told_after_its_op_timeout() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    let options = ClientOptions { op_timeout: 300 * MS, ..ClientOptions::default() };
    let client = Client::with_options(&format!("redis://127.0.0.1:{}", proxy.port), options).unwrap();
    let lease = client.lock("k").acquire().await.unwrap();
    proxy.answers(Gate::Stalled);
    let (told, heard) = tokio::sync::oneshot::channel();
    let begun = Instant::now();
    lease.release_then(move |status| told.send(status).unwrap()).unwrap();
    assert_eq!(timeout(5_000 * MS, heard).await.expect("an end").unwrap(), Status::Releasing);
    assert!(begun.elapsed() >= 290 * MS && begun.elapsed() < 800 * MS, "{:?}", begun.elapsed());
    proxy.answers(Gate::Open);
    support::eventually("it goes on", || async { matches!(lease.status(), Status::Released | Status::Unconfirmed) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_who_inherits_a_request_gets_the_key_on_its_own_terms() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let proxy = Proxy::to(server.port).await;
    let options = ClientOptions { op_timeout: 5_000 * MS, ..ClientOptions::default() };
    let client = Client::with_options(&format!("redis://127.0.0.1:{}", proxy.port), options).unwrap();
    let held = client.lock("k").acquire().await.unwrap();
    let first = tokio::spawn(client.lock("k").ttl(1_000 * MS).join(None));
    let second = tokio::spawn(client.lock("k").ttl(60_000 * MS).metadata("second").join(None));
    tokio::task::yield_now().await;
    proxy.answers(Gate::Stalled);
    let before = evals(&cli).await;
    held.begin_release().unwrap();
    support::eventually("the release is executed", || async { evals(&cli).await > before }).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    proxy.answers(Gate::Open);
    let lease = second.await.unwrap().unwrap();
    assert_eq!(lease.ttl(), 60_000 * MS);
    assert!(cli.left("dlock/k").await > 50_000 * MS);
    assert!(cli.run::<String>(&["GET", "dlock/k"]).await.contains("second"));
}
