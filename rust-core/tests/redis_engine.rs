//! The engine on `redis://`: how much its waiters cost the server, and what they leave there.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dlock::{Client, ClientOptions};
use futures_util::future::join_all;
use support::proxy::{Gate, Proxy};
use support::redis::{Cli, Server};

/// Script calls so far.
async fn calls(cli: &Cli) -> u64 {
    let stats: String = cli.run(&["INFO", "commandstats"]).await;
    let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_eval")?.split_once("calls="));
    lines.map(|(_, rest)| rest.split(',').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// How many script calls the server serves in this many seconds of its time.
async fn calls_within(cli: &Cli, seconds: u64) -> u64 {
    let before = calls(cli).await;
    let end = cli.time().await + seconds * 1_000_000;
    support::eventually("time passes", || async { cli.time().await > end }).await;
    calls(cli).await - before
}

/// Asks the server itself, and rarely, since it has many keys.
async fn queues(cli: &Cli) -> usize {
    cli.run::<Vec<String>>(&["KEYS", "dlock:q:*"]).await.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r08_a_hundred_tasks_waiting_for_a_key_cost_a_command_a_second() {
    let server = Server::start().await;
    let (cli, holder, other) = (server.cli().await, Client::new(&server.url()).unwrap(), Client::new(&server.url()).unwrap());
    let lease = holder.lock("k").acquire().await.unwrap();
    let waiters: Vec<_> = (0..100)
        .map(|_| {
            let lock = other.lock("k");
            tokio::spawn(async move { lock.acquire().await.unwrap().release().await.unwrap() })
        })
        .collect();
    support::eventually("they wait", || async { queues(&cli).await == 1 }).await;
    let calls = calls_within(&cli, 6).await;
    assert!(calls <= 6, "{calls} in 6 s");
    lease.release().await.unwrap();
    assert!(join_all(waiters).await.into_iter().all(Result::unwrap));
}

/// A release carries the acquire of the next waiter, however soon after the grant it comes: here before the next waiter's task has run.
#[tokio::test]
async fn a_busy_key_costs_one_command_a_hand_over() {
    const TASKS: u64 = 20;
    let server = Server::start().await;
    let (cli, client) = (server.cli().await, Client::new(&server.url()).unwrap());
    let held = Arc::new(AtomicU64::new(0));
    let tasks = (0..TASKS).map(|_| {
        let (lock, held) = (client.lock("k"), held.clone());
        tokio::spawn(async move {
            while held.fetch_add(1, Ordering::Relaxed) < 500 {
                lock.acquire().await.unwrap().release().await.unwrap();
            }
        })
    });
    join_all(tasks).await.into_iter().for_each(Result::unwrap);
    let calls = calls(&cli).await;
    // The first acquire is sent alone, and so may be the last few releases.
    assert!(calls <= 500 + TASKS, "{calls} for 500 hand-overs");
}

/// A try ahead of the line sends nothing while its own session holds the key.
#[tokio::test]
async fn an_unfair_waiter_does_not_ask_for_what_its_own_session_holds() {
    let server = Server::start().await;
    let (cli, client) = (server.cli().await, Client::new(&server.url()).unwrap());
    let lease = client.lock("k").acquire().await.unwrap();
    assert!(client.is_locked("k").await.unwrap());
    let before = calls(&cli).await;
    let (first, second) = (client.lock("k").fair(false), client.lock("k").fair(false));
    let (mut first, mut second) = (Box::pin(first.acquire()), Box::pin(second.acquire()));
    for _ in 0..20 {
        assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut second).is_pending());
        // A command of ours would reach the server before this one.
        assert!(client.is_locked("k").await.unwrap());
    }
    assert_eq!(calls(&cli).await - before, 20, "one for each look of the test itself");
    lease.release().await.unwrap();
    assert!(first.await.unwrap().release().await.unwrap());
    assert!(second.await.unwrap().release().await.unwrap());
}

/// A try ahead of the line whose answer is missing does not keep the waiter from the key that is handed over to it meanwhile.
#[tokio::test]
async fn r09_an_unfair_waiter_takes_its_turn_while_its_try_has_no_answer() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    let patient = ClientOptions { op_timeout: Duration::from_secs(600), ..ClientOptions::default() };
    let (cli, holder) = (server.cli().await, Client::new(&server.url()).unwrap());
    let client = Client::with_options(&format!("redis://127.0.0.1:{}", proxy.port), patient).unwrap();
    let lease = holder.lock("k").acquire().await.unwrap();
    let wait = || {
        let lock = client.lock("k").fair(false);
        tokio::spawn(async move { lock.acquire().await })
    };
    let first = wait();
    support::eventually("the first one waits", || async { queues(&cli).await == 1 }).await;
    let before = calls(&cli).await;
    proxy.answers(Gate::Stalled);
    let second = wait();
    support::eventually("the second one has tried", || async { calls(&cli).await > before }).await;
    lease.release().await.unwrap();
    first.abort();
    // A claim lasts one second, and a confirmed lease 30 s.
    support::eventually("the second one has said yes", || async { cli.left("dlock/k").await > Duration::from_secs(20) }).await;
    proxy.answers(Gate::Open);
    assert!(second.await.unwrap().unwrap().release().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r08_waiting_for_ten_thousand_keys_costs_few_commands() {
    const KEYS: usize = 10_000;
    let server = Server::start().await;
    // Counting starts later, since a busy machine needs a while for 20,000 requests at once.
    let patient = || ClientOptions { connect_timeout: Duration::from_secs(60), ..ClientOptions::default() };
    let [holder, other] = [(); 2].map(|()| Client::with_options(&server.url(), patient()).unwrap());
    let cli = server.cli().await;
    let names = || (0..KEYS).map(|number| format!("order:{number}"));
    let locks: Vec<_> = names().map(|name| holder.lock(&name)).collect();
    let leases = join_all(locks.iter().map(dlock::Lock::acquire)).await;
    let waiters: Vec<_> = names()
        .map(|name| {
            let lock = other.lock(&name);
            tokio::spawn(async move { drop(lock.acquire().await.unwrap().release().await) })
        })
        .collect();
    support::eventually("they wait", || async { queues(&cli).await == KEYS }).await;
    // On a busy machine some of the 10,000 simultaneous requests time out and are repeated.
    support::eventually("all is quiet", || async { calls_within(&cli, 1).await < 100 }).await;
    let calls = calls_within(&cli, 8).await;
    assert!(calls <= 160, "{calls} in 8 s");
    join_all(leases.iter().map(|lease| lease.as_ref().unwrap().release())).await;
    for woken in waiters {
        woken.await.unwrap();
    }
}

/// Otherwise every heartbeat would leave one more in flight.
#[tokio::test]
async fn a_heartbeat_without_an_answer_is_given_up_when_the_next_one_is_due() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    let patient = ClientOptions { op_timeout: Duration::from_secs(600), ..ClientOptions::default() };
    let (cli, holder) = (server.cli().await, Client::new(&server.url()).unwrap());
    let client = Client::with_options(&format!("redis://127.0.0.1:{}", proxy.port), patient).unwrap();
    let _held = holder.lock("k").acquire().await.unwrap();
    let lock = client.lock("k");
    let waiter = tokio::spawn(async move { lock.acquire().await });
    support::eventually("it waits", || async { queues(&cli).await == 1 }).await;
    proxy.answers(Gate::Stalled);
    support::eventually("a beat is given up", || async { client.stats().backend_calls["keep_places"].errors > 0 }).await;
    waiter.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_cancelled_acquires_leave_no_key_and_no_waiter() {
    let server = Server::start().await;
    let (cli, clients) = (server.cli().await, [Client::new(&server.url()).unwrap(), Client::new(&server.url()).unwrap()]);
    let mut random = 7_u64;
    let attempts = (0..400_u64).map(|number| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let patience = Duration::from_micros((random >> 33) % 20_000);
        let lock = clients[usize::try_from(number % 2).unwrap()].lock(&format!("k{}", number % 7));
        async move { drop(tokio::time::timeout(patience, lock.with(|_| tokio::task::yield_now())).await) }
    });
    join_all(attempts.collect::<Vec<_>>()).await;
    support::eventually("nothing is left", || async { cli.keys().await.iter().all(|key| key.starts_with("dlock:t:")) }).await;
}
