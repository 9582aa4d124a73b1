//! What those who stand in one line of a client know together: who holds the key, and how many they are.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use dlock::clock::ManualClock;
use dlock::logs::{self, Record};
use dlock::{Client, ClientOptions, Error, Retry};
use support::etcd::EtcdServer;
use support::redis::Server;
use tracing::level_filters::LevelFilter;

const SECOND: Duration = Duration::from_secs(1);

/// The holder's token as each of five waiters of `client` is told it.
async fn told(client: &Client) -> Vec<Option<u64>> {
    let lock = client.lock("k").wait(SECOND / 2);
    let waiters: Vec<_> = (0..5).map(|_| lock.join(Some(SECOND / 2))).collect();
    let unfair = [client.lock("k").fair(false).join(Some(SECOND / 2))];
    let told = futures_util::future::join_all(
        waiters.into_iter().map(futures_util::FutureExt::boxed).chain(unfair.into_iter().map(futures_util::FutureExt::boxed)),
    );
    let told = told.await.into_iter().map(|told| {
        let error = told.unwrap_err();
        assert!(matches!(error, Error::AcquireTimeout { .. }), "{error}");
        error.holder().and_then(|holder| holder.token)
    });
    told.collect()
}

async fn everybody_knows_the_holder(url: &str) {
    let (holder, other) = (Client::new(url).unwrap(), Client::new(url).unwrap());
    other.ping().await.unwrap();
    let lease = holder.lock("k").acquire().await.unwrap();
    let expected = Some(lease.token());
    assert_eq!(told(&other).await, [expected; 6], "in another client");
    assert_eq!(told(&holder).await, [expected; 6], "in the holder's own");
    let retry = Retry { max_retries: 2, delay: Duration::from_millis(20), backoff: 1.0, jitter: 0.0 };
    for client in [&holder, &other] {
        let busy = client.lock("k").acquire_within(Some(Duration::ZERO)).await.unwrap_err();
        assert!(matches!(busy, Error::LockBusy { .. }), "{busy}");
        let exhausted = client.lock("k").retry(retry).acquire().await.unwrap_err();
        assert!(matches!(exhausted, Error::RetriesExhausted { .. }), "{exhausted}");
        for error in [busy, exhausted] {
            assert_eq!(error.holder().and_then(|holder| holder.token), expected, "{error}");
        }
    }
    lease.release().await.unwrap();
}

#[tokio::test]
async fn r16_everybody_in_the_line_knows_the_holder_memory() {
    everybody_knows_the_holder("memory:known").await;
}

