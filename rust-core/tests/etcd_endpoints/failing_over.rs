//! A server that is not well costs a call some time, once, and no call its answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dlock::backend::etcd::servers::endpoints::Endpoints;
use dlock::error::Failure;
use futures_util::future::join_all;

use crate::parrot::Parrot;
use crate::support::etcd::{EtcdCluster, EtcdServer, Options};
use crate::support::eventually;
use crate::support::proxy::{Gate, Proxy};
use crate::{CONNECT_TIMEOUT, OP_TIMEOUT, open, put};

/// Far less than any share of the time that a silent server is given.
const AT_ONCE: Duration = Duration::from_millis(100);

/// What a test that pauses leaders waits for with etcd's own settings.
const ELECTION: Duration = Duration::from_secs(3);

/// Ten times as quick to elect as by default.
async fn cluster() -> EtcdCluster {
    let arguments = ["--heartbeat-interval", "10", "--election-timeout", "100"].map(str::to_owned).to_vec();
    EtcdCluster::start_with(Options { arguments, ..Options::default() }).await
}

async fn timed_put(endpoints: &Endpoints) -> Duration {
    let started = Instant::now();
    put(endpoints, OP_TIMEOUT).await.unwrap();
    started.elapsed()
}

/// The member that is asked first.
async fn favourite(endpoints: &Endpoints, cluster: &EtcdCluster) -> usize {
    let server = endpoints.best(OP_TIMEOUT).await.unwrap().name();
    cluster.members.iter().position(|member| member.endpoint() == server).unwrap()
}

