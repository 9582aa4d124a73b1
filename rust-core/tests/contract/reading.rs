//! What an onlooker is shown, without disturbing anybody.

use std::sync::Arc;

use dlock::backend::{Inspection, Outcome};

use crate::fixture::{Fixture, TIMEOUT, TTL};

pub(crate) async fn inspecting_shows_the_holder_and_disturbs_nobody(fixture: &Fixture) {
    let (client, other) = (fixture.client(), fixture.client());
    assert_eq!(client.inspect("k").await, Inspection { key: "k".into(), ..Inspection::default() });
    let (owner, grant) = client.take("k").await;
    let seen = other.inspect("k").await.holder.expect("held");
    assert_eq!((seen.owner, seen.token), (owner.to_string(), Some(grant.token)));
    assert_eq!(seen.note.unwrap().metadata.as_deref(), Some("why | so"));
    assert!(seen.remaining.unwrap() <= TTL);
    client.release("k", owner).await;
    let backend = Arc::clone(&other.backend);
    let probe = tokio::spawn(async move {
        loop {
            backend.inspect("k".into(), TIMEOUT).await.unwrap();
        }
    });
    for _ in 0..200 {
        let (owner, _) = client.take("k").await;
        assert_eq!(client.release("k", owner).await, Outcome::Released);
    }
    probe.abort();
}

pub(crate) async fn listing_shows_held_keys_with_a_prefix(fixture: &Fixture) {
    let (client, elsewhere) = (fixture.client(), fixture.client_in("elsewhere"));
    let long = format!("order:{}", "x".repeat(500));
    for key in ["order:1", "order:2", "Order:3", "other", &long] {
        client.take(key).await;
    }
    elsewhere.take("order:9").await;
    let (released, _) = client.take("order:4").await;
    client.release("order:4", released).await;
    let mut keys: Vec<_> = client.backend.list("order:".into(), TIMEOUT).await.unwrap().into_iter().map(|seen| seen.key).collect();
    keys.sort();
    assert_eq!(keys, ["order:1", "order:2", &long]);
    assert_eq!(client.backend.list("".into(), TIMEOUT).await.unwrap().len(), 5);
}
