//! A client that is closed and opened again, and one whose first operation settles where its locks are.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dlock::observe::Kind;
use dlock::{ChosenBy, Client, ClientOptions, Error, HealthStatus, LossReason, Status, Variables};

const SECOND: Duration = Duration::from_secs(1);

async fn eventually(mut test: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + 10 * SECOND;
    while !test().await {
        assert!(std::time::Instant::now() < deadline, "it never came true");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn code<T>(result: Result<T, Error>) -> &'static str {
    result.err().map_or("", |error| error.code())
}

#[tokio::test]
async fn r14_a_closed_client_works_again_once_it_is_reopened() {
    let client = Client::new("memory:").unwrap();
    let lock = client.lock("k");
    let lease = lock.acquire().await.unwrap();
    client.reopen().unwrap();
    assert!(lease.is_valid(), "an open client is left alone");
    for _ in 0..3 {
        client.close(Duration::ZERO).await.unwrap();
        assert_eq!(code(lock.acquire().await), "CLIENT_CLOSED");
        assert_eq!(code(client.ping().await), "CLIENT_CLOSED");
        client.reopen().unwrap();
        client.reopen().unwrap();
        let next = lock.acquire().await.unwrap();
        assert!(next.token() > lease.token() && next.is_valid());
        assert_eq!(client.health().await.unwrap().status, HealthStatus::Ok);
    }
    assert_eq!(lease.status(), Status::Lost(LossReason::Closed));
    assert!(!lease.release().await.unwrap(), "what was lost stays lost");
}

#[tokio::test]
async fn r14_a_client_that_was_closed_before_its_first_use_can_be_reopened() {
    let client = Client::new("redis://127.0.0.1:1").unwrap();
    client.close(SECOND).await.unwrap();
    assert_eq!(code(client.lock("k").acquire().await), "CLIENT_CLOSED");
    let health = client.health().await.unwrap();
    assert_eq!((health.status, &*health.reasons[0]), (HealthStatus::Down, "the client is closed"));
    client.reopen().unwrap();
    let options = ClientOptions { connect_timeout: Duration::from_millis(50), ..ClientOptions::default() };
    let elsewhere = Client::with_options("redis://127.0.0.1:1", options).unwrap();
    elsewhere.close(SECOND).await.unwrap();
    elsewhere.reopen().unwrap();
    assert_eq!(code(elsewhere.ping().await), "BACKEND_UNAVAILABLE");
}

#[tokio::test]
async fn r14_reopening_does_not_wait_for_a_close_that_drains_nor_undo_it() {
    let client = Client::new("memory:").unwrap();
    let lease = client.lock("k").acquire().await.unwrap();
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close(30 * SECOND).await }
    });
    eventually(async || client.health().await.unwrap().status == HealthStatus::Down).await;
    client.reopen().unwrap();
    let other = client.lock("other").acquire().await.unwrap();
    assert!(lease.is_valid() && !closing.is_finished());
    assert!(client.lock("k").try_acquire().await.unwrap().is_none(), "it is still held");
    assert!(lease.release().await.unwrap());
    closing.await.unwrap().unwrap();
    let next = client.lock("k").try_acquire().await.unwrap().expect("it is free");
    assert!(next.token() > lease.token() && other.is_valid(), "the new session is not the one that was closed");
}

