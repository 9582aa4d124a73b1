//! `redis://`: lost answers, stalled bytes, broken connections, servers that forget or refuse.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dlock::backend::{Acquire, Acquired, Hint, Outcome, Renew, Renewed};
use dlock::clock::ManualClock;
use dlock::error::Failure;
use support::proxy::{Gate, Proxy};
use support::redis::{Cli, Server, Session, Setup, TIMEOUT, TTL, grant};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);

async fn through(proxy: &Proxy, op_timeout: Duration) -> Session {
    let mut setup = Setup::new(format!("redis://127.0.0.1:{}", proxy.port));
    setup.op_timeout = op_timeout;
    let session = setup.open();
    warm(&session).await;
    session
}

/// Connects and makes the server learn the scripts, so that from here on each request is one command.
async fn warm(session: &Session) {
    session.granted("warm", 1).await;
    let renew = Renew { key: "warm".into(), owner: session.owner(1), ttl: TTL, exact: false };
    session.backend.renew(vec![renew], TIMEOUT).await.unwrap();
    session.release("warm", 1).await;
}

async fn evals(cli: &Cli) -> u64 {
    let stats: String = cli.run(&["INFO", "commandstats"]).await;
    let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_eval")?.split_once("calls="));
    lines.map(|(_, rest)| rest.split(',').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn a_stalled_acquire_that_arrives_after_grant_and_release_leaves_the_key_free() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let proxy = Proxy::to(server.port).await;
    let session = through(&proxy, 300 * MS).await;
    proxy.requests(Gate::Stalled);
    let error = session.backend.acquire(session.request("k", 1)).await.unwrap_err();
    assert_eq!(error.failure, Failure::Unknown, "{error}");
    // The same attempt, on a new connection.
    session.granted("k", 1).await;
    assert_eq!(proxy.connections(), 2);
    assert_eq!(session.release("k", 1).await, Outcome::Released);
    let late_from = cli.time().await + 600_000;
    support::eventually("the late window is over", || async { cli.time().await > late_from }).await;
    let before = evals(&cli).await;
    proxy.requests(Gate::Open);
    support::eventually("the stalled request is executed", || async { evals(&cli).await > before }).await;
    assert_eq!(cli.run::<i64>(&["EXISTS", "ns/k"]).await, 0, "nobody holds it");
    assert!(cli.keys().await.iter().all(|key| key.starts_with("dlock:t:")), "and nobody waits");
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_the_retry_finds_the_grant() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let proxy = Proxy::to(server.port).await;
    let session = through(&proxy, 300 * MS).await;
    proxy.answers(Gate::Lost);
    let began = Instant::now();
    let error = session.backend.acquire(session.request("k", 1)).await.unwrap_err();
    assert_eq!(error.failure, Failure::Unknown, "{error}");
    assert!(began.elapsed() < 1_500 * MS, "bounded by its timeout");
    let value: String = cli.run(&["GET", "ns/k"]).await;
    let again = session.granted("k", 1).await;
    assert!(value.contains(&format!("|{}|", again.token)), "the grant that raced in");
    proxy.answers(Gate::Lost);
    assert_eq!(session.release_to("k", 1, None).await.unwrap_err().failure, Failure::Unknown);
    assert_eq!(session.release("k", 1).await, Outcome::NotHeld, "it was executed");
}

#[tokio::test]
async fn a_lost_answer_to_a_hand_over_is_answered_alike_on_retry() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    let session = through(&proxy, 300 * MS).await;
    let first = session.granted("k", 1).await;
    proxy.answers(Gate::Lost);
    let next = || Some(session.request("k", 2));
    assert_eq!(session.release_to("k", 1, next()).await.unwrap_err().failure, Failure::Unknown);
    let handed = session.release_to("k", 1, next()).await.unwrap();
    assert_eq!(handed.outcome, Outcome::NotHeld);
    assert!(grant(handed.next.unwrap()).token > first.token);
}

