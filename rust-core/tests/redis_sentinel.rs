//! `redis+sentinel://`: how a client finds the master, and follows when another server becomes the master.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use dlock::backend::Outcome;
use dlock::error::{BackendError, Failure};
use dlock::{Client, ClientOptions, Error, Status};
use support::certificates::{self, Authority, Identity};
use support::eventually;
use support::redis::{Cli, Server, Setup, TIMEOUT};
use support::sentinel::Sentinel;
use tokio::net::TcpListener;

const SECOND: Duration = Duration::from_secs(1);
/// So long that the sentinels never count a server as down.
const NEVER: Duration = Duration::from_secs(600);
const HOUR_US: u64 = 3_600_000_000;

async fn replica_of(master: &Server) -> Server {
    replica_with(master, &[]).await
}

async fn replica_with(master: &Server, arguments: &[&str]) -> Server {
    let replica = Server::start_with(&[&["--replicaof", &format!("127.0.0.1 {}", master.port)], arguments].concat()).await;
    let cli = replica.cli().await;
    eventually("the replica follows", || async {
        cli.run::<String>(&["INFO", "replication"]).await.contains("master_link_status:up")
    })
    .await;
    replica
}

fn url(places: &[String], service: &str) -> String {
    format!("redis+sentinel://{}/{service}", places.join(","))
}

/// Three sentinels, and before them one that does not exist, so that the first that is asked cannot answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r07_a_client_follows_its_service_to_another_master_and_tokens_rise() {
    let mut master = Server::start().await;
    let replica = replica_of(&master).await;
    let (mut sentinels, mut places) = (Vec::new(), vec!["127.0.0.1:1".to_owned()]);
    for _ in 0..3 {
        let sentinel = Sentinel::start("shop", &master, 2, SECOND / 2, &[]).await;
        places.push(sentinel.address());
        sentinels.push(sentinel);
    }
    for sentinel in &sentinels {
        sentinel.knows("shop", 1, 2).await;
    }
    let options = ClientOptions { connect_timeout: 20 * SECOND, ..ClientOptions::default() };
    let client = Client::with_options(&url(&places, "shop"), options).unwrap();
    let (old, new) = (master.cli().await, replica.cli().await);

    // A token far ahead of the clock, which the new master will not know, so that the client must.
    client.lock("k").acquire().await.unwrap().release().await.unwrap();
    let last = old.run::<Vec<String>>(&["KEYS", "dlock:t:*"]).await.pop().unwrap();
    old.run::<()>(&["SET", &last, &(old.time().await + HOUR_US).to_string()]).await;
    let ahead = client.lock("k").acquire().await.unwrap();
    assert!(ahead.token() > old.time().await + HOUR_US / 2);
    ahead.release().await.unwrap();
    old.run::<i64>(&["DEL", &last]).await;
    let held = client.lock("held").ttl(20 * SECOND).acquire().await.unwrap();
    eventually("the lease is replicated", || async { new.run::<i64>(&["EXISTS", "dlock/held"]).await == 1 }).await;

    master.kill();
    let lease = client.lock("k").acquire().await.unwrap();
    // The sentinels have closed all connections to it.
    assert_eq!(replica.cli().await.run::<i64>(&["EXISTS", "dlock/k"]).await, 1, "it is on the new master");
    assert!(lease.token() > ahead.token());
    assert_eq!(held.status(), Status::Held);
    assert!(held.extend(20 * SECOND).await.is_ok(), "what was replicated is kept");
}

const PASSWORD: &str = "of-the-master";

async fn cli_of(old: &Server) -> Cli {
    Cli::to(&old.url().replace("://", &format!("://:{PASSWORD}@"))).await
}

/// A service whose sentinel can be cut off from the master while everybody else reaches it, because it logs in as another user.
struct Split {
    old: Server,
    new: Server,
    sentinel: Sentinel,
}

impl Split {
    async fn start(arguments: &[&str]) -> Self {
        let old = Server::start_with(&[&["--requirepass", PASSWORD], arguments].concat()).await;
        let new = replica_with(&old, &["--masterauth", PASSWORD]).await;
        for cli in [cli_of(&old).await, new.cli().await] {
            cli.run::<()>(&["ACL", "SETUSER", "watcher", "on", ">of-the-watcher", "~*", "&*", "+@all"]).await;
        }
        let lines = ["sentinel auth-user shop watcher", "sentinel auth-pass shop of-the-watcher"];
        let sentinel = Sentinel::start("shop", &old, 1, SECOND / 2, &lines).await;
        sentinel.knows("shop", 1, 0).await;
        Self { old, new, sentinel }
    }

    fn client(&self) -> Client {
        let options = ClientOptions { connect_timeout: 20 * SECOND, ..ClientOptions::default() };
        let url = url(&[self.sentinel.address()], "shop").replace("://", &format!("://:{PASSWORD}@"));
        Client::with_options(&url, options).unwrap()
    }

