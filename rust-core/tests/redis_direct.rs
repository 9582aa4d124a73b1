//! `redis://`: lone requests, whose callers read the answers themselves.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use dlock::{Call, Caller, Client, ClientOptions, Lease, Lock, Reader, Result, Status};
use support::certificates::{self, Authority};
use support::proxy::{Gate, Proxy};
use support::redis::{Cli, Server};
use tokio::task::spawn_blocking;

const MS: Duration = Duration::from_millis(1);

/// The number of the direct connection, after that of the link.
const DIRECT: usize = 1;

type Outcome = mpsc::Receiver<Result<Lease>>;

/// Begins an acquire as a binding does that can wait for sockets.
fn begin(lock: &Lock) -> (Call, Outcome) {
    let (said, heard) = mpsc::channel();
    let then = move |granted| drop(said.send(granted));
    (lock.acquire_for(Caller::unknown(), Caller::unknown(), None, Reader::Once, then).unwrap(), heard)
}

async fn outcome(heard: Outcome) -> Result<Lease> {
    spawn_blocking(move || heard.recv_timeout(5_000 * MS).unwrap()).await.unwrap()
}

/// Uses the client until its lone requests have a connection of their own.
async fn warm(client: &Client) {
    let lock = client.lock("warm");
    support::eventually("there is a direct connection", || async {
        let (call, heard) = begin(&lock);
        let is_direct = call.socket().is_some();
        outcome(heard).await.unwrap().release().await.unwrap();
        is_direct
    })
    .await;
}

async fn is_free(cli: &Cli, key: &str) -> bool {
    cli.run::<i64>(&["EXISTS", key]).await == 0
}

async fn evals(cli: &Cli) -> u64 {
    let stats: String = cli.run(&["INFO", "commandstats"]).await;
    let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_eval")?.split_once("calls="));
    lines.map(|(_, rest)| rest.split(',').next().unwrap().parse::<u64>().unwrap()).sum()
}