#[tokio::test]
async fn r14_observers_and_counts_go_on_when_a_client_is_reopened() {
    let client = Client::new("memory:").unwrap();
    let (told, heard) = std::sync::mpsc::channel();
    let subscription = client.on(Kind::Acquired, move |event| told.send(event.key.to_string()).unwrap());
    for key in ["a", "b"] {
        client.lock(key).acquire().await.unwrap().release().await.unwrap();
        assert_eq!(heard.recv_timeout(10 * SECOND).unwrap(), key);
        client.close(Duration::ZERO).await.unwrap();
        client.reopen().unwrap();
    }
    assert_eq!((client.stats().acquired, client.stats().released, client.stats().held), (2, 2, 0));
    assert!(!subscription.is_over());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r01_nobody_is_inside_twice_while_a_client_is_closed_and_reopened() {
    let client = Client::new("memory:").unwrap();
    let (inside, entered, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (lock, inside, entered, over) = (client.lock("k"), inside.clone(), entered.clone(), over.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    match lock.acquire().await {
                        Ok(lease) => {
                            // A lease that was taken away meanwhile says so before anybody else is in.
                            if lease.is_valid() {
                                entered.fetch_add(1, Ordering::SeqCst);
                                let others = inside.fetch_add(1, Ordering::SeqCst);
                                let valid = lease.is_valid();
                                inside.fetch_sub(1, Ordering::SeqCst);
                                assert!(others == 0 || !valid, "two at once");
                            }
                            lease.release().await.unwrap();
                        }
                        Err(Error::ClientClosed { .. }) => tokio::task::yield_now().await,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for cycle in 1..=60 {
        client.close(30 * SECOND).await.unwrap();
        client.reopen().unwrap();
        eventually(async || entered.load(Ordering::SeqCst) >= cycle).await;
    }
    over.store(true, Ordering::SeqCst);
    for worker in workers {
        worker.await.unwrap();
    }
    client.lock("k").acquire().await.unwrap();
}

/// What an environment says.
fn said(url: &str, require_url: &str) -> Variables {
    Variables { url: Some(url.to_owned()), require_url: Some(require_url.to_owned()) }
}

#[tokio::test]
async fn the_first_operation_settles_where_the_locks_of_a_program_are() {
    let client = Client::of_program(Some(said("memory:first", ""))).unwrap();
    let lock = client.lock("k").ttl(Duration::from_millis(500));
    lock.validate().unwrap();
    assert_eq!((client.chosen_by(), &*client.server()), (ChosenBy::Variable, "memory:first"));
    client.configure(Some("etcd://127.0.0.1:1"), None, ClientOptions::default()).unwrap();
    let refused = lock.acquire().await.unwrap_err();
    assert!(matches!(&refused, Error::InvalidOptions { field, .. } if field == "ttl"), "checked once more: {refused}");
    client.configure(Some("memory:second"), None, ClientOptions::default()).unwrap();
    let lease = lock.acquire().await.unwrap();
    assert!(Client::new("memory:second").unwrap().is_locked("k").await.unwrap(), "the lock follows");
    assert_eq!((client.stats().chosen_by, &*client.stats().server), (ChosenBy::Argument, "memory:second"));
    assert_eq!(client.health().await.unwrap().chosen_by, ChosenBy::Argument);
    let late = client.configure(Some("memory:third"), None, ClientOptions::default());
    assert_eq!(code(late), "ALREADY_CONFIGURED");
    assert!(lease.is_valid());
}

#[tokio::test]
async fn r15_a_program_that_requires_a_url_is_refused_at_its_first_operation_and_not_before() {
    let client = Client::of_program(Some(said("", "1"))).unwrap();
    let lock = client.lock("k");
    let refused = lock.acquire().await.unwrap_err().to_string();
    assert!(refused.contains("DLOCK_URL") && refused.contains("DLOCK_REQUIRE_URL"), "{refused}");
    assert_eq!(code(client.ping().await), "INVALID_OPTIONS");
    let none = client.configure(None, Some(said("", "")), ClientOptions { require_url: true, ..ClientOptions::default() });
    assert_eq!(code(none), "INVALID_OPTIONS");
    client.close(Duration::ZERO).await.unwrap();
    client.reopen().unwrap();
    client.configure(Some("memory:"), None, ClientOptions { require_url: true, ..ClientOptions::default() }).unwrap();
    lock.acquire().await.unwrap();
}

#[tokio::test]
async fn a_reset_makes_a_programs_client_what_it_was_at_first() {
    let client = Client::of_program(Some(said("memory:before", ""))).unwrap();
    let lock = client.lock("k");
    let subscription = client.on(Kind::Acquired, |_| ());
    let lease = lock.acquire().await.unwrap();
    client.reset(Some(said("memory:after", ""))).await.unwrap();
    assert_eq!(lease.status(), Status::Lost(LossReason::Closed));
    assert!(!Client::new("memory:before").unwrap().is_locked("k").await.unwrap());
    assert!(subscription.is_over());
    assert_eq!((client.stats().acquired, client.stats().held), (0, 0));
    let next = lock.acquire().await.unwrap();
    assert!(Client::new("memory:after").unwrap().is_locked("k").await.unwrap() && next.is_valid());
    client.reset(None).await.unwrap();
    client.configure(Some("memory:configured"), None, ClientOptions::default()).unwrap();
    lock.acquire().await.unwrap();
    assert_eq!(client.stats().acquired, 1);
}
