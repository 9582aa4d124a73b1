//! What the options of a lock and a client do, on `memory:` and on a server that is slow to answer.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use dlock::clock::{Clock, ManualClock};
use dlock::{Client, ClientOptions, Error, Lock, LossReason, Retry, Status};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// A client on a clock of the test's own.
fn on_manual_clock() -> (Client, ManualClock) {
    let clock = ManualClock::new();
    let client = Client::with_clock("memory:", ClientOptions::default(), Arc::new(clock.clone())).unwrap();
    (client, clock)
}

fn retrying(client: &Client, max_retries: u32) -> Lock {
    client.lock("k").retry(Retry { max_retries, delay: 10 * MILLI, ..Retry::default() })
}

/// Polls until `test` holds; fails after five seconds.
async fn eventually(mut test: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + 5 * SECOND;
    while !test().await {
        assert!(std::time::Instant::now() < deadline, "it never came true");
        tokio::time::sleep(2 * MILLI).await;
    }
}

#[tokio::test]
async fn retries_end_when_they_are_used_up() {
    let client = Client::new("memory:").unwrap();
    let held = client.lock("k").acquire().await.unwrap();
    for max_retries in [0, 2] {
        match retrying(&client, max_retries).acquire().await {
            Err(Error::RetriesExhausted { attempts, holder, key }) => {
                assert_eq!((attempts, &*key), (max_retries + 1, "k"));
                assert_eq!(holder.unwrap().token, Some(held.token()));
            }
            other => panic!("{other:?}"),
        }
    }
    held.release().await.unwrap();
    assert!(retrying(&client, 0).acquire().await.unwrap().is_valid(), "a single try takes what is free");
}

#[tokio::test]
async fn a_later_attempt_gets_the_key() {
    let client = Client::new("memory:").unwrap();
    let held = client.lock("k").acquire().await.unwrap();
    let lock = retrying(&client, 1_000_000);
    let later = tokio::spawn(async move { lock.acquire().await });
    held.release().await.unwrap();
    assert!(later.await.unwrap().unwrap().token() > held.token());
}

#[tokio::test]
async fn wait_bounds_the_retries_and_zero_tries_once() {
    let client = Client::new("memory:").unwrap();
    let _held = client.lock("k").acquire().await.unwrap();
    let lock = retrying(&client, 1_000_000);
    assert_eq!(lock.acquire_within(Some(50 * MILLI)).await.unwrap_err().code(), "ACQUIRE_TIMEOUT");
    assert_eq!(lock.acquire_within(Some(Duration::ZERO)).await.unwrap_err().code(), "LOCK_BUSY");
    assert!(lock.try_acquire().await.unwrap().is_none());
}

#[tokio::test]
async fn r10_dropped_retries_leave_nothing() {
    let client = Client::new("memory:").unwrap();
    let held = client.lock("k").acquire().await.unwrap();
    let lock = retrying(&client, 1_000_000);
    assert!(tokio::time::timeout(30 * MILLI, lock.acquire()).await.is_err());
    held.release().await.unwrap();
    eventually(async || !lock.is_locked().await.unwrap()).await;
    assert!(client.inspect("k").await.unwrap().queue.is_empty());
}

#[tokio::test]
async fn r12_a_holder_that_gives_no_sign_of_life_loses_its_lease() {
    let (client, clock) = on_manual_clock();
    let lease = client.lock("k").max_stall(2 * SECOND).acquire().await.unwrap();
    for _ in 0..3 {
        clock.advance(1500 * MILLI);
        assert!(lease.heartbeat());
    }
    assert!(lease.is_valid());
    clock.advance(2 * SECOND);
    assert!(!lease.is_valid(), "by the clock alone");
    assert_eq!(lease.lost().await, LossReason::MaxStall);
    assert!(!lease.heartbeat());
    eventually(async || !client.is_locked("k").await.unwrap()).await;
}

#[tokio::test]
async fn r12_a_body_that_blocks_its_task_loses_its_lease_and_one_that_waits_does_not() {
    let client = Client::new("memory:").unwrap();
    let lock = client.lock("k").max_stall(200 * MILLI);
    let waits = lock.with(|lease| async move {
        tokio::time::sleep(600 * MILLI).await;
        lease.is_valid()
    });
    assert!(waits.await.unwrap());
    let seen = Arc::new(std::sync::Mutex::new(None));
    let blocks = lock.with(|lease| {
        let seen = seen.clone();
        async move {
            std::thread::sleep(400 * MILLI);
            *seen.lock().unwrap() = Some(lease.status());
            tokio::task::yield_now().await;
        }
    });
    assert!(matches!(blocks.await, Err(Error::LockLost { reason: LossReason::MaxStall, .. })));
    assert_eq!(*seen.lock().unwrap(), Some(Status::Lost(LossReason::MaxStall)));
}

