//! `etcd://`: lone requests, whose callers read the answers themselves.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use dlock::{Call, Caller, Client, ClientOptions, Lease, Lock, Reader, Result, Status};
use support::certificates::{self, Authority};
use support::etcd::{EtcdServer, Options};
use support::proxy::{Gate, Proxy};
use support::starting::free_port;
use tokio::task::spawn_blocking;

const MS: Duration = Duration::from_millis(1);

/// The number of the direct connection, after that of the link.
const DIRECT: usize = 1;

type Outcome = mpsc::Receiver<Result<Lease>>;

/// Begins an acquire as a binding does that can wait for sockets.
fn begin(lock: &Lock, reader: Reader) -> (Call, Outcome) {
    let (said, heard) = mpsc::channel();
    let then = move |granted| drop(said.send(granted));
    (lock.acquire_for(Caller::unknown(), Caller::unknown(), None, reader, then).unwrap(), heard)
}

/// Begins an acquire whose caller reads the answer. The engine may still be busy with the end of what was asked before: then it has this one
/// as well, and another is begun.
async fn begin_direct(lock: &Lock, reader: Reader) -> (Call, Outcome) {
    for _ in 0..100 {
        let (call, heard) = begin(lock, reader);
        if call.socket().is_some() {
            return (call, heard);
        }
        outcome(heard).await.unwrap().release().await.unwrap();
    }
    panic!("the engine has each of them");
}

async fn outcome(heard: Outcome) -> Result<Lease> {
    spawn_blocking(move || heard.recv_timeout(10_000 * MS).unwrap()).await.unwrap()
}

/// No test takes so long: what is still held then is left behind.
const LONG: Duration = Duration::from_secs(3_600);

/// Uses the client until its lone requests have a connection of their own.
async fn warm(client: &Client) {
    // An etcd lease for that TTL is there as well.
    let lock = client.lock("warm").ttl(LONG);
    support::eventually("there is a direct connection", || async {
        let (call, heard) = begin(&lock, Reader::Once);
        let is_direct = call.socket().is_some();
        outcome(heard).await.unwrap().release().await.unwrap();
        is_direct
    })
    .await;
}

