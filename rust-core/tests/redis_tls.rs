//! `rediss://`: which servers are trusted, which certificate the client shows, and the errors when one is refused.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use dlock::backend::Outcome;
use dlock::error::{BackendError, Failure};
use dlock::{Client, Error};
use support::certificates::{Authority, Identity, url};
use support::eventually;
use support::redis::{Server, Setup, TIMEOUT};
use tokio::net::TcpListener;

const SECOND: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = SECOND;

fn of(server: &Server) -> String {
    format!("rediss://127.0.0.1:{}", server.port)
}

/// The failure of a first request, within `connect_timeout`.
async fn refusal(url: &str) -> BackendError {
    let setup = Setup { connect_timeout: CONNECT_TIMEOUT, ..Setup::new(url) };
    let started = Instant::now();
    let error = setup.open().backend.ping(TIMEOUT).await.expect_err(url);
    println!("{url}: {error}");
    assert!(started.elapsed() < CONNECT_TIMEOUT + SECOND, "{error}");
    error
}

#[tokio::test]
async fn a_lock_goes_through_tls() {
    let authority = Authority::new();
    let server = Server::start_secure(&authority, true).await;
    let address = url(&of(&server), &authority.certificate(), Some(&authority.issue("client")));
    let (holder, mut waiter) = (Setup::new(&address).open(), Setup::new(&address).open());
    let first = holder.granted("k", 1).await;
    waiter.waiting("k", 1).await;
    assert_eq!(holder.release("k", 1).await, Outcome::Released);
    waiter.hint().await;
    assert!(waiter.granted("k", 1).await.token > first.token);

    let cli = server.local_cli().await;
    let connected = async || cli.run::<String>(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.lines().count();
    cli.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    eventually("connected again", || async { waiter.backend.ping(TIMEOUT).await.is_ok() }).await;
    assert_eq!(connected().await, 1);
    assert_eq!(waiter.release("k", 1).await, Outcome::Released);
    waiter.backend.close().await;
    eventually("the connection is closed", || async { connected().await == 0 }).await;
}

#[tokio::test]
async fn r16_an_authority_that_is_not_the_redis_servers() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = Server::start_secure(&authority, false).await;
    Setup::new(url(&of(&server), &authority.certificate(), None)).open().granted("k", 1).await;
    let other_name = of(&server).replace("127.0.0.1", "localhost");
    for url in [url(&of(&server), &stranger.certificate(), None), of(&server), url(&other_name, &authority.certificate(), None)] {
        let error = refusal(&url).await;
        assert_eq!(error.failure, Failure::Refused);
        assert!(error.message.contains("TLS handshake") && error.message.contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn r16_a_client_without_the_certificate_that_redis_asks_for() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = Server::start_secure(&authority, true).await;
    for identity in [None, Some(&stranger.issue("client"))] {
        let error = refusal(&url(&of(&server), &authority.certificate(), identity)).await;
        // With TLS 1.3 a server refuses after the handshake, and may hang up before the client reads the alert.
        assert!(error.message.contains("TLS handshake") || error.message.contains("another certificate"), "{error}");
    }
}

#[tokio::test]
async fn r16_redis_with_tls_on_one_side_only() {
    let authority = Authority::new();
    let (secure, plain) = (Server::start_secure(&authority, false).await, Server::start().await);
    let error = refusal(&format!("redis://:geheim@127.0.0.1:{}", secure.port)).await;
    assert!(error.message.contains("rediss://") && !error.message.contains("geheim"), "{error}");
    let error = refusal(&url(&of(&plain), &authority.certificate(), None)).await;
    assert!(error.message.contains("TLS handshake") && error.message.contains("redis://"), "{error}");
    let options = dlock::ClientOptions { op_timeout: SECOND * 60, connect_timeout: SECOND * 60, ..dlock::ClientOptions::default() };
    let client = Client::with_options(&format!("redis://127.0.0.1:{}", secure.port), options).unwrap();
    let tried = tokio::time::timeout(SECOND * 20, client.lock("k").try_acquire()).await.expect("a single try ends with its cause");
    assert!(tried.unwrap_err().to_string().contains("rediss://"), "not told");
}

/// A server without TLS may wait for ever for the end of a handshake that it takes for a command.
#[tokio::test]
async fn r16_a_handshake_that_nobody_answers() {
    let authority = Authority::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("rediss://{}", silent.local_addr().unwrap());
    let session = Setup::new(url(&server, &authority.certificate(), None)).open();
    let error = session.backend.ping(SECOND / 5).await.unwrap_err();
    assert_eq!(error.failure, Failure::NotSent);
    assert!(error.message.contains("TLS handshake") && error.message.contains("redis://"), "{error}");
}

#[tokio::test]
async fn r18_a_password_goes_through_tls_and_is_not_shown() {
    let authority = Authority::new();
    let server = Server::start_secure(&authority, false).await;
    let cli = server.local_cli().await;
    cli.run::<()>(&["CONFIG", "SET", "requirepass", "geheim"]).await;
    let address = |password: &str| url(&format!("rediss://:{password}@127.0.0.1:{}", server.port), &authority.certificate(), None);
    let client = Client::new(&address("geheim")).unwrap();
    client.lock("k").acquire().await.unwrap().release().await.unwrap();
    let error = Client::new(&address("nichts")).unwrap().ping().await.unwrap_err();
    let Error::BackendRefused { server: named, source, .. } = &error else { panic!("{error:?}") };
    assert_eq!((&**named, source.failure), (&*of(&server), Failure::Refused));
    assert!(!error.to_string().contains("nichts"), "{error}");
}

#[test]
fn r15_files_of_rediss_that_cannot_be_used_are_found_at_once() {
    let authority = Authority::new();
    let refused = |url: &str| {
        let error = Client::new(url).unwrap_err();
        assert_eq!(error.code(), "INVALID_OPTIONS", "{url}: {error}");
        error.to_string()
    };
    let (missing, empty) = (authority.certificate().with_file_name("missing.pem"), authority.file("empty.pem", ""));
    let broken = authority.file("broken.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    for (ca, told) in [(missing, "No such file"), (empty, "has no CERTIFICATE"), (broken, "that can be used")] {
        let error = refused(&url("rediss://:geheim@h", &ca, None));
        assert!(error.contains(told) && !error.contains("geheim"), "{error}");
    }
    let (ours, others) = (authority.issue("ours"), authority.issue("others"));
    let mixed = Identity { certificate: ours.certificate, key: others.key };
    let error = refused(&url("rediss://h", &authority.certificate(), Some(&mixed)));
    assert!(error.contains("that can be used"), "{error}");
}
