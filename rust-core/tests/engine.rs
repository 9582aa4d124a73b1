//! The engine on `memory:`: waiting, handing over, losing and cleaning up.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dlock::backend::Whom;
use dlock::clock::ManualClock;
use dlock::{Client, ClientOptions, Error, LossReason, Status};

const SECOND: Duration = Duration::from_secs(1);

fn client() -> Client {
    Client::new("memory:").unwrap()
}

/// A client on a clock of the test's own.
fn on_manual_clock() -> (Client, ManualClock) {
    let clock = ManualClock::new();
    let client = Client::with_clock("memory:", ClientOptions::default(), Arc::new(clock.clone())).unwrap();
    (client, clock)
}

/// Polls until `test` holds; fails after five seconds.
async fn eventually(mut test: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + 5 * SECOND;
    while !test().await {
        assert!(std::time::Instant::now() < deadline, "it never came true");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn clients_on_different_servers_do_not_know_each_other() {
    let folder = std::env::temp_dir().join(format!("dlock-apart-{}", std::process::id()));
    let urls = ["memory:".to_owned(), "memory:".to_owned(), "memory:apart".to_owned(), format!("local://{}", folder.display())];
    let clients: Vec<_> = urls.iter().map(|url| Client::new(url).unwrap()).collect();
    let mut leases = Vec::new();
    for client in &clients {
        leases.push(client.lock("k").try_acquire().await.unwrap().expect("nobody else is there"));
    }
    leases[0].release().await.unwrap();
    assert!(!clients[0].is_locked("k").await.unwrap() && clients[1].is_locked("k").await.unwrap());
    clients[1].close(Duration::ZERO).await.unwrap();
    assert!(leases[2].is_valid() && leases[3].is_valid() && clients[1].stats().held == 0 && clients[2].stats().held == 1);
    clients[3].close(Duration::ZERO).await.unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_lease_is_valid_until_it_is_released() {
    let lock = client().lock("k");
    let lease = lock.acquire().await.unwrap();
    assert!(lease.is_valid());
    assert!(lock.is_locked().await.unwrap());
    assert!(lease.release().await.unwrap());
    assert_eq!(lease.status(), Status::Released);
    assert!(!lease.is_valid());
    assert!(!lock.is_locked().await.unwrap());
    assert!(matches!(lease.check(), Err(Error::NotHeld { .. })));
}

#[tokio::test]
async fn callers_who_wait_elsewhere_are_told_once() {
    let lock = client().lock("k");
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..3 {
        let told = told.clone();
        lock.acquire_then(None, move |lease| told.send((number, lease.unwrap())).unwrap()).unwrap();
    }
    for expected in 0..3 {
        let (number, lease) = heard.recv().await.unwrap();
        assert_eq!(number, expected, "in the order of the calls");
        let (done, status) = tokio::sync::oneshot::channel();
        lease.release_then(move |status| done.send(status).unwrap()).unwrap();
        assert!(!lease.is_valid(), "at once");
        assert_eq!(status.await.unwrap(), Status::Released);
        let (done, again) = tokio::sync::oneshot::channel();
        lease.release_then(move |status| done.send(status).unwrap()).unwrap();
        assert_eq!(again.await.unwrap(), Status::Released, "of a lease that has ended");
    }
    drop(told);
    assert!(heard.recv().await.is_none());
}

#[tokio::test]
async fn r05_whoever_is_told_of_a_lease_may_have_its_last_handle() {
    let (told, heard) = tokio::sync::oneshot::channel();
    let last = move |lease: dlock::Result<dlock::Lease>| told.send(lease.unwrap().is_last_handle()).unwrap();
    let client = client();
    let held = client.lock("k").acquire().await.unwrap();
    client.lock("k").acquire_then(None, last).unwrap();
    held.release().await.unwrap();
    assert!(heard.await.unwrap(), "its lock is gone, and so is what it remembered");
}

#[tokio::test]
async fn r16_a_call_that_panics_is_told_as_an_error() {
    let (told, heard) = tokio::sync::oneshot::channel();
    let call = dlock::call(async { if true { panic!("on purpose") } else { Ok(()) } }, move |answer| told.send(answer).unwrap());
    call.unwrap();
    let error = heard.await.unwrap().unwrap_err();
    assert_eq!(error.code(), "BACKEND_UNAVAILABLE");
    assert!(error.to_string().contains("panicked"), "{error}");
}

#[tokio::test]
async fn r10_an_aborted_call_is_not_told_and_leaves_nothing() {
    let client = client();
    let lock = client.lock("k");
    let held = lock.acquire().await.unwrap();
    let (told, heard) = tokio::sync::oneshot::channel();
    let call = lock.acquire_then(None, move |lease| drop(told.send(lease))).unwrap();
    call.abort();
    assert!(heard.await.is_err(), "dropped unheard");
    held.release().await.unwrap();
    eventually(async || !lock.is_locked().await.unwrap()).await;
}

#[tokio::test]
async fn r07_tokens_rise() {
    let lock = client().lock("k");
    let mut last = 0;
    for _ in 0..100 {
        let lease = lock.acquire().await.unwrap();
        assert!(lease.token() > last);
        last = lease.token();
        lease.release().await.unwrap();
    }
}

#[tokio::test]
async fn r09_tasks_of_one_process_are_served_in_order_and_never_together() {
    let (done, served) = tokio::sync::oneshot::channel();
    // On the engine itself a first poll is enough to stand in line.
    let served_in_order = async move {
        let client = client();
        let first = client.lock("k").acquire().await.unwrap();
        let (inside, order) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for number in 0..20 {
            let lock = client.lock("k");
            let (inside, order) = (&inside, &order);
            let mut body = Box::pin(async move {
                let lease = lock.acquire().await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                order.lock().unwrap().push(number);
                inside.fetch_sub(1, Ordering::SeqCst);
                lease.release().await.unwrap();
            });
            assert!(futures_util::poll!(&mut body).is_pending());
            waiting.push(body);
        }
        first.release().await.unwrap();
        futures_util::future::join_all(waiting).await;
        Ok(order.into_inner().unwrap())
    };
    dlock::call(served_in_order, move |order| done.send(order.unwrap()).unwrap()).unwrap();
    assert_eq!(served.await.unwrap(), (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn r08_two_sessions_exclude_each_other_and_hand_over_by_push() {
    let (one, two) = (Client::new("memory:pair").unwrap(), Client::new("memory:pair").unwrap());
    let held = one.lock("k").acquire().await.unwrap();
    let waiting = tokio::spawn({
        let lock = two.lock("k");
        async move { lock.acquire().await.unwrap() }
    });
    eventually(async || !one.inspect("k").await.unwrap().queue.is_empty()).await;
    let started = std::time::Instant::now();
    held.release().await.unwrap();
    let got = waiting.await.unwrap();
    assert!(got.token() > held.token());
    assert!(started.elapsed() < SECOND / 2, "no polling");
    got.release().await.unwrap();
}

#[tokio::test]
async fn a_try_names_the_holder_and_leaves_nothing() {
    let (one, two) = (Client::new("memory:try").unwrap(), Client::new("memory:try").unwrap());
    let held = one.lock("k").metadata("night job").acquire().await.unwrap();
    assert!(two.lock("k").try_acquire().await.unwrap().is_none());
    let error = two.lock("k").wait(Duration::ZERO).acquire().await.unwrap_err();
    let Error::LockBusy { holder: Some(holder), .. } = error else { panic!("{error}") };
    assert_eq!(holder.token, Some(held.token()));
    assert_eq!(holder.note.unwrap().metadata.as_deref(), Some("night job"));
    assert!(one.inspect("k").await.unwrap().queue.is_empty());
}

#[tokio::test]
async fn a_wait_that_is_over_leaves_the_queue() {
    let (one, two) = (Client::new("memory:late").unwrap(), Client::new("memory:late").unwrap());
    let held = one.lock("k").acquire().await.unwrap();
    let error = two.lock("k").wait(Duration::from_millis(30)).acquire().await.unwrap_err();
    assert!(matches!(error, Error::AcquireTimeout { holder: Some(_), .. }), "{error}");
    eventually(async || one.inspect("k").await.unwrap().queue.is_empty()).await;
    held.release().await.unwrap();
    assert!(!one.is_locked("k").await.unwrap());
}

#[tokio::test]
async fn r01_a_lease_ends_by_the_clock_without_renewal() {
    let (client, clock) = on_manual_clock();
    let lease = client.lock("k").renew(false).ttl(10 * SECOND).acquire().await.unwrap();
    clock.advance(9 * SECOND);
    assert!(lease.is_valid());
    clock.advance(SECOND);
    assert!(!lease.is_valid(), "a clock read needs nobody's help");
    assert_eq!(lease.lost().await, LossReason::Expired);
    assert!(matches!(lease.check(), Err(Error::LockLost { .. })));
    assert!(!lease.release().await.unwrap());
}

#[tokio::test]
async fn r01_whoever_releases_late_is_told_of_the_loss_and_the_key_is_freed() {
    let (client, clock) = on_manual_clock();
    let lock = client.lock("k").renew(false).ttl(10 * SECOND).max_hold(5 * SECOND);
    // Release and engine race for who notices: both must come to the same.
    for _ in 0..50 {
        let lease = lock.acquire().await.unwrap();
        clock.advance(5 * SECOND);
        assert!(!lease.release().await.unwrap());
        assert_eq!(lease.status(), Status::Lost(LossReason::MaxHold));
        assert!(matches!(lease.check(), Err(Error::LockLost { .. })));
    }
    eventually(async || !client.is_locked("k").await.unwrap()).await;
}

#[tokio::test]
async fn it_is_renewed_for_as_long_as_it_is_held() {
    let (client, clock) = on_manual_clock();
    let lease = client.lock("k").ttl(9 * SECOND).acquire().await.unwrap();
    for _ in 0..10 {
        clock.advance(3 * SECOND);
        eventually(async || lease.remaining() > 8 * SECOND).await;
    }
    assert!(lease.release().await.unwrap());
}

#[tokio::test]
async fn r12_max_hold_ends_a_hung_holder_and_frees_the_key() {
    let (client, clock) = on_manual_clock();
    let lease = client.lock("k").ttl(9 * SECOND).max_hold(5 * SECOND).acquire().await.unwrap();
    clock.advance(5 * SECOND);
    assert_eq!(lease.lost().await, LossReason::MaxHold);
    eventually(async || !client.is_locked("k").await.unwrap()).await;
}

#[tokio::test]
async fn a_forced_release_is_noticed_at_the_next_renewal() {
    let (client, clock) = on_manual_clock();
    let lease = client.lock("k").ttl(9 * SECOND).acquire().await.unwrap();
    assert!(!client.force_release("k", Whom::Token(1)).await.unwrap());
    assert!(client.force_release("k", Whom::Token(lease.token())).await.unwrap());
    clock.advance(3 * SECOND);
    assert_eq!(lease.lost().await, LossReason::Gone);
}

#[tokio::test]
async fn extend_sets_the_life_from_now_both_ways() {
    let (client, _clock) = on_manual_clock();
    let lease = client.lock("k").ttl(30 * SECOND).acquire().await.unwrap();
    lease.extend(60 * SECOND).await.unwrap();
    assert!(lease.remaining() > 59 * SECOND);
    lease.extend(5 * SECOND).await.unwrap();
    assert!(lease.remaining() < 5 * SECOND);
    assert_eq!(client.inspect("k").await.unwrap().holder.unwrap().remaining, Some(5 * SECOND));
    lease.release().await.unwrap();
    assert!(matches!(lease.extend(5 * SECOND).await, Err(Error::NotHeld { operation: "extend", .. })));
}

#[tokio::test]
async fn r02_the_body_is_dropped_when_the_lease_is_lost() {
    let (client, clock) = on_manual_clock();
    let lock = client.lock("k").renew(false).ttl(SECOND);
    let body = tokio::spawn(async move { lock.with(|_| std::future::pending::<()>()).await });
    eventually(async || client.is_locked("k").await.unwrap()).await;
    clock.advance(2 * SECOND);
    assert!(matches!(body.await.unwrap(), Err(Error::LockLost { reason: LossReason::Expired, .. })));
}

#[tokio::test]
async fn a_callback_for_the_loss_may_set_another_one() {
    let (client, clock) = on_manual_clock();
    let lease = client.lock("k").renew(false).ttl(SECOND).acquire().await.unwrap();
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    let again = lease.clone();
    lease.on_lost(move |_| again.on_lost(move |reason| sender.send(reason).unwrap()));
    clock.advance(2 * SECOND);
    let told = tokio::time::timeout(5 * SECOND, told.recv()).await.expect("no deadlock");
    assert_eq!(told, Some(LossReason::Expired));
}

#[tokio::test]
async fn r11_a_callback_that_panics_ends_no_renewal() {
    let (client, clock) = on_manual_clock();
    let other = client.lock("other").ttl(9 * SECOND).acquire().await.unwrap();
    let lease = client.lock("k").renew(false).ttl(SECOND).acquire().await.unwrap();
    lease.on_lost(|_| panic!("a fault of the caller's"));
    clock.advance(SECOND);
    lease.lost().await;
    for _ in 0..4 {
        clock.advance(3 * SECOND);
        eventually(async || other.remaining() > 8 * SECOND).await;
    }
}

#[tokio::test]
async fn r05_a_lease_that_was_dropped_is_released() {
    let client = client();
    drop(client.lock("k").acquire().await.unwrap());
    eventually(async || !client.is_locked("k").await.unwrap()).await;
}

#[tokio::test]
async fn a_lease_whose_result_was_discarded_stays_held_through_its_lock() {
    let client = client();
    let lock = client.lock("k");
    let _ = lock.acquire().await.unwrap();
    assert!(client.is_locked("k").await.unwrap());
    assert_eq!(lock.forgotten().len(), 1);
    assert!(lock.release().await.unwrap());
    assert!(matches!(lock.release().await, Err(Error::NotHeld { .. })));
}

#[tokio::test]
async fn r10_cancelled_attempts_leave_nothing() {
    let (one, two) = (Client::new("memory:cancel").unwrap(), Client::new("memory:cancel").unwrap());
    for micros in 0..300 {
        let held = one.lock("k").acquire().await.unwrap();
        let lock = two.lock("k");
        let waiters = (0..3).map(|_| tokio::time::timeout(Duration::from_micros(micros), lock.acquire()));
        let all = futures_util::future::join_all(waiters);
        let (_, waiters) = futures_util::join!(held.release(), all);
        for lease in waiters.into_iter().filter_map(Result::ok) {
            lease.unwrap().release().await.unwrap();
        }
    }
    eventually(async || {
        let left = one.inspect("k").await.unwrap();
        left.holder.is_none() && left.queue.is_empty()
    })
    .await;
}

#[tokio::test]
async fn r14_close_keeps_renewing_while_it_drains_then_takes_what_is_left() {
    let (client, clock) = on_manual_clock();
    let lock = client.lock("k").ttl(9 * SECOND);
    let lease = lock.acquire().await.unwrap();
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close(20 * SECOND).await }
    });
    eventually(async || {
        // By a task that holds nothing.
        let lock = lock.clone();
        matches!(tokio::spawn(async move { lock.try_acquire().await }).await.unwrap(), Err(Error::ClientClosed { .. }))
    })
    .await;
    for _ in 0..6 {
        clock.advance(3 * SECOND);
        eventually(async || lease.remaining() > 8 * SECOND).await;
    }
    clock.advance(3 * SECOND);
    assert_eq!(lease.lost().await, LossReason::Closed);
    closing.await.unwrap().unwrap();
}

#[tokio::test]
async fn r15_bad_input_fails_before_anything_happens() {
    let client = client();
    for lock in [client.lock(""), client.lock("k").ttl(Duration::from_millis(1)), client.lock("k").wait(100_000 * SECOND)] {
        assert!(matches!(lock.acquire().await, Err(Error::InvalidOptions { .. })));
    }
    for url in ["nonsense", "ftp://host", "memory:x?y=1"] {
        assert!(matches!(Client::new(url), Err(Error::InvalidOptions { .. })), "{url}");
    }
    let error = Client::new("mysql://me:secret@host").unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn r15_a_url_that_cannot_be_used_is_told_with_the_reason() {
    let refused = |url| match Client::new(url) {
        Err(Error::InvalidOptions { field, value, allowed }) if field == "url" => (value, allowed),
        other => panic!("{url}: {other:?}"),
    };
    assert_eq!(refused("").0, "\"\"");
    for url in ["redis://h:99999", "redis://h:abc", "redis://:secret@h:0", "redis://h:-1"] {
        let (value, allowed) = refused(url);
        assert!(allowed.contains("a port from 1 to 65535") && !value.contains("secret"), "{value}: {allowed}");
    }
    let (value, allowed) = refused("rediss://:secret@h:6380/0?password=secret");
    assert_eq!(value, "rediss://h:6380/0");
    assert!(allowed.contains("there is no parameter \"password\""), "{allowed}");
}

/// Whoever starts or looks up the engine waits until the fork is over.
#[test]
fn r13_no_engine_is_started_while_the_process_forks() {
    let (done, started) = std::sync::mpsc::channel();
    dlock::fork::before_fork();
    let other = std::thread::spawn(move || {
        let spawned = dlock::call(async { Ok(()) }, drop);
        done.send(spawned.is_ok()).unwrap();
    });
    assert!(started.recv_timeout(Duration::from_millis(200)).is_err(), "a child would inherit an engine that is half there");
    dlock::fork::after_fork_in_parent();
    assert!(started.recv_timeout(5 * SECOND).unwrap());
    other.join().unwrap();
}

#[tokio::test]
async fn r05_a_release_that_ends_may_release_another_lease() {
    let client = client();
    let inner = client.lock("inner").acquire().await.unwrap();
    let outer = client.lock("outer").acquire().await.unwrap();
    // Dropped with the record of `outer`, on the engine's thread, when the release has ended.
    outer.on_lost(move |_| drop(inner));
    drop(outer);
    for key in ["outer", "inner"] {
        eventually(async || !client.is_locked(key).await.unwrap()).await;
    }
}

#[tokio::test]
async fn a_lease_that_is_dropped_is_no_obstacle_for_its_own_program() {
    let client = client();
    for _ in 0..100 {
        drop(client.lock("dropped").acquire().await.unwrap());
        let next = client.lock("dropped").try_acquire().await.unwrap();
        assert!(next.expect("free").release().await.unwrap());
    }
}
