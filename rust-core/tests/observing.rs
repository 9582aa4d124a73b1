//! What a client shows of itself: figures, events, metrics, health.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use dlock::backend::Whom;
use dlock::clock::ManualClock;
use dlock::observe::{Event, Kind, Kinds};
use dlock::{Client, ClientOptions, HealthStatus};

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

fn on_manual_clock() -> (Client, ManualClock) {
    let clock = ManualClock::new();
    let client = Client::with_clock("memory:", ClientOptions::default(), Arc::new(clock.clone())).unwrap();
    (client, clock)
}

fn listen(client: &Client, kinds: impl Into<Kinds>) -> Receiver<Event> {
    let (told, heard) = channel();
    client.on(kinds, move |event| told.send(event.clone()).unwrap());
    heard
}

fn next(heard: &Receiver<Event>) -> Event {
    heard.recv_timeout(PATIENCE).unwrap()
}

/// Lets the engine work until `test` holds.
async fn eventually(mut test: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !test() {
        assert!(std::time::Instant::now() < deadline, "it never came true");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn the_events_of_a_lease_tell_its_life_in_order() {
    let (client, clock) = on_manual_clock();
    let heard = listen(&client, Kinds::ALL);
    let lease = client.lock("k").ttl(30 * SECOND).acquire().await.unwrap();
    clock.advance(10 * SECOND);
    eventually(|| client.stats().renewed == 1).await;
    clock.advance(2 * SECOND);
    lease.release().await.unwrap();

    let acquired = next(&heard);
    assert_eq!((acquired.kind, &*acquired.key, acquired.token), (Kind::Acquired, "k", Some(lease.token())));
    assert_eq!((acquired.owner, acquired.waited), (Some(lease.owner_id()), Some(Duration::ZERO)));
    let renewed = next(&heard);
    assert_eq!((renewed.kind, renewed.token, renewed.held), (Kind::Renewed, acquired.token, Some(10 * SECOND)));
    let released = next(&heard);
    assert_eq!((released.kind, released.held, released.reason.as_deref()), (Kind::Released, Some(12 * SECOND), Some("released")));
}

#[tokio::test]
async fn an_observer_may_ask_its_client() {
    let client = Client::new("memory:").unwrap();
    let (told, heard) = channel();
    let asked = client.clone();
    client.on([Kind::Acquired], move |event| {
        let held = (asked.stats().held, asked.lock(&event.key).options().ttl, asked.metrics().ends_with("# EOF\n"));
        told.send(held).unwrap();
    });
    let _lease = client.lock("k").acquire().await.unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), (1, 30 * SECOND, true));
}

#[tokio::test]
async fn failures_and_losses_are_told_with_their_reason() {
    let (client, clock) = on_manual_clock();
    let heard = listen(&client, [Kind::AcquireFailed, Kind::Lost]);
    let lease = client.lock("k").acquire().await.unwrap();
    assert!(client.lock("k").try_acquire().await.unwrap().is_none());
    let busy = next(&heard);
    assert_eq!((busy.kind, busy.token, busy.reason.as_deref()), (Kind::AcquireFailed, None, Some("LOCK_BUSY")));

    let waiting = tokio::spawn({
        let lock = client.lock("k");
        async move { lock.acquire().await }
    });
    eventually(|| client.stats().waiting == 1).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    assert_eq!(next(&heard).reason.as_deref(), Some("CANCELLED"));

    assert!(client.force_release("k", Whom::Token(lease.token())).await.unwrap());
    clock.advance(10 * SECOND);
    let lost = next(&heard);
    assert_eq!((lost.kind, lost.token, lost.reason.as_deref()), (Kind::Lost, Some(lease.token()), Some("gone")));
    assert_eq!(lost.held, Some(10 * SECOND));
}

#[tokio::test]
async fn an_observer_that_panics_is_called_again_and_harms_nothing() {
    let client = Client::new("memory:").unwrap();
    let (told, heard) = channel();
    client.on(Kind::Acquired, move |event| {
        told.send(event.token).unwrap();
        panic!("an observer's own fault");
    });
    for _ in 0..3 {
        let lease = client.lock("k").acquire().await.unwrap();
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), Some(lease.token()));
        assert!(lease.release().await.unwrap());
    }
}