#[tokio::test]
async fn a_delayed_exact_renewal_does_not_undo_a_longer_one() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let proxy = Proxy::to(server.port).await;
    let session = through(&proxy, 300 * MS).await;
    session.granted("k", 1).await;
    let extend = |ms| vec![Renew { key: "k".into(), owner: session.owner(1), ttl: ms * MS, exact: true }];
    proxy.requests(Gate::Stalled);
    let error = session.backend.renew(extend(5_000), 300 * MS).await.unwrap_err();
    assert_eq!(error.failure, Failure::Unknown);
    assert_eq!(session.backend.renew(extend(60_000), TIMEOUT).await.unwrap(), [Renewed::Extended(60_000 * MS)]);
    let late_from = cli.time().await + 600_000;
    support::eventually("the late window is over", || async { cli.time().await > late_from }).await;
    let before = evals(&cli).await;
    proxy.requests(Gate::Open);
    support::eventually("the stalled request is executed", || async { evals(&cli).await > before }).await;
    assert!(cli.left("ns/k").await > 50_000 * MS);
}

/// An engine clock that stands still while the server's goes on, so that the server finds our requests late.
async fn behind(server: &Server) -> Session {
    let mut setup = Setup::new(server.url());
    setup.clock = Arc::new(ManualClock::new());
    setup.op_timeout = 200 * MS;
    let session = Session { timeout: TIMEOUT, ..setup.open() };
    warm(&session).await;
    session
}

async fn until_later(cli: &Cli) {
    let then = cli.time().await + 400_000;
    support::eventually("time passes", || async { cli.time().await > then }).await;
}

#[tokio::test]
async fn a_stepped_clock_is_learned_from_the_refusal() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, behind(&server).await);
    session.granted("k", 1).await;
    until_later(&cli).await;
    let before = evals(&cli).await;
    let handed = session.release_to("k", 1, Some(session.request("k", 2))).await.unwrap();
    assert_eq!(handed.outcome, Outcome::Released);
    assert_eq!(handed.next, None, "certainly not asked: it asks for itself");
    session.granted("k", 2).await;
    assert_eq!(evals(&cli).await - before, 2, "released at once, then asked for with the right time");
    until_later(&cli).await;
    let renew = Renew { key: "k".into(), owner: session.owner(2), ttl: 5_000 * MS, exact: true };
    assert_eq!(session.backend.renew(vec![renew], TIMEOUT).await.unwrap(), [Renewed::Extended(5_000 * MS)]);
    until_later(&cli).await;
    session.release("k", 2).await;
    let before = evals(&cli).await;
    session.granted("k", 3).await;
    assert_eq!(evals(&cli).await - before, 2, "refused once");
    session.granted("k", 3).await;
    assert_eq!(evals(&cli).await - before, 3, "and right from then on");
}

#[tokio::test]
async fn scripts_are_brought_along_when_the_server_forgot_them() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, Session::new(&server));
    session.granted("k", 1).await;
    cli.run::<()>(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(session.release("k", 1).await, Outcome::Released);
    cli.run::<()>(&["SCRIPT", "FLUSH"]).await;
    session.granted("k", 2).await;
}

#[tokio::test]
async fn many_calls_that_miss_a_script_bring_it_once() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, Session::new(&server));
    session.backend.ping(TIMEOUT).await.unwrap();
    futures_util::future::join_all((0..200).map(async |n| session.granted(&format!("k{n}"), n).await)).await;
    let stats: String = cli.run(&["INFO", "commandstats"]).await;
    assert!(stats.contains("cmdstat_eval:calls=1,"), "{stats}");
}

