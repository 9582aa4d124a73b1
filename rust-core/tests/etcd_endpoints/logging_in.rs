//! Users, passwords and the tokens they are changed for.

use std::time::Duration;

use dlock::error::Failure;
use etcd_client::Client;
use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep};

use crate::support::certificates::{Authority, url};
use crate::support::etcd::{EtcdServer, Options, Version};
use crate::{CONNECT_TIMEOUT, OP_TIMEOUT, connect, open, put};

const PASSWORD: &str = "pass:w@rd/+% 1";
const ENCODED: &str = "pass:w%40rd/+%25%201";

fn with_login(server: &EtcdServer, login: &str) -> String {
    server.url().replace("://", &format!("://{login}@"))
}

#[tokio::test]
async fn r16_a_wrong_password_is_reported_as_such() {
    reported_as_such(Version::Current).await;
    reported_as_such(Version::Old).await;
}

async fn reported_as_such(version: Version) {
    let mut server = EtcdServer::start_with(version).await;
    server.require_password(PASSWORD).await;
    connect(&with_login(&server, &format!("root:{ENCODED}"))).await.unwrap();

    for login in ["root:wrong-secret", "nobody:wrong-secret"] {
        let error = connect(&with_login(&server, login)).await.unwrap_err();
        assert_eq!(error.failure, Failure::Refused);
        assert!(
            error.message.contains(&server.endpoint())
                && error.message.contains("the server does not know this user with this password"),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("wrong-secret"), "r18: {error:?}");
    }
    let error = connect(&server.url()).await.unwrap_err();
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.message.contains("wants a user and a password"), "{error}");
}

#[tokio::test]
async fn a_login_that_nobody_asks_for_does_no_harm() {
    let mut server = EtcdServer::start().await;
    let endpoints = open(&with_login(&server, &format!("root:{ENCODED}")));
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    // And when somebody does later, it is used.
    server.require_password(PASSWORD).await;
    put(&endpoints, OP_TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_token_that_ran_out_is_replaced() {
    is_replaced(Version::Current).await;
    is_replaced(Version::Old).await;
}

async fn is_replaced(version: Version) {
    let arguments = ["--auth-token", "simple", "--auth-token-ttl", "1"].map(str::to_owned).to_vec();
    let mut server = EtcdServer::start_with(Options { version, arguments, ..Options::default() }).await;
    server.require_password(PASSWORD).await;
    let endpoints = open(&with_login(&server, &format!("root:{ENCODED}")));
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    let mut client = endpoints.best(OP_TIMEOUT).await.unwrap().client;
    let deadline = Instant::now() + Duration::from_secs(20);
    // Each use gives a token another second: so it is used rarely.
    while client.get("key", None).await.is_ok() {
        assert!(Instant::now() < deadline, "the token never runs out");
        sleep(Duration::from_secs(2)).await;
    }
    let calls = try_join_all((0..64).map(|_| put(&endpoints, OP_TIMEOUT))).await.unwrap();
    assert!(calls.iter().all(|answer| !answer.may_run_again), "what a token is refused for was not executed");
}

#[tokio::test]
async fn tokens_that_a_restart_forgot_are_replaced() {
    for version in [Version::Current, Version::Old] {
        let mut server = EtcdServer::start_with(version).await;
        server.require_password(PASSWORD).await;
        let endpoints = open(&with_login(&server, &format!("root:{ENCODED}")));
        put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
        server.restart().await;
        put(&endpoints, OP_TIMEOUT).await.unwrap();
    }
}

#[tokio::test]
async fn a_password_that_changed_is_reported_as_wrong() {
    let mut server = EtcdServer::start().await;
    server.require_password(PASSWORD).await;
    let endpoints = open(&with_login(&server, &format!("root:{ENCODED}")));
    put(&endpoints, CONNECT_TIMEOUT).await.unwrap();
    let change = |mut client: Client| async move { client.user_change_password("root", "another").await };
    endpoints.run(OP_TIMEOUT, change).await.unwrap();
    let error = put(&endpoints, OP_TIMEOUT).await.unwrap_err();
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.message.contains("the server does not know this user with this password"), "{error}");
}

#[tokio::test]
async fn a_password_goes_through_tls() {
    let authority = Authority::new();
    let mut server = EtcdServer::start_with(Options { tls: Some(authority.server(None)), ..Options::default() }).await;
    server.require_password(PASSWORD).await;
    let server = with_login(&server, &format!("root:{ENCODED}"));
    connect(&url(&server, &authority.certificate(), None)).await.unwrap();
}
