//! Figures, health and events of a client, and the engine's log, on their way to JavaScript.

use std::sync::{Arc, Weak};

use dlock::observe::{Kind, Kinds};
use dlock::{Unit, logs};
use napi_derive::napi;
use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;

use crate::bridge::Bridge;
use crate::completion::{Completions, Outcome};
use crate::error::describe;
use crate::event::Delivery;
use crate::numbers::Numbers;

/// Outcomes under this number mean that something was logged.
const LOGS: i64 = 0;

/// The environments that read the engine's log.
static LISTENERS: Mutex<Vec<Weak<Completions>>> = Mutex::new(Vec::new());

#[napi]
impl Bridge {
    /// The figures as a JSON text.
    #[napi]
    pub fn stats(&self, client: i64) -> Option<String> {
        self.tables.borrow().clients.get(&client).map(|client| client.stats().to_json(Unit::Millis).to_string())
    }

    /// The figures in the format of Prometheus.
    #[napi]
    pub fn metrics(&self, client: i64) -> Option<String> {
        self.tables.borrow().clients.get(&client).map(dlock::Client::metrics)
    }

    /// Answers with the health of the client, as a JSON text.
    #[napi]
    pub fn health(&self, client: i64, call: i64) {
        self.ask(client, call, |client| async move {
            client.health().await.map(|health| Outcome::Answer(health.to_json(Unit::Millis).to_string()))
        });
    }

    /// Reports events of these kinds under the number of the subscription, which begins with the first call. Returns the error, or nothing.
    #[napi]
    pub fn listen(&self, client: i64, subscription: i64, events: Vec<String>) -> Option<String> {
        let kinds: Kinds = match events.iter().map(|event| Kind::parse(event)).collect() {
            Ok(kinds) => kinds,
            Err(error) => return Some(describe(&error)),
        };
        let mut tables = self.tables.borrow_mut();
        if let Some(known) = tables.subscriptions.get(&subscription) {
            known.subscription.set_kinds(kinds);
        } else if let Some(client) = tables.clients.get(&client) {
            let completions = self.completions.clone();
            let made = client.subscribe(kinds, move || completions.push(subscription, Outcome::Happened));
            tables.subscriptions.insert(subscription, Delivery::new(made));
        }
        None
    }

    /// Writes as many queued events as fit, and returns the text that belongs to them; nothing once the subscription has ended.
    #[napi]
    pub fn events(&self, subscription: i64, out: Numbers<'_>) -> Option<String> {
        let mut tables = self.tables.borrow_mut();
        let text = tables.subscriptions.get_mut(&subscription)?.next(out);
        if text.is_none() {
            tables.subscriptions.remove(&subscription);
        }
        text
    }

    /// Ends a subscription.
    #[napi]
    pub fn end_subscription(&self, subscription: i64) {
        if let Some(known) = self.tables.borrow_mut().subscriptions.remove(&subscription) {
            known.subscription.end();
        }
    }

    /// Reports under the number 0 that the engine has logged something.
    #[napi]
    pub fn listen_to_logs(&self) {
        let mut listeners = LISTENERS.lock();
        listeners.retain(|known| known.strong_count() > 0);
        listeners.push(Arc::downgrade(&self.completions));
        drop(listeners);
        logs::listen(|| {
            for listener in LISTENERS.lock().iter().filter_map(Weak::upgrade) {
                listener.push(LOGS, Outcome::Happened);
            }
        });
        logs::set_level(LevelFilter::DEBUG);
    }

    /// Takes the records of the engine's log, a line each.
    #[napi]
    pub fn logs(&self) -> Vec<String> {
        let (records, dropped) = logs::take();
        let lines = records.into_iter().map(|record| {
            let fields: Vec<_> = record.fields.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            format!("{} {}: {}{}", record.level.as_str().to_ascii_lowercase(), record.target, record.message, fields.concat())
        });
        let lost = (dropped > 0).then(|| format!("warn {dropped} log records were dropped"));
        lines.chain(lost).collect()
    }
}
