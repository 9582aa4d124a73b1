//! Who waits, who is woken, and whose turn it is.

use dlock::backend::{Acquire, Outcome, Whom};

use crate::fixture::{Fixture, request, waiting};

pub(crate) async fn r08_a_waiter_is_hinted_when_the_key_is_released(fixture: &Fixture) {
    let (holder, mut waiter) = (fixture.client(), fixture.client());
    let (owner, first) = holder.take("k").await;
    let waiting = waiter.wait("k").await;
    assert_eq!(holder.release("k", owner).await, Outcome::Released);
    waiter.hinted("k").await;
    let second = waiter.granted_in_time("k", waiting).await;
    assert!(second.token > first.token);
    assert_eq!(waiter.release("k", waiting).await, Outcome::Released);
}

pub(crate) async fn r08_a_waiter_of_the_same_session_is_hinted_too(fixture: &Fixture) {
    let mut client = fixture.client();
    let (owner, _) = client.take("k").await;
    let waiting = client.wait("k").await;
    client.release("k", owner).await;
    client.hinted("k").await;
    client.granted_in_time("k", waiting).await;
}

pub(crate) async fn r08_a_waiter_is_hinted_when_the_key_is_forced_free(fixture: &Fixture) {
    let (client, mut waiter) = (fixture.client(), fixture.client());
    let (_, grant) = client.take("k").await;
    let waiting = waiter.wait("k").await;
    assert!(client.force("k", Whom::Token(grant.token)).await);
    assert!(waiter.granted_in_time("k", waiting).await.token > grant.token);
}

pub(crate) async fn r09_the_longest_waiting_goes_first(fixture: &Fixture) {
    let (holder, mut first, mut second) = (fixture.client(), fixture.client(), fixture.client());
    if !holder.can().fair {
        return;
    }
    let (owner, _) = holder.take("k").await;
    let (one, two) = (first.wait("k").await, second.wait("k").await);
    // Asking again keeps the place.
    waiting(first.ask(&Acquire { enqueue: true, ..request("k", one) }).await);
    let queue = holder.inspect("k").await.queue;
    assert_eq!(queue, [one.to_string(), two.to_string()]);
    holder.release("k", owner).await;
    waiting(holder.ask(&request("k", holder.owner())).await);
    waiting(second.ask(&Acquire { enqueue: true, ..request("k", two) }).await);
    first.granted_in_time("k", one).await;
    first.release("k", one).await;
    second.granted_in_time("k", two).await;
}

pub(crate) async fn a_leave_withdraws_a_waiter_or_releases_a_grant(fixture: &Fixture) {
    let (client, other, mut third) = (fixture.client(), fixture.client(), fixture.client());
    client.leave("k", client.owner()).await;
    let (owner, _) = client.take("k").await;
    let left = other.wait("k").await;
    let stays = third.wait("k").await;
    other.leave("k", left).await;
    other.leave("k", left).await;
    client.leave("k", owner).await;
    third.granted_in_time("k", stays).await;
    third.release("k", stays).await;
    client.take("k").await;
}