#[tokio::test]
async fn an_observer_that_blocks_delays_neither_locks_nor_other_observers() {
    let client = Client::new("memory:").unwrap();
    let (go_on, blocked) = channel::<()>();
    let stuck = client.on(Kinds::ALL, move |_| _ = blocked.recv());
    let heard = listen(&client, Kind::Released);
    for _ in 0..100 {
        assert!(client.lock("k").acquire().await.unwrap().release().await.unwrap());
        next(&heard);
    }
    stuck.end();
    drop(go_on);
}

#[tokio::test]
async fn an_observer_that_has_left_hears_nothing_more() {
    let client = Client::new("memory:").unwrap();
    let (told, heard) = channel();
    let subscription = client.on(Kind::Acquired, move |event| told.send(event.token).unwrap());
    let _first = client.lock("a").acquire().await.unwrap();
    heard.recv_timeout(PATIENCE).unwrap();
    subscription.end();
    let others = listen(&client, Kind::Acquired);
    let _second = client.lock("b").acquire().await.unwrap();
    next(&others);
    assert!(heard.try_recv().is_err());
}

#[tokio::test]
async fn what_happened_before_close_is_told_after_it() {
    let client = Client::new("memory:").unwrap();
    let heard = listen(&client, Kind::Lost);
    let _lease = client.lock("k").acquire().await.unwrap();
    client.close(Duration::ZERO).await.unwrap();
    assert_eq!(next(&heard).reason.as_deref(), Some("closed"));
}

#[tokio::test]
async fn stats_count_what_happened() {
    let (client, clock) = on_manual_clock();
    assert_eq!(client.stats().acquired, 0, "of a client that was never used");
    let lock = client.lock("k").ttl(30 * SECOND);
    let lease = lock.acquire().await.unwrap();
    let _unrenewed = client.lock("short").ttl(3 * SECOND).renew(false).acquire().await.unwrap();
    assert!(lock.try_acquire().await.unwrap().is_none());
    let stats = client.stats();
    assert_eq!((stats.held, stats.acquired, stats.waiting, stats.scheduled), (2, 2, 0, 2));
    clock.advance(3 * SECOND);
    eventually(|| client.stats().lost["expired"] == 1).await;
    clock.advance(8 * SECOND);
    eventually(|| client.stats().renewed == 1).await;
    lease.extend(20 * SECOND).await.unwrap();
    lease.release().await.unwrap();

    let stats = client.stats();
    assert_eq!((stats.held, stats.released, stats.renewed, stats.renewal_failures), (0, 1, 2, 0));
    assert_eq!((stats.acquire_failures["LOCK_BUSY"], stats.acquire_failures["ACQUIRE_TIMEOUT"]), (1, 0));
    assert_eq!(stats.renewal_lag.count, 1, "an extension is no renewal that was due");
    assert_eq!(stats.renewal_lag.longest, SECOND);
    let calls = |operation| stats.backend_calls[operation];
    assert_eq!((calls("acquire").calls, calls("renew").calls, calls("release").calls), (3, 2, 1));
    assert_eq!((calls("acquire").errors, calls("ping").calls), (0, 0));
}

#[tokio::test]
async fn a_healthy_client_has_made_a_round_trip() {
    let client = Client::new("memory:").unwrap();
    let _lease = client.lock("k").acquire().await.unwrap();
    let health = client.health().await.unwrap();
    assert_eq!((health.status, health.held, health.at_risk), (HealthStatus::Ok, 1, 0));
    assert!(health.round_trip.is_some() && health.reasons.is_empty() && health.warnings.is_empty());
    assert_eq!(client.stats().backend_calls["ping"].calls, 1);
    client.close(Duration::ZERO).await.unwrap();
    let health = client.health().await.unwrap();
    assert_eq!((health.status, &*health.reasons[0]), (HealthStatus::Down, "the client is closed"));
}

#[tokio::test]
async fn a_client_without_a_server_is_down_and_its_leases_count() {
    // Nobody listens on port 1.
    let client = Client::new("redis://user:secret@127.0.0.1:1").unwrap();
    let health = client.health().await.unwrap();
    assert_eq!((health.status, health.round_trip), (HealthStatus::Down, None));
    assert_eq!(health.reasons.len(), 1);
    assert!(!format!("{health:?}").contains("secret"));
    assert_eq!(client.stats().backend_calls["ping"].errors, 1);
}
