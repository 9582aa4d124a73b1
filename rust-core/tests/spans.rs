//! The spans and events that the engine gives to `tracing`. A process of its own: there is one subscriber a process.

#![allow(clippy::unwrap_used)]

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dlock::Client;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// What was told of each span: its name and its fields, as text.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(u64, String)>>>);

struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Told {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _context: Context<'_, S>) {
        let mut text = attributes.metadata().name().to_owned();
        attributes.record(&mut Text(&mut text));
        self.0.lock().unwrap().push((id.into_u64(), text));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _context: Context<'_, S>) {
        let mut told = self.0.lock().unwrap();
        let (_, text) = told.iter_mut().rev().find(|(known, _)| *known == id.into_u64()).unwrap();
        values.record(&mut Text(text));
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut text = "event".to_owned();
        event.record(&mut Text(&mut text));
        self.0.lock().unwrap().push((0, text));
    }
}

impl Told {
    async fn wait_for(&self, parts: &[&str]) {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let found = |told: &[(u64, String)]| told.iter().any(|(_, text)| parts.iter().all(|part| text.contains(part)));
        while !found(&self.0.lock().unwrap()) {
            assert!(std::time::Instant::now() < deadline, "{parts:?} is not in {:#?}", self.0.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn acquire_wait_renew_and_release_are_spans_with_key_and_token() {
    let told = Told::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(told.clone())).unwrap();
    let (first, second) = (Client::new("memory:spans").unwrap(), Client::new("memory:spans").unwrap());
    let lease = first.lock("k").ttl(Duration::from_millis(300)).acquire().await.unwrap();
    let token = format!("token={}", lease.token());
    told.wait_for(&["acquire", "key=k", &token]).await;
    told.wait_for(&["event message=acquired", "key=k", &token]).await;
    told.wait_for(&["renew leases=1", "key=\"k\"", &token]).await;
    told.wait_for(&["event message=renewed", "key=k", &token]).await;
    let waiting = tokio::spawn(async move { second.lock("k").acquire().await });
    told.wait_for(&["wait", "key=k", &token]).await;
    lease.release().await.unwrap();
    told.wait_for(&["release", "key=k", &token]).await;
    waiting.await.unwrap().unwrap();
}