    /// The sentinel makes the replica a master, and the old master does not learn of it.
    async fn part(&self) {
        let (old, sentinel) = (cli_of(&self.old).await, self.sentinel.cli().await);
        old.run::<()>(&["ACL", "SETUSER", "watcher", "off"]).await;
        old.run::<i64>(&["CLIENT", "KILL", "USER", "watcher"]).await;
        // It closes all connections to the new master.
        eventually("another master", || async {
            sentinel.run::<(String, u16)>(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop"]).await.1 == self.new.port
        })
        .await;
        assert!(old.run::<String>(&["INFO", "replication"]).await.contains("role:master"), "it was not told");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r01_a_master_that_its_sentinels_gave_up_is_left_though_it_goes_on_to_grant() {
    let split = Split::start(&[]).await;
    let (client, old, new) = (split.client(), cli_of(&split.old).await, split.new.cli().await);
    let first = client.lock("k").acquire().await.unwrap();
    assert_eq!(old.run::<i64>(&["EXISTS", "dlock/k"]).await, 1);
    eventually("the lease is replicated", || async { new.run::<i64>(&["EXISTS", "dlock/k"]).await == 1 }).await;
    split.part().await;
    let new = split.new.cli().await;
    let place = std::cell::Cell::new(0);
    eventually("keys are taken at the new master", || {
        let key = format!("other-{}", place.replace(place.get() + 1));
        let (client, new) = (&client, &new);
        async move {
            let lease = client.lock(&key).acquire().await.unwrap();
            let there = new.run::<i64>(&["EXISTS", &format!("dlock/{key}")]).await == 1;
            lease.release().await.unwrap();
            there
        }
    })
    .await;
    assert!(first.extend(20 * SECOND).await.is_ok(), "what was replicated is kept");
    assert!(new.left("dlock/k").await > 15 * SECOND, "at the new master");
    assert!(old.run::<String>(&["INFO", "replication"]).await.contains("role:master"), "the old one still knows nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_cannot_serve_is_left_for_the_one_that_the_sentinels_name() {
    let split = Split::start(&["--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"]).await;
    let (client, old) = (split.client(), cli_of(&split.old).await);
    client.lock("k").acquire().await.unwrap().release().await.unwrap();
    split.part().await;
    eventually("the old master has no replica", || async {
        old.run::<String>(&["INFO", "replication"]).await.contains("min_slaves_good_slaves:0")
    })
    .await;
    let lease = client.lock("k").wait(15 * SECOND).acquire().await.unwrap();
    assert_eq!(split.new.cli().await.run::<i64>(&["EXISTS", "dlock/k"]).await, 1);
    lease.release().await.unwrap();
}

/// No sentinel runs the failover here: the test changes the servers' roles itself, and informs the sentinel late.
#[tokio::test]
async fn a_master_that_lost_its_office_is_left_and_nothing_is_taken_from_it() {
    let first = Server::start().await;
    let second = replica_of(&first).await;
    let sentinel = Sentinel::start("shop", &first, 1, NEVER, &[]).await;
    let session = Setup::new(url(&[sentinel.address()], "shop")).open();
    session.granted("k", 1).await;
    let (one, two) = (first.cli().await, second.cli().await);
    eventually("the lease is replicated", || async { two.run::<i64>(&["EXISTS", "ns/k"]).await == 1 }).await;
    two.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    one.run::<()>(&["REPLICAOF", "127.0.0.1", &second.port.to_string()]).await;

    let error = session.backend.acquire(session.request("other", 2)).await.unwrap_err();
    assert_eq!(error.failure, Failure::NotSent, "{error}");
    assert!(error.message.contains("read only"), "{error}");
    let error = session.backend.acquire(session.request("other", 2)).await.unwrap_err();
    assert_eq!(error.failure, Failure::NotSent, "{error}");
    assert!(error.message.contains(&format!("127.0.0.1:{}, which says that it is none, but a slave", first.port)), "{error}");

    let watcher = sentinel.cli().await;
    watcher.run::<()>(&["SENTINEL", "REMOVE", "shop"]).await;
    watcher.run::<()>(&["SENTINEL", "MONITOR", "shop", "127.0.0.1", &second.port.to_string(), "1"]).await;
    session.granted("other", 2).await;
    assert_eq!(two.run::<i64>(&["EXISTS", "ns/other"]).await, 1);
    assert_eq!(session.release("k", 1).await, Outcome::Released, "it was replicated");
}

/// The failure of a first request, within `connect_timeout`.
async fn refusal(url: &str) -> BackendError {
    let setup = Setup { connect_timeout: 2 * SECOND, ..Setup::new(url) };
    let started = Instant::now();
    let error = setup.open().backend.ping(TIMEOUT).await.expect_err(url);
    println!("{url}: {error}");
    assert!(started.elapsed() < 3 * SECOND, "{error}");
    error
}

#[tokio::test]
async fn r16_a_service_that_no_sentinel_knows() {
    let server = Server::start().await;
    let sentinel = Sentinel::start("shop", &server, 1, NEVER, &[]).await;
    let error = refusal(&url(&[sentinel.address()], "bank")).await;
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.message.contains(&sentinel.address()) && error.message.contains("it knows no service \"bank\""), "{error}");
}

#[tokio::test]
async fn r16_no_sentinel_that_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let error = refusal(&url(&["127.0.0.1:1".to_owned(), silent.clone()], "shop")).await;
    assert_eq!(error.failure, Failure::NotSent);
    for told in ["127.0.0.1:1: Connection refused", &format!("{silent}: no answer in time")] {
        assert!(error.message.contains(told), "{told}: {error}");
    }
}

#[tokio::test]
async fn r16_a_server_that_is_no_sentinel() {
    let server = Server::start().await;
    let error = refusal(&url(&[format!("127.0.0.1:{}", server.port)], "shop")).await;
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.message.contains("SENTINEL"), "{error}");
}

#[tokio::test]
async fn a_silent_sentinel_leaves_time_for_the_others() {
    let server = Server::start().await;
    let sentinel = Sentinel::start("shop", &server, 1, NEVER, &[]).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let places = [silent.local_addr().unwrap().to_string(), sentinel.address()];
    let session = Setup { connect_timeout: 3 * SECOND, ..Setup::new(url(&places, "shop")) }.open();
    session.granted("k", 1).await;
    let cli = server.cli().await;
    cli.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let started = Instant::now();
    eventually("connected again", || async { session.backend.ping(TIMEOUT).await.is_ok() }).await;
    assert!(started.elapsed() < SECOND, "by the one that answered before");
}

/// By now another server may have the former master's address, which a sentinel that was cut off still names.
#[tokio::test]
async fn a_sentinel_that_names_a_stranger_keeps_nobody_out() {
    let (stranger, master) = (Server::start_with(&["--requirepass", "of-the-stranger"]).await, Server::start().await);
    let stale = Sentinel::start("shop", &stranger, 1, NEVER, &[]).await;
    let good = Sentinel::start("shop", &master, 1, NEVER, &[]).await;
    let error = refusal(&url(&[stale.address()], "shop")).await;
    assert_eq!(error.failure, Failure::Refused, "nobody names another: {error}");
    let gone = "127.0.0.1:1".to_owned();
    let error = refusal(&url(&[stale.address(), gone], "shop")).await;
    assert_eq!(error.failure, Failure::NotSent, "another may name another later: {error}");
    Setup::new(url(&[stale.address(), good.address()], "shop")).open().granted("k", 1).await;
    assert_eq!(master.cli().await.run::<i64>(&["EXISTS", "ns/k"]).await, 1);
}

#[tokio::test]
async fn r16_a_password_that_the_one_master_does_not_take() {
    let master = Server::start_with(&["--requirepass", "geheim"]).await;
    let (one, two) = (Sentinel::start("shop", &master, 1, NEVER, &[]).await, Sentinel::start("shop", &master, 1, NEVER, &[]).await);
    let wrong = url(&[one.address(), two.address()], "shop").replace("://", "://:nichts@");
    let error = refusal(&wrong).await;
    assert_eq!(error.failure, Failure::Refused, "{error}");
    assert!(!error.message.contains(&two.address()), "asked once: {error}");
}

#[tokio::test]
async fn sentinels_and_their_master_speak_tls() {
    let authority = Authority::new();
    let server = Server::start_secure(&authority, false).await;
    let Identity { certificate, key } = authority.issue("sentinel");
    let lines = [
        "port 0\ntls-port {port}\ntls-replication yes\ntls-auth-clients no",
        &format!("tls-cert-file {}\ntls-key-file {}", certificate.display(), key.display()),
        &format!("tls-ca-cert-file {}", authority.certificate().display()),
    ];
    let sentinel = Sentinel::start("shop", &server, 1, NEVER, &lines).await;
    let secure = format!("rediss+sentinel://{}/shop", sentinel.address());
    Setup::new(certificates::url(&secure, &authority.certificate(), None)).open().granted("k", 1).await;
    let error = refusal(&url(&[sentinel.address()], "shop")).await;
    assert!(error.message.contains(&sentinel.address()) && error.message.contains("rediss://"), "{error}");
}

#[tokio::test]
async fn r18_sentinel_and_server_have_passwords_of_their_own() {
    let server = Server::start_with(&["--requirepass", "of-the-server"]).await;
    let lines = ["sentinel auth-pass shop of-the-server", "requirepass of-the-sentinel"];
    let sentinel = Sentinel::start("shop", &server, 1, NEVER, &lines).await;
    let place = sentinel.address();
    let open =
        |server, sentinel| Client::new(&format!("redis+sentinel://:{server}@{place}/shop?sentinel_password={sentinel}")).unwrap();
    open("of-the-server", "of-the-sentinel").lock("k").acquire().await.unwrap().release().await.unwrap();
    for (of_server, of_sentinel) in [("of-the-server", "guess"), ("guess", "of-the-sentinel")] {
        let client = open(of_server, of_sentinel);
        let error = client.ping().await.unwrap_err();
        let Error::BackendRefused { server: named, source, .. } = &error else { panic!("{error:?}") };
        assert_eq!((&**named, source.failure), (&*url(std::slice::from_ref(&place), "shop"), Failure::Refused));
        let shown = format!("{error} {error:?} {client:?}");
        assert!(!["guess", "of-the-"].iter().any(|secret| shown.contains(secret)), "{shown}");
    }
}
