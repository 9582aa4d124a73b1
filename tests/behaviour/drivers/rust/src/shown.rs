//! What a client shows of itself, as the other languages show it.

use dlock::Health;
use dlock::observe::{Event, Stats};
use serde_json::{Map, Value, json};

use crate::wire::millis;

pub(crate) fn figures(stats: &Stats) -> Value {
    let calls = stats.backend_calls.iter();
    let calls = calls.map(|(name, found)| ((*name).to_owned(), json!({"calls": found.calls, "errors": found.errors})));
    json!({
        "held": stats.held, "waiting": stats.waiting, "acquired": stats.acquired, "released": stats.released,
        "release_failures": stats.release_failures, "renewed": stats.renewed, "renewal_failures": stats.renewal_failures,
        "renewal_lag": {"count": stats.renewal_lag.count}, "lost": stats.lost, "acquire_failures": stats.acquire_failures,
        "backend_calls": calls.collect::<Map<_, _>>(), "scheduled": stats.scheduled, "dropped_events": stats.dropped_events,
    })
}

pub(crate) fn health(found: &Health) -> Value {
    json!({
        "status": found.status.as_str(), "reasons": found.reasons, "server": &*found.server,
        "round_trip": found.round_trip.map(millis), "held": found.held, "lagging": found.lagging, "at_risk": found.at_risk,
        "warnings": found.warnings,
    })
}

pub(crate) fn happening(event: &Event) -> Value {
    json!({
        "kind": event.kind.as_str(), "key": &*event.key, "token": event.token, "owner": event.owner.map(|owner| owner.to_string()),
        "waited": event.waited.map(millis), "held": event.held.map(millis), "reason": event.reason,
    })
}