async fn through_proxy(server: &EtcdServer) -> (Proxy, Client) {
    let proxy = Proxy::to(server.port).await;
    let options = ClientOptions { op_timeout: 2_000 * MS, ..ClientOptions::default() };
    let client = Client::with_options(&format!("etcd://127.0.0.1:{}", proxy.port), options).unwrap();
    warm(&client).await;
    (proxy, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_request_has_a_connection_of_its_own_and_its_caller_reads_the_answer() {
    let server = EtcdServer::start().await;
    let (proxy, client) = through_proxy(&server).await;
    assert_eq!(proxy.connections(), 2);
    let (call, heard) = begin_direct(&client.lock("k").ttl(LONG), Reader::Once).await;
    let socket = call.socket().unwrap();
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
    let server = EtcdServer::start().await;
    let client = Client::new(&server.url()).unwrap();
    warm(&client).await;
    // On a busy machine the first answer may have been read before the second request was made: then nothing is shown.
    let held = loop {
        let (first, heard) = begin(&client.lock("a").ttl(LONG), Reader::Once);
        let (second, other) = begin(&client.lock("b").ttl(LONG), Reader::Once);
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
async fn those_that_come_while_a_lone_request_is_under_way_are_sent_beside_it_and_after_it() {
    let server = EtcdServer::start().await;
    let (proxy, client) = through_proxy(&server).await;
    proxy.answers_of(DIRECT, Gate::Stalled);
    let (_call, heard) = begin_direct(&client.lock("k").ttl(LONG), Reader::Once).await;
    let others: Vec<_> = (0..20).map(|number| begin(&client.lock(&format!("other {number}")), Reader::Once).1).collect();
    for other in others {
        outcome(other).await.unwrap().release().await.unwrap();
    }
    proxy.answers_of(DIRECT, Gate::Open);
    assert!(outcome(heard).await.unwrap().release().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_an_answer_that_nobody_reads_is_read_by_the_engine() {
    let server = EtcdServer::start().await;
    let client = Client::new(&server.url()).unwrap();
    warm(&client).await;
    let (call, heard) = begin_direct(&client.lock("k").ttl(LONG), Reader::Once).await;
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
async fn r11_a_loop_that_reads_by_itself_and_stands_still_keeps_no_answer_from_the_engine() {
    let server = EtcdServer::start().await;
    let client = Client::new(&server.url()).unwrap();
    warm(&client).await;
    let (call, heard) = begin_direct(&client.lock("k").ttl(LONG), Reader::Feed(7)).await;
    call.socket().unwrap().let_loop_read();
    // The answer lies in the socket, and nobody feeds it.
    let begun = Instant::now();
    let lease = outcome(heard).await.unwrap();
    assert!(lease.is_valid() && begun.elapsed() < 5_000 * MS, "{:?}", begun.elapsed());
    assert!(lease.release().await.unwrap());
    warm(&client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r04_a_lone_request_that_is_given_up_leaves_nothing_behind() {
    let server = EtcdServer::start().await;
    let (proxy, client) = through_proxy(&server).await;
    proxy.requests_of(DIRECT, Gate::Stalled);
    let (call, heard) = begin_direct(&client.lock("k").ttl(LONG), Reader::Once).await;
    support::eventually("it is under way", || async { proxy.kept() >= 1 }).await;
    call.abort();
    assert!(heard.recv_timeout(5_000 * MS).is_err(), "it was given up");
    proxy.requests_of(DIRECT, Gate::Open);
    support::eventually("nobody holds it", || async { !client.is_locked("k").await.unwrap() }).await;
    for round in 0..200 {
        let key = format!("many:{round}");
        let (call, _heard) = begin(&client.lock(&key).ttl(LONG), Reader::Once);
        call.abort();
    }
    support::eventually("nothing is left", || async { client.list_locks("many").await.unwrap().is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r04_a_lone_request_whose_connection_is_lost_is_asked_again() {
    let server = EtcdServer::start().await;
    let (proxy, client) = through_proxy(&server).await;
    for executed in [true, false] {
        warm(&client).await;
        let direct = proxy.connections() - 1;
        if executed {
            proxy.answers_of(direct, Gate::Lost);
        } else {
            proxy.requests_of(direct, Gate::Lost);
        }
        let (_call, heard) = begin_direct(&client.lock("k").ttl(LONG), Reader::Once).await;
        proxy.answers_of(direct, Gate::Closed);
        let lease = outcome(heard).await.unwrap();
        assert!(lease.is_valid());
        assert!(lease.release().await.unwrap());
        assert!(!client.is_locked("k").await.unwrap(), "executed: {executed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r04_callers_without_a_runtime_are_served_while_a_server_is_away() {
    let server = EtcdServer::start().await;
    // Each client draws which server it asks first.
    for _ in 0..6 {
        let client = Client::new(&format!("etcd://127.0.0.1:{},127.0.0.1:{}", free_port(), server.port)).unwrap();
        let pairs = move || {
            let until = Instant::now() + 200 * MS;
            while Instant::now() < until {
                let (call, heard) = begin(&client.lock("k"), Reader::Once);
                while call.socket().is_some() {
                    call.drive();
                }
                let lease = heard.recv_timeout(10_000 * MS).unwrap().unwrap();
                let (said, released) = mpsc::channel();
                let call = lease.release_for(Reader::Once, move |status| said.send(status).unwrap_or_default()).unwrap();
                while call.as_ref().is_some_and(|call| call.socket().is_some()) {
                    call.iter().for_each(Call::drive);
                }
                assert_eq!(released.recv_timeout(10_000 * MS).unwrap(), Status::Released);
            }
        };
        spawn_blocking(|| std::thread::spawn(pairs).join()).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_up_between_two_requests_costs_nothing() {
    let server = EtcdServer::start().await;
    let (proxy, client) = through_proxy(&server).await;
    for _ in 0..3 {
        warm(&client).await;
        proxy.answers_of(proxy.connections() - 1, Gate::Closed);
        let begun = Instant::now();
        let lease = client.lock("k").try_acquire().await.unwrap().unwrap();
        assert!(lease.release().await.unwrap());
        assert!(begun.elapsed() < 1_000 * MS, "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_closing_takes_over_what_nobody_reads() {
    let server = EtcdServer::start().await;
    let onlooker = Client::new(&server.url()).unwrap();
    let client = Client::new(&server.url()).unwrap();
    warm(&client).await;
    let lease = client.lock("k").ttl(LONG).acquire().await.unwrap();
    let release = lease.release_for(Reader::Once, drop).unwrap().unwrap();
    let closing = client.close(Duration::ZERO);
    assert!(release.socket().is_none(), "taken over as soon as closing begins");
    closing.await.unwrap();
    assert!(!onlooker.is_locked("k").await.unwrap());
    client.reopen().unwrap();
    warm(&client).await;
    let (_call, heard) = begin_direct(&client.lock("k").ttl(LONG), Reader::Once).await;
    client.close(Duration::ZERO).await.unwrap();
    match outcome(heard).await {
        Err(error) => assert_eq!(error.code(), "CLIENT_CLOSED"),
        // The answer was faster than the end of the client.
        Ok(lease) => assert!(!lease.is_valid()),
    }
    support::eventually("nobody holds it", || async { !onlooker.is_locked("k").await.unwrap() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_in_rust_reads_its_answers_on_its_own_runtime() {
    let server = EtcdServer::start().await;
    let (proxy, client) = through_proxy(&server).await;
    for round in 0..300 {
        let lease = client.lock("k").acquire().await.unwrap();
        assert!(lease.is_valid() && lease.release().await.unwrap(), "{round}");
        if round % 100 == 0 {
            assert!(client.lock("k").with(|lease| async move { lease.is_valid() }).await.unwrap());
        }
    }
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_connection_logs_in_as_the_link_does() {
    let authority = Authority::new();
    let tls = authority.server(Some(authority.certificate()));
    let secure = EtcdServer::start_with(Options { tls: Some(tls), ..Options::default() }).await;
    let url = certificates::url(&secure.url(), &authority.certificate(), Some(&authority.issue("client")));
    let mut closed = EtcdServer::start().await;
    closed.require_password("s3cret").await;
    for url in [url, format!("etcd://root:s3cret@127.0.0.1:{}", closed.port)] {
        let client = Client::new(&url).unwrap();
        warm(&client).await;
        for number in 0..20 {
            let (call, heard) = begin_direct(&client.lock(&format!("k {number}")).ttl(LONG), Reader::Once).await;
            while call.socket().is_some() {
                call.drive();
            }
            assert!(heard.recv().unwrap().unwrap().release().await.unwrap());
        }
        client.close(Duration::ZERO).await.unwrap();
    }
}