#[tokio::test]
async fn a_new_connection_listens_again_and_says_that_hints_may_be_missing() {
    let server = Server::start().await;
    let (cli, a, mut b) = (server.cli().await, Session::new(&server), Session::new(&server));
    a.granted("k", 1).await;
    b.waiting("k", 1).await;
    let channel = format!("dlock:s:{}", b.id);
    let listening = async || cli.run::<(String, u64)>(&["PUBSUB", "NUMSUB", &channel]).await.1;
    assert_eq!(listening().await, 1);
    cli.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    support::eventually("the connection is gone", || async { listening().await == 0 }).await;
    support::eventually("and the next request makes a new one", || async { b.backend.ping(TIMEOUT).await.is_ok() }).await;
    assert_eq!(b.hint().await, Hint::All);
    assert_eq!(listening().await, 1);
    a.release("k", 1).await;
    assert_eq!(b.hint().await, Hint::Key("k".into(), Some(b.owner(1))));
    b.granted("k", 1).await;
}

#[tokio::test]
async fn a_client_keeps_its_name_on_a_new_connection() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let session = Setup::new(format!("{}?client_name=nightly-report", server.url())).open();
    let names = async || cli.run::<String>(&["CLIENT", "LIST"]).await.matches(" name=nightly-report ").count();
    session.granted("k", 1).await;
    assert_eq!(names().await, 1);
    cli.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    support::eventually("the connection is gone", || async { names().await == 0 }).await;
    support::eventually("and the next one is named alike", || async {
        session.backend.ping(TIMEOUT).await.is_ok() && names().await == 1
    })
    .await;
}

#[tokio::test]
async fn a_suspect_connection_is_replaced() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    let mut session = through(&proxy, 300 * MS).await;
    proxy.answers(Gate::Stalled);
    assert!(session.backend.ping(100 * MS).await.is_err());
    session.backend.ping(TIMEOUT).await.unwrap();
    assert_eq!(session.hint().await, Hint::All);
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn many_callers_share_one_attempt_to_connect() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let received = async || {
        let stats: String = cli.run(&["INFO", "stats"]).await;
        let count = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = received().await;
    let session = Session::new(&server);
    let grants = futures_util::future::join_all((0..200).map(async |n| session.granted(&format!("k{n}"), n).await)).await;
    assert_eq!(grants.len(), 200);
    assert_eq!(received().await, before + 1);
}

#[tokio::test]
async fn a_server_that_is_down_executes_nothing_and_is_used_again_when_it_is_back() {
    let mut server = Server::start().await;
    let session = Session::new(&server);
    session.granted("k", 1).await;
    server.kill();
    // The request that found the connection broken may have been sent.
    support::eventually("the death is noticed", || async {
        session.backend.acquire(session.request("k", 2)).await.unwrap_err().failure == Failure::NotSent
    })
    .await;
    server.restart().await;
    support::eventually("it is used again", || async {
        matches!(session.backend.acquire(session.request("k", 2)).await, Ok(Acquired::Granted(_)))
    })
    .await;
}

#[tokio::test]
async fn a_dead_server_is_not_hammered() {
    let mut server = Server::start().await;
    server.kill();
    let session = Session::new(&server);
    let began = Instant::now();
    let mut failures = 0;
    while began.elapsed() < 1_000 * MS {
        assert_eq!(session.backend.ping(TIMEOUT).await.unwrap_err().failure, Failure::NotSent);
        failures += 1;
    }
    assert!((2..=8).contains(&failures), "{failures} attempts in a second");
}

#[tokio::test]
async fn a_server_that_does_not_answer_costs_no_more_than_the_timeout() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let session = Setup::new(format!("redis://{}", silent.local_addr().unwrap())).open();
    let began = Instant::now();
    let error = session.backend.acquire(Acquire { timeout: 200 * MS, ..session.request("k", 1) }).await.unwrap_err();
    assert_eq!(error.failure, Failure::NotSent, "{error}");
    assert!(began.elapsed() < 1_000 * MS);
}

