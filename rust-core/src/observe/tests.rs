//! Events and figures, without a backend.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::error::LossReason;
use crate::owner::{OwnerId, SessionId};

fn subject(key: &Arc<str>, token: u64) -> Subject<'_> {
    let owner = OwnerId { session: SessionId::from_u128(1), sequence: token };
    Subject { key, token, owner, held: Duration::from_secs(2) }
}

#[test]
fn nothing_is_made_for_nobody() {
    let observer = Arc::new(Observer::default());
    observer.report(Kind::Lost, || panic!("an event was made though nobody listens"));
    let subscription = observer.subscribe(Kind::Acquired.into(), || {});
    observer.report(Kind::Lost, || panic!("an event was made that nobody listens to"));
    subscription.set_kinds(Kind::Lost.into());
    observer.lost(subject(&"k".into(), 7), LossReason::Gone);
    assert_eq!(subscription.take().len(), 1);
    subscription.end();
    observer.report(Kind::Lost, || panic!("an event was made for one who has left"));
}

#[test]
fn events_come_in_order_and_wake_once() {
    let observer = Arc::new(Observer::default());
    let woken = Arc::new(AtomicUsize::new(0));
    let wakes = woken.clone();
    let subscription = observer.subscribe(Kinds::ALL, move || _ = wakes.fetch_add(1, Ordering::Relaxed));
    let key: Arc<str> = "k".into();
    observer.acquired(subject(&key, 7), Duration::from_millis(3));
    observer.renewed(subject(&key, 7), None);
    observer.deliver();
    observer.released(subject(&key, 7), "released");
    observer.deliver();
    assert_eq!(woken.load(Ordering::Relaxed), 1, "woken again before it took anything");
    let events = subscription.take();
    assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), [Kind::Acquired, Kind::Renewed, Kind::Released]);
    assert_eq!((events[0].waited, events[0].held), (Some(Duration::from_millis(3)), None));
    assert_eq!((events[2].token, events[2].reason.as_deref()), (Some(7), Some("released")));
    observer.acquire_failed(&key, "LOCK_BUSY", Duration::ZERO);
    observer.deliver();
    assert_eq!(woken.load(Ordering::Relaxed), 2);
}

#[test]
fn r17_a_subscriber_who_takes_nothing_costs_a_bounded_queue() {
    let observer = Arc::new(Observer::default());
    let idle = observer.subscribe(Kind::Lost.into(), || {});
    let other = observer.subscribe(Kind::Lost.into(), || {});
    for token in 0..QUEUE as u64 + 5 {
        observer.lost(subject(&"k".into(), token), LossReason::Expired);
        assert_eq!(other.take().len(), 1, "held up by a slow one");
    }
    let stats = observer.stats(Gauges::default());
    assert_eq!((stats.dropped_events, stats.queued_events), (5, stats.event_capacity));
    assert_eq!(stats.lost["expired"], QUEUE as u64 + 5);
    let first = idle.take();
    assert_eq!((first.len(), first[0].token), (QUEUE, Some(0)));
}

#[test]
fn r17_a_batch_keeps_its_order_and_not_the_room_that_a_rush_took() {
    let observer = Arc::new(Observer::default());
    let subscription = observer.subscribe(Kind::Lost.into(), || {});
    let lose = |tokens: std::ops::Range<u64>| tokens.for_each(|token| observer.lost(subject(&"k".into(), token), LossReason::Gone));
    let mut batch = VecDeque::new();
    lose(0..3);
    subscription.take_into(&mut batch);
    assert_eq!(batch.pop_front().and_then(|event| event.token), Some(0));
    lose(3..5);
    subscription.take_into(&mut batch);
    assert_eq!(batch.drain(..).filter_map(|event| event.token).collect::<Vec<_>>(), [1, 2, 3, 4]);
    lose(0..QUEUE as u64);
    subscription.take_into(&mut batch);
    assert_eq!(batch.len(), QUEUE);
    for _ in 0..2 {
        batch.clear();
        lose(0..1);
        subscription.take_into(&mut batch);
        assert!(batch.len() == 1 && batch.capacity() < QUEUE / 2, "keeps room for {}", batch.capacity());
    }
}

#[test]
fn subscribers_hear_that_their_client_is_gone() {
    let observer = Arc::new(Observer::default());
    let woken = Arc::new(AtomicUsize::new(0));
    let wakes = woken.clone();
    let subscription = observer.subscribe(Kinds::ALL, move || _ = wakes.fetch_add(1, Ordering::Relaxed));
    assert!(!subscription.is_over());
    drop(observer);
    assert!(subscription.is_over() && woken.load(Ordering::Relaxed) == 1);
}

#[test]
fn r15_unknown_events_are_refused_by_name() {
    assert!(Kind::ALL.iter().all(|kind| Kind::parse(kind.as_str()).is_ok_and(|parsed| parsed == *kind)));
    let error = Kind::parse("aquired").unwrap_err();
    assert!(error.to_string().contains("aquired") && error.to_string().contains("renewal_failed"), "{error}");
}

#[test]
fn every_reason_and_code_has_a_place_of_its_own() {
    for reason in [LossReason::Expired, LossReason::Gone, LossReason::MaxHold, LossReason::MaxStall, LossReason::Closed] {
        assert!(figures::LOSSES[..figures::LOSSES.len() - 1].contains(&reason.as_str()));
    }
    let observer = Observer::default();
    observer.acquire_failed(&"k".into(), "SOMETHING_NEW", Duration::ZERO);
    assert_eq!(observer.stats(Gauges::default()).acquire_failures["OTHER"], 1);
}

#[test]
fn r19_the_text_shows_no_key() {
    let observer = Arc::new(Observer::default());
    let key: Arc<str> = "secret-key".into();
    observer.acquired(subject(&key, 7), Duration::from_millis(3));
    observer.lost(subject(&key, 7), LossReason::MaxHold);
    observer.figures.called(Operation::Acquire, Duration::from_micros(300), None);
    let text = observer.metrics(Gauges { held: 3, ..Gauges::default() });
    assert!(!text.contains("secret-key"), "{text}");
    for line in [
        "# TYPE dlock_leases_held gauge",
        "dlock_leases_held 3",
        "dlock_leases_acquired_total 1",
        "dlock_leases_lost_total{reason=\"max_hold\"} 1",
        "dlock_leases_lost_total{reason=\"gone\"} 0",
        "dlock_wait_seconds_bucket{le=\"0.005\"} 1",
        "dlock_wait_seconds_bucket{le=\"+Inf\"} 1",
        "dlock_hold_seconds_sum 2.0",
        "dlock_backend_call_seconds_count{operation=\"acquire\",outcome=\"ok\"} 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
}