#[tokio::test]
async fn a_dead_member_fails_no_call() {
    let mut cluster = cluster().await;
    cluster.kill(1);
    cluster.leader().await;
    for _ in 0..10 {
        let endpoints = open(&cluster.url());
        for _ in 0..20 {
            put(&endpoints, OP_TIMEOUT).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_paused_member_costs_a_call_once() {
    let cluster = cluster().await;
    let endpoints = open(&cluster.url());
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    let paused = favourite(&endpoints, &cluster).await;
    cluster.pause(paused).await;
    cluster.leader().await;

    assert!(timed_put(&endpoints).await < OP_TIMEOUT / 2);
    let mut slow = 0;
    for _ in 0..50 {
        slow += usize::from(timed_put(&endpoints).await > AT_ONCE);
    }
    assert!(slow <= 1, "{slow} of 50 calls were slow");
    assert_ne!(favourite(&endpoints, &cluster).await, paused);
    let expected = cluster.members[paused].endpoint();
    assert!(endpoints.warnings().iter().any(|warning| warning.contains(&expected)), "{:?}", endpoints.warnings());

    cluster.resume(paused);
    eventually("it is trusted again", || async {
        put(&endpoints, OP_TIMEOUT).await.unwrap();
        favourite(&endpoints, &cluster).await == paused
    })
    .await;
}

#[tokio::test]
async fn a_paused_member_fails_no_first_call() {
    let cluster = cluster().await;
    cluster.pause(2).await;
    cluster.leader().await;
    for _ in 0..6 {
        let endpoints = open(&cluster.url());
        let answer = put(&endpoints, OP_TIMEOUT).await.unwrap();
        assert!(!answer.may_run_again, "it was never sent to the silent one");
    }
}

#[tokio::test]
async fn an_answer_past_a_silent_member_says_that_the_request_may_run_again() {
    let cluster = cluster().await;
    let endpoints = open(&cluster.url());
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    let paused = favourite(&endpoints, &cluster).await;
    cluster.pause(paused).await;
    cluster.leader().await;
    assert!(put(&endpoints, OP_TIMEOUT).await.unwrap().may_run_again);
    assert!(!put(&endpoints, OP_TIMEOUT).await.unwrap().may_run_again);
    cluster.resume(paused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_dying_under_load_fails_no_call() {
    for followers_die in [true, false] {
        let mut cluster = cluster().await;
        let endpoints = open(&cluster.url());
        put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
        let favourite = favourite(&endpoints, &cluster).await;
        let dying = if followers_die && favourite == cluster.leader().await { cluster.follower().await } else { favourite };
        let done = AtomicUsize::new(0);
        let load = join_all((0..32).map(|_| async {
            let mut failures = Vec::new();
            for _ in 0..100 {
                failures.extend(put(&endpoints, CONNECT_TIMEOUT).await.err());
                done.fetch_add(1, Ordering::Relaxed);
            }
            failures
        }));
        let death = async {
            eventually("a third is done", || async { done.load(Ordering::Relaxed) > 1000 }).await;
            cluster.kill(dying);
        };
        let (failures, ()) = tokio::join!(load, death);
        let failures: Vec<_> = failures.into_iter().flatten().collect();
        assert!(failures.is_empty(), "{} failed: {}", failures.len(), failures[0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_paused_under_load_fails_no_call() {
    let cluster = cluster().await;
    let endpoints = open(&cluster.url());
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    let leader = cluster.leader().await;
    let done = AtomicUsize::new(0);
    let load = join_all((0..32).map(|_| async {
        let mut failures = Vec::new();
        for _ in 0..100 {
            failures.extend(put(&endpoints, CONNECT_TIMEOUT).await.err());
            done.fetch_add(1, Ordering::Relaxed);
        }
        failures
    }));
    let pause = async {
        eventually("a third is done", || async { done.load(Ordering::Relaxed) > 1000 }).await;
        cluster.pause(leader).await;
    };
    let (failures, ()) = tokio::join!(load, pause);
    cluster.resume(leader);
    let failures: Vec<_> = failures.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{} failed: {}", failures.len(), failures[0]);
}

/// A time that is shorter than a server needs says nothing about the server.
#[tokio::test]
async fn impatient_callers_put_no_server_in_doubt() {
    let server = EtcdServer::start().await;
    let proxy = Proxy::through(Gate::Slow, server.port).await;
    let endpoints = open(&format!("etcd://127.0.0.1:{}", proxy.port));
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    for _ in 0..20 {
        let error = put(&endpoints, Duration::from_millis(10)).await.unwrap_err();
        assert_eq!(error.failure, Failure::Unknown, "{error}");
    }
    assert_eq!((endpoints.warnings(), proxy.connections()), (Vec::new(), 1));
}

/// What is sent to a leader that has just stopped is lost, by whatever member it goes, and is not answered for seconds.
#[tokio::test]
async fn a_request_that_is_lost_with_the_leader_is_sent_again() {
    let cluster = EtcdCluster::start().await;
    let endpoints = open(&cluster.url());
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    let leader = cluster.leader().await;
    cluster.pause(leader).await;
    let started = Instant::now();
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    assert!(started.elapsed() < ELECTION + OP_TIMEOUT, "{:?}", started.elapsed());
    cluster.resume(leader);
}

/// Logging in needs a leader. Those who are logged in can go on as soon as there is one, and others may come.
#[tokio::test]
async fn a_lost_leader_does_not_keep_those_out_who_log_in() {
    let mut cluster = EtcdCluster::start().await;
    cluster.require_password("secret").await;
    let url = cluster.url().replace("://", "://root:secret@");
    let endpoints = open(&url);
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    let leader = cluster.leader().await;
    cluster.pause(leader).await;

    let newcomer = open(&url);
    let started = Instant::now();
    let (old, new) = tokio::join!(
        async {
            // As the engine asks: again and again, with a short time each.
            while put(&endpoints, OP_TIMEOUT).await.is_err() {}
            started.elapsed()
        },
        put(&newcomer, CONNECT_TIMEOUT),
    );
    assert!(old < ELECTION + OP_TIMEOUT, "{old:?}");
    new.unwrap();
    cluster.resume(leader);
}

/// Callers get that error at once instead of waiting for a leader until their timeout, and succeed when there is one.
#[tokio::test]
async fn a_cluster_without_a_leader_is_reported_as_such() {
    let mut cluster = cluster().await;
    let endpoints = open(&cluster.url());
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    let alone = cluster.follower().await;
    let others: Vec<_> = (0..3).filter(|index| *index != alone).collect();
    for index in &others {
        cluster.kill(*index);
    }
    let expected = cluster.members[alone].endpoint() + ": it sees no leader";
    eventually("a member alone says so", || async {
        let error = put(&endpoints, OP_TIMEOUT).await.unwrap_err();
        error.failure == Failure::NotSent && error.message.contains(&expected)
    })
    .await;
    // Also when the time is over before anybody could be asked: nothing is sent in the last moment.
    for milliseconds in [20, 50, 100, 150] {
        let error = put(&endpoints, Duration::from_millis(milliseconds)).await.unwrap_err();
        assert_eq!(error.failure, Failure::NotSent, "{milliseconds} ms: {error}");
        assert!(error.message.contains(&expected), "{milliseconds} ms: {error}");
    }
    let (back, ()) = tokio::join!(put(&endpoints, 4 * CONNECT_TIMEOUT), cluster.restart(others[0]));
    back.unwrap();
}

#[tokio::test]
async fn a_stream_that_fell_silent_is_opened_elsewhere() {
    let cluster = cluster().await;
    let endpoints = open(&cluster.url());
    let via = endpoints.best(CONNECT_TIMEOUT).await.unwrap();
    let silent = cluster.members.iter().position(|member| member.endpoint() == via.name()).unwrap();
    cluster.pause(silent).await;
    endpoints.suspect(&via);
    assert_ne!(favourite(&endpoints, &cluster).await, silent);
    cluster.resume(silent);
    eventually("it is trusted again", || async { favourite(&endpoints, &cluster).await == silent }).await;
}

#[tokio::test]
async fn r17_a_dead_member_is_looked_at_now_and_then() {
    let server = EtcdServer::start().await;
    let dead = Parrot::start("not etcd").await;
    // Which one is asked first is left to chance.
    let endpoints = loop {
        let endpoints = open(&format!("etcd://{},{}", dead.server, server.endpoint()));
        put(&endpoints, OP_TIMEOUT).await.unwrap();
        if dead.guests() > 0 {
            break endpoints;
        }
    };
    let (started, mut calls) = (Instant::now(), 0);
    while started.elapsed() < OP_TIMEOUT * 5 / 2 {
        put(&endpoints, OP_TIMEOUT).await.unwrap();
        calls += 1;
    }
    // The pauses double: 25, 50, .. 1600 ms.
    let looks = dead.guests();
    assert!(calls > 100 && (4..8).contains(&looks), "{looks} looks in {calls} calls");
}

/// 300 ms there and back is more than the share of the time that a member is given while there are others.
#[tokio::test]
async fn members_that_are_all_slow_stay_usable() {
    let mut cluster = cluster().await;
    cluster.require_password("secret").await;
    let mut proxies = Vec::new();
    for member in &cluster.members {
        proxies.push(Proxy::through(Gate::Slow, member.port).await);
    }
    let servers: Vec<_> = proxies.iter().map(|proxy| format!("127.0.0.1:{}", proxy.port)).collect();
    let endpoints = open(&format!("etcd://root:secret@{}", servers.join(",")));
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    for _ in 0..10 {
        let took = timed_put(&endpoints).await;
        assert!(took < OP_TIMEOUT * 3 / 4, "{took:?}");
    }
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_at_once() {
    let mut server = EtcdServer::start().await;
    let endpoints = open(&server.url());
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    server.kill();
    for _ in 0..10 {
        put(&endpoints, OP_TIMEOUT).await.unwrap_err();
    }
    server.restart().await;
    assert!(timed_put(&endpoints).await < OP_TIMEOUT);
}

#[tokio::test]
async fn a_connection_that_lost_its_bytes_is_replaced() {
    let server = EtcdServer::start().await;
    let proxy = Proxy::to(server.port).await;
    let endpoints = open(&format!("etcd://127.0.0.1:{}", proxy.port));
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    proxy.requests(Gate::Lost);
    let error = put(&endpoints, OP_TIMEOUT).await.unwrap_err();
    assert_eq!(error.failure, Failure::Unknown);
    assert!(timed_put(&endpoints).await < OP_TIMEOUT / 2);
}

#[tokio::test]
async fn r14_closed_endpoints_refuse_and_leave_nothing() {
    let server = EtcdServer::start().await;
    let endpoints = open(&format!("etcd://127.0.0.1:1,{}", server.endpoint()));
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    endpoints.close();
    let error = put(&endpoints, OP_TIMEOUT).await.unwrap_err();
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.message.contains("closed"), "{error}");
    drop(endpoints);
    let left = || async { tokio::runtime::Handle::current().metrics().num_alive_tasks() == 0 };
    eventually("no task is left", left).await;
}
