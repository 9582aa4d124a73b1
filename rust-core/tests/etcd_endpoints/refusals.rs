//! What cannot work fails soon, and each in words of its own.

use std::time::Instant;

use dlock::backend::etcd::servers::address::EtcdAddress;
use dlock::error::{BackendError, Failure};
use tokio::net::TcpListener;

use crate::parrot::Parrot;
use crate::support::certificates::{Authority, Identity, url};
use crate::support::etcd::{EtcdServer, Options, Version};
use crate::support::redis::Server;
use crate::{CONNECT_TIMEOUT, connect, open, put};

/// The failure of a first call, which names the server and comes well before `connect_timeout`.
async fn refusal(url: &str, server: &str) -> BackendError {
    let started = Instant::now();
    let error = connect(url).await.expect_err(url);
    println!("{url}: {error}");
    assert!(started.elapsed() < CONNECT_TIMEOUT, "{error}");
    assert!(error.message.contains(server), "{server} is not named: {error}");
    error
}

#[tokio::test]
async fn r16_nobody_listens() {
    let error = refusal("etcd://127.0.0.1:1", "127.0.0.1:1").await;
    assert_eq!(error.failure, Failure::NotSent);
    assert!(error.message.contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn r16_a_name_that_nobody_has() {
    let error = refusal("etcd://no-such-host.invalid", "no-such-host.invalid:2379").await;
    assert_eq!(error.failure, Failure::NotSent);
    assert!(error.message.contains("cannot connect: "), "{error}");
}

#[tokio::test]
async fn r16_a_server_that_never_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap().to_string();
    let error = connect(&format!("etcd://{server}")).await.unwrap_err();
    assert_eq!(error.failure, Failure::NotSent);
    assert!(error.message.contains(&server) && error.message.contains("in time"), "{error}");
}

#[tokio::test]
async fn r16_a_web_server_is_not_etcd() {
    let server = Parrot::start("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    let error = refusal(&format!("etcd://{}", server.server), &server.server).await;
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.message.contains("does not speak as etcd does"), "{error}");
}

#[tokio::test]
async fn r16_redis_is_not_etcd() {
    let redis = Server::start().await;
    let server = format!("127.0.0.1:{}", redis.port);
    let error = refusal(&format!("etcd://{server}"), &server).await;
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.message.contains("does not speak as etcd does"), "{error}");
}

#[tokio::test]
async fn r16_an_authority_that_is_not_the_servers() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = EtcdServer::start_with(Options { tls: Some(authority.server(None)), ..Options::default() }).await;
    connect(&url(&server.url(), &authority.certificate(), None)).await.unwrap();

    let error = refusal(&url(&server.url(), &stranger.certificate(), None), &server.endpoint()).await;
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.message.contains("TLS") && error.message.contains("certificate"), "{error}");
    let error = refusal(&server.url(), &server.endpoint()).await;
    assert_eq!(error.failure, Failure::Refused, "the system's authorities do not know it either");
}

#[tokio::test]
async fn r16_a_client_without_the_certificate_that_is_asked_for() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let tls = Some(authority.server(Some(authority.certificate())));
    let server = EtcdServer::start_with(Options { tls, ..Options::default() }).await;
    let ca = authority.certificate();
    connect(&url(&server.url(), &ca, Some(&authority.issue("client")))).await.unwrap();

    for identity in [None, Some(&stranger.issue("client"))] {
        let error = refusal(&url(&server.url(), &ca, identity), &server.endpoint()).await;
        // With TLS 1.3 a server says so after the handshake, and may hang up before its word is heard.
        assert!(error.message.contains("certificate") || error.message.contains("TLS handshake"), "{error}");
    }
}

#[tokio::test]
async fn r16_tls_on_one_side_only() {
    let authority = Authority::new();
    let secure = EtcdServer::start_with(Options { tls: Some(authority.server(None)), ..Options::default() }).await;
    let plain = EtcdServer::start().await;

    let error = refusal(&format!("etcd://{}", secure.endpoint()), &secure.endpoint()).await;
    assert!(error.message.contains("etcds://"), "{error}");
    let error = refusal(&url(&format!("etcds://{}", plain.endpoint()), &authority.certificate(), None), &plain.endpoint()).await;
    assert!(error.message.contains("TLS handshake") && error.message.contains("etcd://"), "{error}");
}

#[tokio::test]
async fn r15_files_that_cannot_be_used_are_found_at_once() {
    let authority = Authority::new();
    let (missing, empty) = (authority.certificate().with_file_name("missing.pem"), authority.file("empty.pem", ""));
    let broken = authority.file("broken.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    for (ca, expected) in [(missing, "No such file"), (empty, "has no CERTIFICATE"), (broken, "that can be used")] {
        let error = EtcdAddress::parse(&url("etcds://h", &ca, None)).unwrap_err();
        assert_eq!(error.code(), "INVALID_OPTIONS");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let (ours, others) = (authority.issue("ours"), authority.issue("others"));
    let mixed = Identity { certificate: ours.certificate, key: others.key };
    let error = EtcdAddress::parse(&url("etcds://h", &authority.certificate(), Some(&mixed))).unwrap_err();
    assert_eq!(error.code(), "INVALID_OPTIONS", "{error}");
}

#[tokio::test]
async fn servers_of_two_clusters_are_not_mixed() {
    let mut servers = [EtcdServer::start().await, EtcdServer::start().await];
    let endpoints = open(&format!("etcd://{},{}", servers[0].endpoint(), servers[1].endpoint()));
    let used = endpoints.best(CONNECT_TIMEOUT).await.unwrap().name();
    servers.sort_by_key(|server| server.endpoint() != used);
    servers[0].kill();
    let error = put(&endpoints, CONNECT_TIMEOUT).await.unwrap_err();
    assert!(error.message.contains(&servers[1].endpoint()) && error.message.contains("another cluster"), "{error}");
    assert_eq!(servers[1].revision().await, 1, "nothing was written there");
}

#[tokio::test]
async fn a_version_with_known_faults_is_warned_of() {
    let (current, old) = (EtcdServer::start().await, EtcdServer::start_with(Version::Old).await);
    let endpoints = open(&current.url());
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    assert_eq!(endpoints.warnings(), Vec::<String>::new());

    let endpoints = open(&old.url());
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    let warnings = endpoints.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains(&old.endpoint()) && warnings[0].contains("3.4."), "{warnings:?}");
}
