//! `redis://`: requests that share a call.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dlock::backend::{Acquire, Acquired, Hint, Outcome};
use dlock::error::{BackendError, Failure};
use dlock::{Client, ClientOptions};
use futures_util::FutureExt;
use futures_util::future::join_all;
use support::proxy::{Gate, Proxy};
use support::redis::{Cli, Server, Session, Setup, TIMEOUT, grant, waiting};
use tokio::time::timeout;

const MS: Duration = Duration::from_millis(1);

/// The most calls in flight: requests that come after them share a call.
const CALLS: usize = 2;

async fn evals(cli: &Cli) -> u64 {
    let stats: String = cli.run(&["INFO", "commandstats"]).await;
    let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_eval")?.split_once("calls="));
    lines.map(|(_, rest)| rest.split(',').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Connects, and makes the server learn the script.
async fn warm(session: &Session) {
    session.granted("warm", 1).await;
    session.release("warm", 1).await;
}

/// Uses every call, so that the requests which follow in the same `join!` line up.
async fn fill(session: &Session) {
    join_all((0..CALLS).map(|n| async move { session.granted(&format!("fill{n}"), 1_000).await })).await;
    join_all((0..CALLS).map(|n| async move { session.release(&format!("fill{n}"), 1_000).await })).await;
}

async fn through(proxy: &Proxy, op_timeout: Duration) -> Session {
    let mut setup = Setup::new(format!("redis://127.0.0.1:{}", proxy.port));
    setup.op_timeout = op_timeout;
    let session = setup.open();
    warm(&session).await;
    session
}

fn failure<T: std::fmt::Debug>(answer: Result<T, BackendError>) -> Failure {
    answer.unwrap_err().failure
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_tasks_cost_less_than_a_command_a_cycle() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, Arc::new(Session::new(&server)));
    warm(&session).await;
    let before = evals(&cli).await;
    let tasks = (0..500).map(|n| {
        let session = session.clone();
        tokio::spawn(async move {
            for cycle in 0..10 {
                session.granted(&format!("k{n}"), n * 100 + cycle).await;
                assert_eq!(session.release(&format!("k{n}"), n * 100 + cycle).await, Outcome::Released);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let commands = evals(&cli).await - before;
    assert!(commands < 2_500, "{commands} commands for 5,000 cycles");
    assert!(cli.keys().await.iter().all(|key| key.starts_with("dlock:t:")));
}

#[tokio::test]
async fn each_request_of_a_batch_has_its_own_answer_and_its_own_error() {
    let server = Server::start().await;
    let (cli, a, mut b) = (server.cli().await, Session::new(&server), Session::new(&server));
    warm(&a).await;
    cli.run::<i64>(&["LPUSH", "ns/list", "x"]).await;
    for key in ["mine", "theirs", "waited", "handed", "left"] {
        let holder = if key == "theirs" { &b } else { &a };
        holder.granted(key, 1).await;
    }
    b.waiting("waited", 2).await;
    b.waiting("handed", 3).await;
    a.waiting("theirs", 5).await;
    let before = evals(&cli).await;
    let try_only = Acquire { enqueue: false, ..a.request("theirs", 4) };
    let ((), free, mine, held, list, kept, waited, handed, (), missing, tried) = tokio::join!(
        async { drop(tokio::join!(a.ask("fill0", 1), a.ask("fill1", 1))) },
        a.backend.acquire(a.request("free", 1)),
        a.release_to("mine", 1, None),
        a.backend.acquire(a.request("left", 2)),
        a.backend.acquire(a.request("list", 1)),
        a.release_to("list", 1, None),
        a.release_to("waited", 1, None),
        a.release_to("handed", 1, Some(a.request("handed", 2))),
        a.leave("theirs", 5),
        a.release_to("missing", 1, None),
        a.backend.acquire(try_only),
    );
    assert_eq!(evals(&cli).await - before, CALLS as u64 + 1, "one batch");
    grant(free.unwrap());
    assert_eq!(mine.unwrap().outcome, Outcome::Released);
    assert_eq!(waiting(held.unwrap()).position, Some(0));
    assert_eq!((failure(list), failure(kept)), (Failure::Refused, Failure::Refused));
    assert_eq!(waited.unwrap().outcome, Outcome::Released);
    let handed = handed.unwrap();
    assert_eq!((handed.outcome, waiting(handed.next.unwrap()).position), (Outcome::Released, Some(1)));
    assert_eq!(missing.unwrap().outcome, Outcome::NotHeld);
    assert_eq!(waiting(tried.unwrap()).holder.unwrap().owner, b.owner(1).to_string());
    assert_eq!(b.hint().await, Hint::Key("waited".into(), Some(b.owner(2))));
    assert_eq!(b.hint().await, Hint::Key("handed".into(), Some(b.owner(3))));
    assert_eq!(cli.run::<Vec<String>>(&["LRANGE", "ns/list", "0", "-1"]).await, ["x"]);
    assert_eq!(cli.run::<i64>(&["EXISTS", "ns/mine", "dlock:q:ns/theirs"]).await, 0);
    assert!(a.backend.inspect("theirs".into(), TIMEOUT).await.unwrap().queue.is_empty(), "it left");
}

#[tokio::test]
async fn requests_for_one_key_are_served_in_their_order() {
    let server = Server::start().await;
    let (cli, mut session) = (server.cli().await, Session::new(&server));
    warm(&session).await;
    let before = evals(&cli).await;
    let ((), first, second, released, confirmed, freed, third) = tokio::join!(
        async { drop(tokio::join!(session.ask("fill0", 1), session.ask("fill1", 1))) },
        session.granted("k", 1),
        session.waiting("k", 2),
        session.release("k", 1),
        session.granted("k", 2),
        session.release("k", 2),
        session.granted("k", 3),
    );
    assert_eq!(evals(&cli).await - before, CALLS as u64 + 1, "one batch");
    assert_eq!(second.position, Some(0));
    assert_eq!((released, freed), (Outcome::Released, Outcome::Released));
    assert!(first.token < confirmed.token && confirmed.token < third.token);
    assert_eq!(session.hint().await, Hint::Key("k".into(), Some(session.owner(2))));
    session.release("k", 3).await;
    assert!(cli.keys().await.iter().all(|key| key.starts_with("dlock:t:") || key.starts_with("ns/fill")));
}

#[tokio::test]
async fn r07_keys_of_one_slot_in_one_batch_do_not_turn_its_last_token_back() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, Session::new(&server));
    warm(&session).await;
    let floor = cli.time().await + 3_600_000_000;
    let ahead = Acquire { floor, ..session.request("{s}a", 1) };
    let ((), ahead, beside, _, again) = tokio::join!(
        fill(&session),
        session.backend.acquire(ahead),
        session.granted("{s}b", 2),
        session.release("{s}a", 1),
        session.granted("{s}a", 3),
    );
    let ahead = grant(ahead.unwrap()).token;
    assert!(ahead > floor && beside.token > ahead && again.token > beside.token);
    session.release("{s}a", 3).await;
    assert!(session.granted("{s}a", 4).await.token > again.token);
}

#[tokio::test]
async fn r10_what_is_dropped_in_the_line_is_not_sent() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let proxy = Proxy::to(server.port).await;
    let session = through(&proxy, TIMEOUT).await;
    proxy.requests(Gate::Stalled);
    let mut under_way = Box::pin(fill(&session));
    assert!(under_way.as_mut().now_or_never().is_none());
    let mut dropped = Box::pin(session.backend.acquire(session.request("k", 1)));
    assert!(dropped.as_mut().now_or_never().is_none());
    let mut kept = Box::pin(session.granted("other", 1));
    assert!(kept.as_mut().now_or_never().is_none());
    drop(dropped);
    proxy.requests(Gate::Open);
    tokio::join!(under_way, kept);
    assert_eq!(cli.run::<Vec<String>>(&["KEYS", "ns/*"]).await, ["ns/other"]);
}

#[tokio::test]
async fn r04_what_gave_up_in_the_line_is_not_sent_later() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let proxy = Proxy::to(server.port).await;
    let session = through(&proxy, TIMEOUT).await;
    proxy.requests(Gate::Stalled);
    let before = evals(&cli).await;
    let short = Acquire { timeout: 100 * MS, ..session.request("k", 1) };
    let ((), first, others) = tokio::join!(
        async { drop(timeout(300 * MS, fill(&session)).await) },
        session.backend.acquire(short),
        join_all((0..10).map(|n| session.backend.acquire(session.request(&format!("k{n}"), 1)))),
    );
    assert_eq!(failure(first), Failure::NotSent);
    for other in others {
        assert_eq!(failure(other), Failure::NotSent, "the link was given up with the first");
    }
    session.granted("next", 1).await;
    assert_eq!(proxy.connections(), 2);
    proxy.requests(Gate::Open);
    support::eventually("the stalled requests are executed", || async { evals(&cli).await >= before + 3 }).await;
    let mut locks: Vec<String> = cli.run(&["KEYS", "ns/k*"]).await;
    locks.sort();
    assert!(locks.is_empty(), "{locks:?}");
}

#[tokio::test]
async fn a_batch_without_an_answer_is_unknown_and_the_line_behind_it_is_not_sent() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let proxy = Proxy::to(server.port).await;
    let session = through(&proxy, TIMEOUT).await;
    proxy.requests(Gate::Stalled);
    let ask = |key: String| session.backend.acquire(session.request(&key, 1));
    let mut alone: Vec<_> = (0..CALLS).map(|n| ask(format!("alone{n}"))).collect();
    assert!(alone.iter_mut().all(|asked| asked.now_or_never().is_none()));
    let mut batches: Vec<_> = (0..CALLS * 128).map(|n| ask(format!("batch{n}"))).collect();
    assert!(batches.iter_mut().all(|asked| asked.now_or_never().is_none()));
    // Their callers give up, and the line goes on.
    drop(alone);
    support::eventually("the batches are under way", || async { proxy.kept() == 1 }).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let mut behind: Vec<_> = (0..5).map(|n| ask(format!("behind{n}"))).collect();
    assert!(behind.iter_mut().all(|asked| asked.now_or_never().is_none()));
    proxy.answers(Gate::Closed);
    for answer in join_all(batches).await {
        assert_eq!(failure(answer), Failure::Unknown);
    }
    for answer in join_all(behind).await {
        assert_eq!(failure(answer), Failure::NotSent);
    }
    // On a new connection the same attempts find the grants of the late batches, or get theirs now.
    let again = join_all((0..CALLS * 128).map(|n| ask(format!("batch{n}")))).await;
    assert!(again.into_iter().all(|answer| matches!(answer, Ok(Acquired::Granted(_)))));
    assert_eq!(proxy.connections(), 2);
    assert!(cli.run::<Vec<String>>(&["KEYS", "ns/behind*"]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_a_leave_never_overtakes_its_acquire() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, Arc::new(Session::new(&server)));
    warm(&session).await;
    let tasks = (0..100_u64).map(|n| {
        let session = session.clone();
        tokio::spawn(async move {
            for round in 0..50 {
                let key = format!("k{n}");
                let sequence = n * 1_000 + round;
                // Dropped before it lined up, in the line, when taken, when sent, or when answered.
                let patience = Duration::from_micros((n * 37 + round * 91) % 2_000);
                drop(timeout(patience, session.ask(&key, sequence)).await);
                session.leave(&key, sequence).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert!(cli.keys().await.iter().all(|key| key.starts_with("dlock:t:")), "{:?}", cli.keys().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r01_r04_one_holder_at_a_time_and_nothing_left_while_connections_break_and_stall() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let proxy = Proxy::to(server.port).await;
    let options = ClientOptions { op_timeout: 400 * MS, ..ClientOptions::default() };
    let client = Client::with_options(&format!("redis://127.0.0.1:{}", proxy.port), options).unwrap();
    client.lock("warm").acquire().await.unwrap().release().await.unwrap();
    let held: Arc<Vec<AtomicBool>> = Arc::new((0..20).map(|_| AtomicBool::new(false)).collect());
    let done = Arc::new(AtomicUsize::new(0));
    let tasks = (0..100).map(|n: usize| {
        let (client, held, done) = (client.clone(), held.clone(), done.clone());
        tokio::spawn(async move {
            for cycle in 0..20 {
                let key = (n + cycle * 7) % held.len();
                let Ok(lease) = client.lock(&format!("k{key}")).acquire().await else { continue };
                assert!(!held[key].swap(true, Ordering::SeqCst), "two holders of k{key}");
                tokio::task::yield_now().await;
                held[key].store(false, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
                drop(lease.release().await);
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    for gate in [Gate::Closed, Gate::Stalled, Gate::Lost] {
        let so_far = done.load(Ordering::SeqCst);
        support::eventually("they get on", || async { done.load(Ordering::SeqCst) >= (so_far + 50).min(1_000) }).await;
        proxy.answers(gate);
        let connections = proxy.connections();
        support::eventually("a new connection", || async { proxy.connections() > connections }).await;
        proxy.answers(Gate::Open);
    }
    for task in tasks {
        task.await.unwrap();
    }
    support::eventually("nothing is held", || async { cli.run::<Vec<String>>(&["KEYS", "dlock/*"]).await.is_empty() }).await;
}
