//! Waiters in the backend's queue, on `memory:`, whose server a test can act on directly.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use dlock::backend::{Acquire, Acquired, Backend, Context, Whom, memory};
use dlock::clock::ManualClock;
use dlock::owner::{OwnerId, SessionId};
use dlock::{Client, ClientOptions};
use url::Url;

const SECOND: Duration = Duration::from_secs(1);

/// A backend without a client, which can ask in the name of any owner.
fn backend_of_nobody(url: &str, clock: &ManualClock) -> Arc<dyn Backend> {
    let context = Context {
        session: SessionId::from_u128(7),
        clock: Arc::new(clock.clone()),
        namespace: ClientOptions::default().namespace.as_str().into(),
        connect_timeout: SECOND,
        op_timeout: SECOND,
        on_hint: Arc::new(|_| {}),
    };
    memory::open(&Url::parse(url).unwrap(), context).unwrap()
}

fn request(owner: OwnerId) -> Acquire {
    Acquire {
        key: "k".into(),
        owner,
        ttl: 30 * SECOND,
        fair: true,
        enqueue: true,
        note: "{}".into(),
        renew: true,
        floor: 0,
        timeout: SECOND,
    }
}

/// The server has taken the key from this session, and its next waiter is of this session too. Until the next renewal the session believes
/// that it holds the key; the claim is over long before that.
#[tokio::test]
async fn r09_a_waiter_is_served_though_its_own_session_seems_to_hold_the_key() {
    let (url, clock) = ("memory:queue", ManualClock::new());
    let open = || Client::with_clock(url, ClientOptions::default(), Arc::new(clock.clone())).unwrap();
    let (server, client, other) = (backend_of_nobody(url, &clock), open(), open());
    let first = other.lock("k").acquire().await.unwrap();
    let waiter = tokio::spawn({
        let lock = client.lock("k");
        async move { lock.acquire().await }
    });
    let queue = async || other.inspect("k").await.unwrap().queue;
    let queued = async {
        while queue().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(5 * SECOND, queued).await.expect("it is queued");
    let waiting: OwnerId = queue().await[0].parse().unwrap();
    // The waiter leaves the queue while a try of the same session gets the key, and comes back after that.
    server.leave("k".into(), waiting, SECOND).await.unwrap();
    first.release().await.unwrap();
    let held = client.lock("k").try_acquire().await.unwrap().unwrap();
    assert!(matches!(server.acquire(request(waiting)).await.unwrap(), Acquired::Waiting(_)));
    assert!(other.force_release("k", Whom::Token(held.token())).await.unwrap());
    let taken = tokio::time::timeout(5 * SECOND, waiter).await.expect("it is served without a renewal").unwrap().unwrap();
    assert_eq!(taken.owner_id(), waiting);
    assert!(taken.token() > held.token());
}