#[tokio::test]
async fn r18_a_wrong_password_is_refused_and_never_shown() {
    let server = Server::start_with(&["--requirepass", "the-right-one"]).await;
    let open = |password: &str| Setup::new(format!("redis://:{password}@127.0.0.1:{}", server.port)).open();
    let wrong = open("hunter2-secret");
    let error = wrong.backend.ping(TIMEOUT).await.unwrap_err();
    assert_eq!(error.failure, Failure::Refused, "{error}");
    let missing = Setup::new(server.url()).open().backend.ping(TIMEOUT).await.unwrap_err();
    assert_eq!(missing.failure, Failure::Refused, "{missing}");
    let right = open("the-right-one");
    right.granted("k", 1).await;
    for shown in [
        format!("{error} {error:?} {:?}", error.cause),
        format!("{:?} {}", wrong.backend, wrong.backend.server()),
        format!("{:?} {}", right.backend, right.backend.server()),
    ] {
        assert!(!shown.contains("hunter2") && !shown.contains("the-right-one"), "{shown}");
    }
}

/// Such a server repeats the arguments of a command in its answer, and so the password.
#[tokio::test]
async fn r18_a_server_without_hello_does_not_bring_the_password_into_the_error() {
    let server = Server::start_with(&["--rename-command", "HELLO", "", "--requirepass", "s3cretpw"]).await;
    let url = format!("redis://:s3cretpw@127.0.0.1:{}", server.port);
    let error = dlock::Client::new(&url).unwrap().ping().await.unwrap_err();
    let mut shown = vec![format!("{error} {error:?}")];
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        shown.push(format!("{cause} {cause:?}"));
        source = cause.source();
    }
    let shown = shown.join("\n");
    assert!(shown.contains("HELLO") && !shown.contains("s3cretpw"), "{shown}");
    let dlock::Error::BackendRefused { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(source.failure, Failure::Refused, "{source}");
}

#[tokio::test]
async fn a_server_that_cannot_serve_now_is_worth_another_try() {
    let master = Server::start().await;
    let (cli, session) = (master.cli().await, Session::new(&master));
    session.granted("k", 1).await;
    cli.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let error = session.backend.acquire(session.request("other", 2)).await.unwrap_err();
    assert_eq!(error.failure, Failure::NotSent, "{error}");
    cli.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    session.granted("other", 2).await;
}

#[tokio::test]
async fn a_full_server_refuses() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, Session::new(&server));
    session.backend.ping(TIMEOUT).await.unwrap();
    cli.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = session.backend.acquire(session.request("k", 1)).await.unwrap_err();
    assert_eq!(error.failure, Failure::Refused, "{error}");
    assert!(error.to_string().contains("maxmemory"), "{error}");
}

#[tokio::test]
async fn closing_ends_the_connection_and_refuses_what_comes_later() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, Session::new(&server));
    session.granted("k", 1).await;
    session.backend.close().await;
    assert_eq!(session.backend.ping(TIMEOUT).await.unwrap_err().failure, Failure::Refused);
    support::eventually("the connection is gone", || async {
        cli.run::<Vec<String>>(&["PUBSUB", "CHANNELS", "dlock:s:*"]).await.is_empty()
    })
    .await;
    assert!(cli.left("ns/k").await <= TTL);
}

#[tokio::test]
async fn a_server_without_config_and_client_commands_will_do() {
    let server = Server::start_with(&["--rename-command", "CONFIG", "", "--rename-command", "CLIENT", ""]).await;
    let session = Session::new(&server);
    session.granted("k", 1).await;
    assert_eq!(session.release("k", 1).await, Outcome::Released);
}

/// Collects the warnings that name a policy.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::field::Visit for Warnings {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "policy" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
        tracing::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &tracing::Id) {}
    fn exit(&self, _: &tracing::Id) {}
}

#[tokio::test]
async fn a_server_that_evicts_is_warned_of_once() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let (careful, careless) = (Server::start().await, Server::start_with(&["--maxmemory-policy", "volatile-lru"]).await);
    Session::new(&careful).granted("k", 1).await;
    assert_eq!(*warnings.0.lock().unwrap(), [""; 0]);
    let session = Session::new(&careless);
    session.granted("k", 1).await;
    careless.cli().await.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    support::eventually("connected again", || async { session.backend.ping(TIMEOUT).await.is_ok() }).await;
    assert_eq!(*warnings.0.lock().unwrap(), ["volatile-lru"]);
}
