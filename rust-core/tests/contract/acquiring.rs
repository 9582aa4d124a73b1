//! Who is granted a key, and with which token.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dlock::backend::{Acquire, Outcome};
use dlock::error::Failure;
use dlock::fencing::{MAX_TOKEN, Token};
use futures_util::FutureExt;

use crate::fixture::{Fixture, TTL, granted, request, waiting};

pub(crate) async fn r07_a_free_key_is_granted_with_a_greater_token(fixture: &Fixture) {
    let client = fixture.client();
    let mut last: Token = 0;
    for _ in 0..20 {
        let (owner, grant) = client.take("k").await;
        assert!(grant.token > last, "{} after {last}", grant.token);
        assert_eq!(grant.ttl, TTL);
        last = grant.token;
        assert_eq!(client.release("k", owner).await, Outcome::Released);
    }
}

pub(crate) async fn r07_a_token_is_greater_than_the_floor(fixture: &Fixture) {
    let client = fixture.client();
    let (owner, grant) = client.take("k").await;
    client.release("k", owner).await;
    let floor = grant.token + 3_600_000_000;
    let raised = client.backend.acquire(Acquire { floor, ..request("k", client.owner()) }).await;
    if client.can().counts_tokens {
        assert_eq!(raised.unwrap_err().failure, Failure::Refused);
        assert_eq!(client.inspect("k").await.holder, None, "nothing remains");
        return;
    }
    let above = granted(raised.unwrap());
    assert!(above.token > floor);
}

pub(crate) async fn r07_a_floor_that_is_no_token_is_none(fixture: &Fixture) {
    let client = fixture.client();
    let mut last: Token = 0;
    for floor in [MAX_TOKEN + 1, (1 << 53) + 1, i64::MAX.unsigned_abs(), u64::MAX] {
        let owner = client.owner();
        let grant = granted(client.ask(&Acquire { floor, ..request("k", owner) }).await);
        assert!(last < grant.token && grant.token < MAX_TOKEN / 2, "{grant:?} after {last}");
        last = grant.token;
        client.release("k", owner).await;
    }
    let highest = client.backend.acquire(Acquire { floor: MAX_TOKEN, ..request("k", client.owner()) }).await;
    assert_eq!(highest.unwrap_err().failure, Failure::Refused, "nothing rises above it");
    assert_eq!(client.inspect("k").await.holder, None, "nothing remains");
}

pub(crate) async fn r04_the_same_owner_is_confirmed(fixture: &Fixture) {
    let client = fixture.client();
    let owner = client.owner();
    let short = Duration::from_secs(2);
    let first = granted(client.ask(&Acquire { ttl: short, ..request("k", owner) }).await);
    assert!(client.remaining("k").await <= short);
    let again = granted(client.ask(&request("k", owner)).await);
    assert_eq!((again.token, again.ttl), (first.token, TTL));
    assert!(client.remaining("k").await > short, "the full TTL from now");
    assert_eq!(client.release("k", owner).await, Outcome::Released);
    assert_eq!(client.inspect("k").await.holder, None, "confirmed twice, released once");
}

/// It may be the lease's own first request, repeated and late.
pub(crate) async fn r04_a_confirmation_does_not_shorten(fixture: &Fixture) {
    let client = fixture.client();
    if client.can().late_window.is_zero() {
        // A request that was given up is not executed any more.
        return;
    }
    let (owner, first) = client.take("k").await;
    let short = Duration::from_secs(2);
    let again = granted(client.ask(&Acquire { ttl: short, ..request("k", owner) }).await);
    assert_eq!(again.token, first.token);
    assert!(client.remaining("k").await > short, "it had more");
}

pub(crate) async fn r04_a_dropped_request_can_be_released(fixture: &Fixture) {
    let client = fixture.client();
    client.take("warm").await;
    for _ in 0..20 {
        let owner = client.owner();
        let _ = client.backend.acquire(request("k", owner)).now_or_never();
        client.leave("k", owner).await;
        let (owner, _) = client.take("k").await;
        client.release("k", owner).await;
    }
}

pub(crate) async fn a_failed_try_names_the_holder_and_leaves_nothing(fixture: &Fixture) {
    let (holder, other) = (fixture.client(), fixture.client());
    let (owner, grant) = holder.take("k").await;
    let seen = waiting(other.ask(&request("k", other.owner())).await);
    let seen = seen.holder.expect("the holder is known");
    assert_eq!((seen.owner, seen.token), (owner.to_string(), Some(grant.token)));
    assert!(holder.inspect("k").await.queue.is_empty());
    holder.release("k", owner).await;
    holder.take("k").await;
}

pub(crate) async fn keys_and_namespaces_are_apart(fixture: &Fixture) {
    let (client, elsewhere) = (fixture.client(), fixture.client_in("elsewhere"));
    let longest = "é".repeat(256);
    let keys = ["k", "K", "k ", "k/1", "k:1", "{k}", "..", "%6b", &longest, &"x".repeat(512), &"x".repeat(511)];
    let mut owners = Vec::new();
    for key in keys {
        owners.push(client.take(key).await.0);
        elsewhere.take(key).await;
    }
    for (key, owner) in keys.iter().zip(owners) {
        waiting(client.ask(&request(key, client.owner())).await);
        assert_eq!(client.release(key, owner).await, Outcome::Released);
    }
}

pub(crate) async fn one_key_is_never_held_twice(fixture: &Fixture) {
    let inside = Arc::new(AtomicU64::new(0));
    let last = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let mut client = fixture.client();
        let (inside, last) = (Arc::clone(&inside), Arc::clone(&last));
        tasks.push(async move {
            for _ in 0..25 {
                let owner = client.owner();
                let grant = client.granted_in_time("k", owner).await;
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two holders at once");
                assert!(last.swap(grant.token, Ordering::SeqCst) < grant.token, "a token went back");
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                assert_eq!(client.release("k", owner).await, Outcome::Released);
            }
        });
    }
    for done in futures_util::future::join_all(tasks.into_iter().map(tokio::spawn)).await {
        done.unwrap();
    }
}