async fn through_proxy(server: &Server) -> (Proxy, Client) {
    let proxy = Proxy::to(server.port).await;
    let options = ClientOptions { op_timeout: 2_000 * MS, ..ClientOptions::default() };
    let client = Client::with_options(&format!("redis://127.0.0.1:{}", proxy.port), options).unwrap();
    warm(&client).await;
    (proxy, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_request_has_a_connection_of_its_own_and_its_caller_reads_the_answer() {
    let server = Server::start().await;
    let (proxy, client) = through_proxy(&server).await;
    assert_eq!(proxy.connections(), 2);
    let (call, heard) = begin(&client.lock("k"));
    let socket = call.socket().expect("the answer comes on a socket");
    while call.socket().is_some() {
        assert!(heard.try_recv().is_err(), "answered by the engine");
        call.drive();
    }
    let lease = heard.try_recv().expect("answered while it was driven").unwrap();
    let (said, released) = mpsc::channel();
    let call = lease.release_for(Reader::Once, move |status| said.send(status).unwrap_or_default()).unwrap().unwrap();
    assert_eq!(call.socket().unwrap().number(), socket.number());
    while call.socket().is_some() {
        call.drive();
    }
    assert_eq!(released.try_recv(), Ok(Status::Released));
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_not_alone_go_over_the_link() {
    let server = Server::start().await;
    let client = Client::new(&server.url()).unwrap();
    warm(&client).await;
    // On a busy machine the first answer may have been read before the second request was made: then nothing is shown.
    let held = loop {
        let (first, heard) = begin(&client.lock("a"));
        let (second, other) = begin(&client.lock("b"));
        let (is_alone, is_direct) = (first.socket().is_none(), second.socket().is_some());
        assert!(is_alone || !is_direct);
        first.leave_to_engine();
        outcome(heard).await.unwrap().release().await.unwrap();
        let held = outcome(other).await.unwrap();
        if !is_alone {
            break held;
        }
        held.release().await.unwrap();
    };
    // A waiter depends on the answer to this release, so the engine reads it.
    let waiting = tokio::spawn(client.lock("b").join(None));
    support::eventually("it waits", || async { client.stats().waiting == 1 }).await;
    // The engine answers this after it has begun to wait for the release.
    assert!(client.is_locked("b").await.unwrap());
    let call = held.release_for(Reader::Once, drop).unwrap().unwrap();
    assert!(call.socket().is_none());
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_an_answer_that_nobody_reads_is_read_by_the_engine() {
    let server = Server::start().await;
    let client = Client::new(&server.url()).unwrap();
    warm(&client).await;
    let (call, heard) = begin(&client.lock("k"));
    assert!(call.socket().is_some());
    let lease = outcome(heard).await.unwrap();
    assert!(lease.is_valid() && call.socket().is_none());
    let (said, released) = mpsc::channel();
    let call = lease.release_for(Reader::Once, move |status| said.send(status).unwrap_or_default()).unwrap();
    assert!(call.is_some_and(|call| call.socket().is_some()), "dropped at once");
    let status = spawn_blocking(move || released.recv_timeout(5_000 * MS).unwrap()).await.unwrap();
    assert_eq!(status, Status::Released);
    warm(&client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r04_a_lone_request_that_is_given_up_is_withdrawn_behind_its_answer() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let (proxy, client) = through_proxy(&server).await;
    let before = evals(&cli).await;
    proxy.requests_of(DIRECT, Gate::Stalled);
    let (call, heard) = begin(&client.lock("k").ttl(3_600_000 * MS));
    assert!(call.socket().is_some());
    support::eventually("it is under way", || async { proxy.kept() == 1 }).await;
    call.abort();
    assert!(heard.recv_timeout(5_000 * MS).is_err(), "it was given up");
    // The link serves its requests in order, so the withdrawal was not among them.
    let other = client.lock("other").acquire().await.unwrap();
    assert_eq!(evals(&cli).await, before + 1);
    let opened = Instant::now();
    proxy.requests_of(DIRECT, Gate::Open);
    support::eventually("it and its withdrawal are executed", || async { evals(&cli).await >= before + 3 }).await;
    assert!(is_free(&cli, "dlock/k").await);
    assert!(opened.elapsed() < 2_000 * MS, "by the second withdrawal only, after {:?}", opened.elapsed());
    assert!(other.release().await.unwrap());
    for round in 0..200 {
        let key = format!("many:{round}");
        let (call, _heard) = begin(&client.lock(&key).ttl(3_600_000 * MS));
        call.abort();
    }
    support::eventually("nothing is left", || async { cli.keys().await.iter().all(|key| !key.starts_with("dlock/many")) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r04_a_lone_request_whose_connection_is_lost_is_asked_again() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let (proxy, client) = through_proxy(&server).await;
    proxy.requests(Gate::Stalled);
    let (call, heard) = begin(&client.lock("k"));
    assert!(call.socket().is_some());
    support::eventually("it is under way", || async { proxy.kept() == 1 }).await;
    proxy.answers(Gate::Closed);
    let lease = outcome(heard).await.unwrap();
    assert!(lease.is_valid());
    proxy.let_late_requests_through();
    assert!(lease.release().await.unwrap());
    support::eventually("nobody holds it", || async { is_free(&cli, "dlock/k").await }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_up_between_two_requests_costs_nothing() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let client = Client::new(&server.url()).unwrap();
    for _ in 0..3 {
        warm(&client).await;
        // The link listens on a channel, the direct connection on none.
        let list: String = cli.run(&["CLIENT", "LIST"]).await;
        let direct =
            list.lines().find(|line| line.contains(" name=dlock ") && line.contains(" sub=0 ")).expect("a direct connection");
        let id = direct.strip_prefix("id=").and_then(|line| line.split(' ').next()).unwrap();
        assert_eq!(cli.run::<i64>(&["CLIENT", "KILL", "ID", id]).await, 1);
        let begun = Instant::now();
        let lease = client.lock("k").try_acquire().await.unwrap().unwrap();
        assert!(lease.release().await.unwrap());
        assert!(begun.elapsed() < 1_000 * MS, "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_closing_takes_over_what_nobody_reads() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let client = Client::new(&server.url()).unwrap();
    warm(&client).await;
    let lease = client.lock("k").ttl(3_600_000 * MS).acquire().await.unwrap();
    let release = lease.release_for(Reader::Once, drop).unwrap().unwrap();
    let closing = client.close(Duration::ZERO);
    assert!(release.socket().is_none(), "taken over as soon as closing begins");
    closing.await.unwrap();
    assert!(is_free(&cli, "dlock/k").await);
    client.reopen().unwrap();
    warm(&client).await;
    let (call, heard) = begin(&client.lock("k").ttl(3_600_000 * MS));
    assert!(call.socket().is_some());
    client.close(Duration::ZERO).await.unwrap();
    match outcome(heard).await {
        Err(error) => assert_eq!(error.code(), "CLIENT_CLOSED"),
        // The answer was faster than the end of the client.
        Ok(lease) => assert!(!lease.is_valid()),
    }
    support::eventually("nobody holds it", || async { is_free(&cli, "dlock/k").await }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_in_rust_reads_its_answers_on_its_own_runtime() {
    let server = Server::start().await;
    let (proxy, client) = through_proxy(&server).await;
    for round in 0..500 {
        let lease = client.lock("k").acquire().await.unwrap();
        assert!(lease.is_valid() && lease.release().await.unwrap(), "{round}");
        if round % 100 == 0 {
            assert!(client.lock("k").with(|lease| async move { lease.is_valid() }).await.unwrap());
        }
    }
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgets_scripts_gets_them_again() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let client = Client::new(&server.url()).unwrap();
    warm(&client).await;
    cli.run::<()>(&["SCRIPT", "FLUSH"]).await;
    let (call, heard) = begin(&client.lock("k"));
    assert!(call.socket().is_some());
    assert!(outcome(heard).await.unwrap().release().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_connection_goes_where_the_link_goes_and_logs_in_as_it_does() {
    let authority = Authority::new();
    let (plain, closed) = (Server::start().await, Server::start_with(&["--requirepass", "s3cret"]).await);
    let secure = Server::start_secure(&authority, true).await;
    let server = format!("rediss://127.0.0.1:{}", secure.port);
    for url in [
        format!("redis+unix://{}?db=3", plain.socket().display()),
        format!("redis://:s3cret@127.0.0.1:{}/2", closed.port),
        certificates::url(&server, &authority.certificate(), Some(&authority.issue("client"))),
    ] {
        let client = Client::new(&url).unwrap();
        warm(&client).await;
        for number in 0..20 {
            let (call, heard) = begin(&client.lock(&format!("k {number}")));
            assert!(call.socket().is_some(), "{url}");
            while call.socket().is_some() {
                call.drive();
            }
            assert!(heard.recv().unwrap().unwrap().release().await.unwrap());
        }
        assert!(client.list_locks("").await.unwrap().is_empty(), "in another database, {url}");
        client.close(Duration::ZERO).await.unwrap();
    }
}