#[tokio::test]
async fn a_task_enters_a_reentrant_lock_again_and_the_last_release_frees() {
    let client = Client::new("memory:").unwrap();
    let lock = client.lock("k").reentrant(true);
    let outer = lock.acquire().await.unwrap();
    let inner = lock.acquire().await.unwrap();
    assert_eq!(outer.token(), inner.token());
    assert!(lock.with(|lease| async move { lease.is_valid() }).await.unwrap());
    assert!(inner.release().await.unwrap());
    assert!(outer.is_valid() && client.is_locked("k").await.unwrap());
    assert!(outer.release().await.unwrap());
    assert_eq!(outer.status(), Status::Released);
    assert!(!client.is_locked("k").await.unwrap());
    let next = lock.acquire().await.unwrap();
    assert!(next.token() > outer.token(), "what was released is not entered again");
}

#[tokio::test]
async fn only_the_same_task_and_the_same_instance_enter_again() {
    let client = Client::new("memory:").unwrap();
    let lock = client.lock("k").reentrant(true);
    let held = lock.acquire().await.unwrap();
    assert!(lock.try_acquire().await.unwrap().is_some());
    assert!(client.lock("k").reentrant(true).try_acquire().await.unwrap().is_none(), "another instance");
    assert!(client.lock("k").try_acquire().await.unwrap().is_none(), "one that is not reentrant");
    let clone = lock.clone();
    assert!(tokio::spawn(async move { clone.try_acquire().await.unwrap() }).await.unwrap().is_none(), "another task");
    drop(held);
}

#[tokio::test]
async fn r02_a_loss_ends_a_lease_however_often_it_was_entered() {
    let (client, clock) = on_manual_clock();
    let lock = client.lock("k").reentrant(true).renew(false).ttl(SECOND);
    let outer = lock.acquire().await.unwrap();
    let inner = lock.acquire().await.unwrap();
    clock.advance(2 * SECOND);
    assert!(!inner.release().await.unwrap());
    assert!(matches!(outer.status(), Status::Lost(LossReason::Expired)));
    let next = lock.acquire().await.unwrap();
    assert!(next.token() > outer.token());
    assert!(!outer.release().await.unwrap());
    assert!(next.is_valid(), "the late release of a lost lease frees nothing of its successor's");
    assert!(clock.now() > dlock::clock::Instant::from_nanos(0));
}

#[test]
fn r15_outside_of_tokio_a_reentrant_lock_cannot_know_who_acquires() {
    let client = Client::new("memory:").unwrap();
    let lock = client.lock("k").reentrant(true);
    let refused = futures_util::future::FutureExt::now_or_never(lock.acquire()).unwrap().unwrap_err();
    assert_eq!(refused.code(), "INVALID_OPTIONS");
}

#[test]
fn r18_a_url_that_is_refused_shows_no_password() {
    for url in [
        "http://me:secret@h",
        "redis://me:secret/more@h",
        "redis://me:12345678?secret@h",
        "redis://me:0/secret@h",
        "redis://me:12?secret@h",
        "redis+sentinel://me:12?secret@h/service",
        "redis+sentinel:me:secret@h/service",
        "redis+unix://:secret@/s?db=x",
        "etcd://me:12?secret@h",
        "etcd:me:secret@h",
        "memory://me:secret@h",
        "memory:name?secret",
        "local://me:secret@h",
    ] {
        let error = Client::new(url).unwrap_err();
        assert_eq!(error.code(), "INVALID_OPTIONS", "{url}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn r02_a_grant_that_ran_out_before_its_delivery_is_released_and_reported_as_lost() {
    let (client, clock) = on_manual_clock();
    let (lock, lost) = (client.lock("k").renew(false).ttl(10 * SECOND), client.subscribe(dlock::observe::Kind::Lost, || {}));
    let lease = lock.acquire().await.unwrap();
    lease.claim().unwrap();
    clock.advance(10 * SECOND);
    assert!(matches!(lease.claim(), Err(Error::LockLost { reason: LossReason::Expired, .. })));
    assert_eq!((lost.take().len(), client.stats().lost["expired"]), (1, 1));
    assert!(lease.claim().is_err());
    eventually(async || lock.try_acquire().await.unwrap().is_some()).await;
}

#[tokio::test]
async fn heartbeats_are_sent_several_times_within_max_stall() {
    let client = Client::new("memory:").unwrap();
    let lease = client.lock("k").max_stall(2 * SECOND).acquire().await.unwrap();
    assert_eq!(lease.heartbeat_every(), Some(500 * MILLI));
    assert_eq!(client.lock("other").acquire().await.unwrap().heartbeat_every(), None);
}

#[tokio::test]
async fn r15_options_that_are_changed_after_an_acquire_are_checked_anew() {
    let client = Client::new("memory:").unwrap();
    let lock = client.lock("k").renewal_threshold(0.5);
    lock.acquire().await.unwrap().release().await.unwrap();
    assert!(matches!(lock.clone().ttl(MILLI).acquire().await, Err(Error::InvalidOptions { field, .. }) if field == "ttl"));
    let too_long = Some(48 * 3600 * SECOND);
    assert!(matches!(lock.acquire_within(too_long).await, Err(Error::InvalidOptions { field, .. }) if field == "wait"));
    lock.acquire().await.unwrap();
    assert!((lock.options().renewal_threshold - 0.5).abs() < f64::EPSILON);
}