#[tokio::test]
async fn r16_everybody_in_the_line_knows_the_holder_local() {
    let folder = std::env::temp_dir().join(format!("dlock-known-{}", std::process::id()));
    everybody_knows_the_holder(&format!("local://{}", folder.display())).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn r16_everybody_in_the_line_knows_the_holder_redis() {
    let server = Server::start().await;
    everybody_knows_the_holder(&server.url()).await;
}

#[tokio::test]
async fn r16_everybody_in_the_line_knows_the_holder_etcd() {
    let server = EtcdServer::start().await;
    everybody_knows_the_holder(&server.url()).await;
}

/// The holder last seen, also if that was this client itself and the lease has ended since.
#[tokio::test]
async fn r16_who_comes_late_knows_the_holder_that_the_line_has_seen() {
    let (holder, other) = (Client::new("memory:late").unwrap(), Client::new("memory:late").unwrap());
    let first = other.lock("k").acquire().await.unwrap();
    let waiter = tokio::spawn({
        let lock = other.lock("k");
        async move { lock.acquire().await }
    });
    first.release().await.unwrap();
    let second = waiter.await.unwrap().unwrap();
    let queued = tokio::spawn({
        let lock = holder.lock("k");
        async move { lock.acquire().await }
    });
    support::eventually("it is queued", || async { other.inspect("k").await.unwrap().queue.len() == 1 }).await;
    let late = other.lock("k").acquire_within(Some(SECOND / 20)).await.unwrap_err();
    assert_eq!(late.holder().and_then(|holder| holder.token), Some(second.token()), "{late}");
    second.release().await.unwrap();
    queued.await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test]
async fn inspect_counts_the_callers_of_the_client_that_is_asked() {
    let folder = std::env::temp_dir().join(format!("dlock-counted-{}", std::process::id()));
    for url in ["memory:counted".to_owned(), format!("local://{}", folder.display())] {
        let [holder, a, b] = [0; 3].map(|_| Client::new(&url).unwrap());
        let lease = holder.lock("k").acquire().await.unwrap();
        let waiters: Vec<_> = [(&a, 3), (&b, 3), (&holder, 1)]
            .into_iter()
            .flat_map(|(client, number)| (0..number).map(|_| tokio::spawn(client.lock("k").join(None))))
            .collect();
        for (client, number) in [(&a, 3), (&b, 3), (&holder, 1)] {
            support::eventually("all are counted", || async { client.inspect("k").await.unwrap().waiting_here == number }).await;
        }
        if url.starts_with("memory") {
            support::eventually("one place each", || async { holder.inspect("k").await.unwrap().queue.len() == 2 }).await;
        }
        assert_eq!(a.list_locks("").await.unwrap()[0].waiting_here, 3);
        for waiter in waiters {
            waiter.abort();
        }
        support::eventually("nobody waits", || async { a.inspect("k").await.unwrap().waiting_here == 0 }).await;
        lease.release().await.unwrap();
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// What a wait of 31 s is warned with, while the key is held in a way. It begins when so many clients are in the queue.
async fn warned(client: &Client, clock: &ManualClock, queue: usize) -> Record {
    let lock = client.lock("k");
    let waiter = tokio::spawn(async move { lock.acquire().await });
    support::eventually("it waits", || async {
        let found = client.inspect("k").await.unwrap();
        found.waiting_here == 1 && found.queue.len() >= queue
    })
    .await;
    let mut seen = Vec::new();
    let deadline = std::time::Instant::now() + 20 * SECOND;
    // Step by step, so that leases are renewed.
    while !seen.iter().any(|record: &Record| record.message.contains("still waiting")) {
        assert!(std::time::Instant::now() < deadline, "nothing was said: {seen:?}");
        clock.advance(SECOND);
        tokio::time::sleep(Duration::from_millis(2)).await;
        seen.extend(logs::take().0);
    }
    waiter.abort();
    support::eventually("it waits no longer", || async { client.inspect("k").await.unwrap().waiting_here == 0 }).await;
    seen.into_iter().find(|record| record.message.contains("still waiting")).unwrap()
}

#[tokio::test]
async fn r16_a_long_wait_for_this_very_process_says_so_and_whether_the_lease_was_discarded() {
    logs::listen(|| {});
    logs::set_level(LevelFilter::WARN);
    let clock = ManualClock::new();
    let open = || Client::with_clock("memory:long", ClientOptions::default(), Arc::new(clock.clone())).unwrap();
    let (client, other) = (open(), open());
    let lock = client.lock("k");
    let lease = lock.acquire().await.unwrap();
    let token = lease.token();
    let kept = warned(&client, &clock, 0).await.message;
    assert!(kept.contains("this process holds it through the same client, since 3") && !kept.contains("discarded"), "{kept}");
    drop(lease);
    let discarded = warned(&client, &clock, 0).await;
    assert!(discarded.message.contains("the lease was discarded, and only its lock can still release it"), "{discarded:?}");
    assert!(discarded.fields.iter().any(|(_, text)| text.contains(&format!("(token {token})"))), "{discarded:?}");
    let elsewhere = warned(&other, &clock, 1).await.message;
    assert!(elsewhere.contains("this process holds it, through another client"), "{elsewhere}");
    assert!(!elsewhere.contains("behind"), "it is the first in the queue: {elsewhere}");
    assert!(lock.release().await.unwrap());
    // Somebody has the only handle: it was not discarded, though its lock is gone.
    let lease = client.lock("k").acquire().await.unwrap();
    let kept = warned(&client, &clock, 0).await.message;
    assert!(kept.contains("this process holds it") && !kept.contains("discarded"), "{kept}");
    lease.release().await.unwrap();
}
