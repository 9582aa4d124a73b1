//! How a key becomes free, and who gets it next.

use dlock::backend::{Acquire, Outcome, Renewed, Whom};

use crate::fixture::{Fixture, TTL, granted, renewal, request, waiting};

pub(crate) async fn r05_only_the_holder_releases(fixture: &Fixture) {
    let (client, other) = (fixture.client(), fixture.client());
    assert_eq!(client.release("k", client.owner()).await, Outcome::NotHeld);
    let (owner, grant) = client.take("k").await;
    assert_eq!(other.release("k", other.owner()).await, Outcome::NotHeld);
    assert_eq!(client.release("k", client.owner()).await, Outcome::NotHeld);
    assert_eq!(client.inspect("k").await.holder.unwrap().token, Some(grant.token));
    assert_eq!(client.release("k", owner).await, Outcome::Released);
    assert_eq!(client.release("k", owner).await, Outcome::NotHeld);
}

pub(crate) async fn a_release_grants_the_next_where_nobody_waits(fixture: &Fixture) {
    let client = fixture.client();
    let (owner, first) = client.take("k").await;
    let next = Acquire { enqueue: true, ..request("k", client.owner()) };
    let handover = client.hand_over("k", owner, Some(next.clone())).await;
    assert_eq!(handover.outcome, Outcome::Released);
    assert!(granted(handover.next.expect("an answer to next")).token > first.token);
    assert_eq!(client.inspect("k").await.holder.unwrap().owner, next.owner.to_string());
}

pub(crate) async fn a_release_lets_those_who_wait_elsewhere_have_a_turn(fixture: &Fixture) {
    let (mut client, mut other) = (fixture.client(), fixture.client());
    let (owner, _) = client.take("k").await;
    let elsewhere = other.wait("k").await;
    let next = Acquire { enqueue: true, ..request("k", client.owner()) };
    let answer = client.hand_over("k", owner, Some(next.clone())).await.next.expect("an answer to next");
    if client.can().fair {
        waiting(answer);
        other.granted_in_time("k", elsewhere).await;
        other.release("k", elsewhere).await;
        client.granted_in_time("k", next.owner).await;
    } else {
        // In whatever order: both get it.
        client.granted_in_time("k", next.owner).await;
        client.release("k", next.owner).await;
        other.granted_in_time("k", elsewhere).await;
    }
}

pub(crate) async fn a_forced_release_hits_the_named_holder_alone(fixture: &Fixture) {
    let (client, other) = (fixture.client(), fixture.client());
    assert!(!other.force("k", Whom::Token(1)).await);
    let (owner, grant) = client.take("k").await;
    assert!(!other.force("k", Whom::Token(grant.token + 1)).await);
    assert!(!other.force("k", Whom::Owner("nobody".into())).await);
    assert!(other.force("k", Whom::Token(grant.token)).await);
    let (successor, next) = other.take("k").await;
    assert!(next.token > grant.token);
    assert_eq!(client.renew(vec![renewal("k", owner, TTL)]).await, [Renewed::Gone]);
    assert_eq!(client.release("k", owner).await, Outcome::NotHeld);
    assert_eq!(other.inspect("k").await.holder.unwrap().token, Some(next.token), "the loser's release left it alone");
    assert!(client.force("k", Whom::Owner(successor.to_string())).await);
    assert_eq!(client.inspect("k").await.holder, None);
}

pub(crate) async fn r14_a_closed_backend_fails_and_its_waiters_are_gone(fixture: &Fixture) {
    let (client, other) = (fixture.client(), fixture.client());
    let (owner, _) = client.take("k").await;
    let _waits = other.wait("k").await;
    other.backend.close().await;
    assert!(other.backend.acquire(request("k2", other.owner())).await.is_err());
    assert_eq!(client.release("k", owner).await, Outcome::Released);
}
