//! Rule 16: who waits for a key that it holds itself is warned. A process of its own: there is one subscriber a process.

#![allow(clippy::unwrap_used)]

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dlock::{Caller, Client, Error};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// The warnings, each by its key and its message.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<(String, String)>>>);

#[derive(Default)]
struct Fields {
    key: String,
    message: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "key" => self.key = format!("{value:?}"),
            "message" => self.message = format!("{value:?}"),
            _ => {}
        }
    }
}

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if *event.metadata().level() == Level::WARN {
            let mut fields = Fields::default();
            event.record(&mut fields);
            self.0.lock().unwrap().push((fields.key, fields.message));
        }
    }
}

impl Warnings {
    fn about(&self, key: &str) -> Vec<String> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|(of, message)| of == key && message.contains("waits for")).map(|(_, message)| message.clone()).collect()
    }
}

/// Asks for `key` for so long, and does not get it.
async fn in_vain(client: &Client, key: &str, wait: u64) {
    let waited = client.lock(key).wait(Duration::from_millis(wait)).acquire().await;
    assert!(matches!(waited, Err(Error::AcquireTimeout { .. } | Error::LockBusy { .. })), "{waited:?}");
}

#[tokio::test]
async fn r16_who_waits_for_itself_is_warned_and_nobody_else() {
    let warnings = Warnings::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(warnings.clone())).unwrap();
    let (client, other) = (Client::new("memory:self").unwrap(), Client::new("memory:self").unwrap());
    let itself = "this caller holds the key already and now waits for itself";

    // The same task, and a body inside of a body.
    let lease = client.lock("task").acquire().await.unwrap();
    in_vain(&client, "task", 20).await;
    assert_eq!(warnings.about("task"), [itself]);
    lease.release().await.unwrap();
    let nested =
        client.with_lock("outer", async |_| client.with_lock("inner", async |_| in_vain(&client, "outer", 20).await).await);
    nested.await.unwrap().unwrap();
    assert_eq!(warnings.about("outer"), [itself]);

    // What the holder started: once for each lease, and only if its wait was in vain.
    let lock = client.lock("child");
    for _ in 0..2 {
        let lease = lock.acquire().await.unwrap();
        for _ in 0..3 {
            let client = client.clone();
            tokio::spawn(Caller::current().scope(async move { in_vain(&client, "child", 20).await })).await.unwrap();
        }
        lease.release().await.unwrap();
    }
    assert_eq!(warnings.about("child"), ["a caller waits for a key that is held by the caller that started it"; 2]);
    let lease = lock.acquire().await.unwrap();
    let late = client.lock("late");
    let held = late.acquire().await.unwrap();
    let waiting = tokio::spawn(Caller::current().scope(async move { late.acquire().await }));
    tokio::task::yield_now().await;
    held.release().await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(warnings.about("late"), [""; 0], "it got the key as soon as the holder was done");
    lease.release().await.unwrap();

    // Others: another task, another client, a single try.
    let lease = client.lock("apart").acquire().await.unwrap();
    in_vain(&other, "apart", 20).await;
    in_vain(&client, "apart", 0).await;
    let apart = client.clone();
    tokio::spawn(async move { in_vain(&apart, "apart", 20).await }).await.unwrap();
    assert_eq!(warnings.about("apart"), [""; 0]);
    lease.release().await.unwrap();
}
