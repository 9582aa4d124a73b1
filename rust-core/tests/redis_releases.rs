//! Releases on `redis://` whose answers are lost: the engine repeats them until the backend confirms them.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use dlock::{Client, ClientOptions, Status};
use support::proxy::{Gate, Proxy};
use support::redis::Server;

/// The server executes the first request, and the answer is lost. The second request confirms the release. The clean-up after a release that
/// was given up would free the key as well, but would report an unknown outcome to the holder.
#[tokio::test]
async fn r05_a_release_without_an_answer_is_tried_again_until_it_is_confirmed() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    let options = ClientOptions { op_timeout: Duration::from_millis(300), ..ClientOptions::default() };
    let client = Client::with_options(&format!("redis://127.0.0.1:{}", proxy.port), options).unwrap();
    let lease = client.lock("k").acquire().await.unwrap();
    proxy.answers(Gate::Lost);
    assert!(!lease.release().await.unwrap(), "not confirmed within op_timeout");
    support::eventually("the release has an outcome", || async { lease.status() != Status::Releasing }).await;
    assert_eq!(lease.status(), Status::Released);
    assert!(!client.is_locked("k").await.unwrap());
}

/// A release without a connection is sent on the next one, and its caller gets no error.
#[tokio::test]
async fn r05_a_release_that_finds_its_connection_broken_is_confirmed_all_the_same() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    let client = Client::new(&format!("redis://127.0.0.1:{}", proxy.port)).unwrap();
    let lease = client.lock("k").acquire().await.unwrap();
    proxy.requests(Gate::Closed);
    proxy.answers(Gate::Closed);
    assert!(lease.release().await.unwrap());
    assert_eq!(lease.status(), Status::Released);
}
