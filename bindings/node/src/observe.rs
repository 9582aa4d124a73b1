//! What a client shows of itself, and what the engine logs, on their way to JavaScript.

use std::sync::{Arc, Weak};

use dlock::Health;
use dlock::logs;
use dlock::observe::{Calls, Event, Kind, Kinds, Stats};
use napi_derive::napi;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tracing::level_filters::LevelFilter;

use crate::Bridge;
use crate::completion::{Completions, Outcome};
use crate::error::describe;
use crate::lease::millis;

/// Under this number comes the word that something was logged.
const LOGS: i64 = 0;

/// The environments that want to know what the engine logs.
static LISTENERS: Mutex<Vec<Weak<Completions>>> = Mutex::new(Vec::new());

#[napi]
impl Bridge {
    /// The figures as a JSON text.
    #[napi]
    pub fn stats(&self, client: i64) -> Option<String> {
        self.tables.borrow().clients.get(&client).map(|client| figures(&client.stats()).to_string())
    }

    /// The figures as Prometheus reads them.
    #[napi]
    pub fn metrics(&self, client: i64) -> Option<String> {
        self.tables.borrow().clients.get(&client).map(dlock::Client::metrics)
    }

    /// Answers with how the client is.
    #[napi]
    pub fn health(&self, client: i64, call: i64) {
        self.ask(
            client,
            call,
            |client| async move { client.health().await.map(|health| Outcome::Answer(shown(&health).to_string())) },
        );
    }

    /// Has events of these names told under the number of the subscription, which begins with the first call. Returns the error, or nothing.
    #[napi]
    pub fn listen(&self, client: i64, subscription: i64, events: Vec<String>) -> Option<String> {
        let kinds: Kinds = match events.iter().map(|event| Kind::parse(event)).collect() {
            Ok(kinds) => kinds,
            Err(error) => return Some(describe(&error)),
        };
        let mut tables = self.tables.borrow_mut();
        if let Some(known) = tables.subscriptions.get(&subscription) {
            known.set_kinds(kinds);
        } else if let Some(client) = tables.clients.get(&client) {
            let completions = self.completions.clone();
            let made = client.subscribe(kinds, move || completions.push(subscription, Outcome::Happened));
            tables.subscriptions.insert(subscription, made);
        }
        None
    }

    /// What has come since, as a JSON text, a row of values for each event; nothing once nothing more will come.
    #[napi]
    pub fn events(&self, subscription: i64) -> Option<String> {
        let mut tables = self.tables.borrow_mut();
        let known = tables.subscriptions.get(&subscription)?;
        if known.is_over() {
            tables.subscriptions.remove(&subscription);
            return None;
        }
        let events = known.take();
        let rows: Vec<_> = events.iter().map(row).collect();
        Some(serde_json::to_string(&rows).unwrap_or_default())
    }

    /// Wants nothing more.
    #[napi]
    pub fn end_subscription(&self, subscription: i64) {
        if let Some(known) = self.tables.borrow_mut().subscriptions.remove(&subscription) {
            known.end();
        }
    }

    /// Has it told, under the number 0, that the engine has logged something.
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

    /// What the engine has logged, a line each.
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

/// Kind, key, token, owner, waited, held, reason. `observe.js` has the same list. Names are left out: they would be read anew for each event.
type Row<'a> = (&'static str, &'a str, Option<u64>, Option<String>, Option<f64>, Option<f64>, Option<&'a str>);

fn row(event: &Event) -> Row<'_> {
    let owner = event.owner.map(|owner| owner.to_string());
    let (waited, held) = (event.waited.map(millis), event.held.map(millis));
    (event.kind.as_str(), &event.key, event.token, owner, waited, held, event.reason.as_deref())
}

fn figures(stats: &Stats) -> Value {
    let lag = &stats.renewal_lag;
    let calls = |(operation, found): (&&str, &Calls)| {
        let Calls { calls, errors, time } = found;
        ((*operation).to_owned(), json!({ "calls": calls, "errors": errors, "time": millis(*time) }))
    };
    json!({
        "held": stats.held,
        "waiting": stats.waiting,
        "acquired": stats.acquired,
        "released": stats.released,
        "releaseFailures": stats.release_failures,
        "renewed": stats.renewed,
        "renewalFailures": stats.renewal_failures,
        "renewalLag": { "count": lag.count, "total": millis(lag.total), "longest": millis(lag.longest) },
        "lost": stats.lost,
        "acquireFailures": stats.acquire_failures,
        "backendCalls": stats.backend_calls.iter().map(calls).collect::<Map<_, _>>(),
        "renewing": stats.renewing,
        "scheduled": stats.scheduled,
        "background": stats.background,
        "queuedEvents": stats.queued_events,
        "eventCapacity": stats.event_capacity,
        "droppedEvents": stats.dropped_events,
    })
}

fn shown(health: &Health) -> Value {
    json!({
        "status": health.status.as_str(),
        "reasons": health.reasons,
        "server": &*health.server,
        "roundTrip": health.round_trip.map(millis),
        "held": health.held,
        "lagging": health.lagging,
        "atRisk": health.at_risk,
        "renewalLag": millis(health.renewal_lag),
        "warnings": health.warnings,
    })
}
