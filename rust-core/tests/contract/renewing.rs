//! What keeps a lease, and what no longer does.

use std::time::Duration;

use dlock::backend::{Acquire, Renew, Renewed};

use crate::fixture::{Fixture, TTL, granted, renewal, request};

pub(crate) async fn renewals_are_answered_one_for_one(fixture: &Fixture) {
    let (client, other) = (fixture.client(), fixture.client());
    let (a, _) = client.take("a").await;
    let (c, _) = client.take("c").await;
    let stranger = other.owner();
    let batch = vec![renewal("a", a, TTL), renewal("b", a, TTL), renewal("c", stranger, TTL), renewal("c", c, TTL)];
    let answers = client.renew(batch).await;
    assert!(matches!(answers[0], Renewed::Extended(ttl) if ttl + Duration::from_secs(1) > TTL), "{answers:?}");
    assert_eq!(answers[1..3], [Renewed::Gone, Renewed::Gone]);
    assert!(matches!(answers[3], Renewed::Extended(_)));
    assert_eq!(client.inspect("b").await.holder, None, "a missing key is never set again");
}

pub(crate) async fn only_an_exact_renewal_shortens(fixture: &Fixture) {
    let client = fixture.client();
    let (owner, _) = client.take("k").await;
    let short = Duration::from_secs(3);
    assert!(matches!(client.renew(vec![renewal("k", owner, short)]).await[0], Renewed::Extended(left) if left >= short));
    assert!(client.remaining("k").await > short);
    let exact = Renew { exact: true, ..renewal("k", owner, short) };
    assert!(matches!(client.renew(vec![exact]).await[0], Renewed::Extended(left) if left <= short));
    assert!(client.remaining("k").await <= short);
}

pub(crate) async fn r06_a_released_lease_cannot_be_renewed(fixture: &Fixture) {
    let client = fixture.client();
    let (owner, _) = client.take("k").await;
    client.release("k", owner).await;
    assert_eq!(client.renew(vec![renewal("k", owner, TTL)]).await, [Renewed::Gone]);
    client.take("k").await;
}

pub(crate) async fn a_lease_that_is_not_renewed_ends(fixture: &Fixture) {
    let (client, mut other) = (fixture.client(), fixture.client());
    if client.can().crash_release {
        // Its locks end with the process, not with a TTL: the engine releases what it no longer vouches for.
        return;
    }
    let owner = client.owner();
    granted(client.ask(&Acquire { ttl: client.can().ttl_floor, ..request("k", owner) }).await);
    let waiting = other.wait("k").await;
    other.granted_in_time("k", waiting).await;
    assert_eq!(client.renew(vec![renewal("k", owner, TTL)]).await, [Renewed::Gone]);
}
