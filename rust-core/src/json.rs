//! What programs read in JSON: one place for the names and units that Node and the command line print.
//!
//! Times are numbers of the [`Unit`] in which a language counts, and the names of health and figures are written as that language writes
//! names: `round_trip` where it counts in seconds, `roundTrip` where it counts in milliseconds.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::backend::{Capabilities, Inspection};
use crate::holder::Holder;
use crate::observe::{Calls, Health, Stats};
use crate::unit::Unit;

impl Holder {
    /// The holder as programs see it in JSON, with times in `unit`; `since` counts from 1970.
    pub fn to_json(&self, unit: Unit) -> Value {
        let note = self.note.as_ref();
        json!({
            "owner": self.owner,
            "token": self.token,
            "remaining": self.remaining.map(|left| unit.number(left)),
            "host": note.map(|note| &note.host),
            "pid": note.map(|note| note.pid),
            "since": note.map(|note| unit.number(Duration::from_millis(note.since))),
            "metadata": note.and_then(|note| note.metadata.as_ref()),
        })
    }
}

impl Inspection {
    /// What a client learned, in JSON, with times in `unit`: what the backend said, and how many of the client's own callers wait.
    pub fn to_json(&self, unit: Unit) -> Value {
        self.with(unit, "waiting_here", self.waiting_here.into())
    }

    /// What a command learned, which has no callers that could wait. `queue_counts` names what one entry of the queue stands for; it is null
    /// if the backend keeps no queue.
    pub fn to_json_of_command(&self, unit: Unit, keeps_queue: bool) -> Value {
        self.with(unit, "queue_counts", keeps_queue.then_some("clients").into())
    }

    fn with(&self, unit: Unit, name: &str, value: Value) -> Value {
        let holder = self.holder.as_ref().map(|holder| holder.to_json(unit));
        named(
            unit,
            [
                ("key", json!(self.key)),
                ("holder", json!(holder)),
                ("queue", json!(self.queue)),
                (name, value),
                ("cluster", json!(self.cluster)),
            ],
        )
    }
}

impl Health {
    /// The health of a client in JSON, with times in `unit` and names as its language writes them.
    pub fn to_json(&self, unit: Unit) -> Value {
        named(
            unit,
            [
                ("status", self.status.as_str().into()),
                ("reasons", json!(self.reasons)),
                ("server", json!(&*self.server)),
                ("chosen_by", self.chosen_by.as_str().into()),
                ("round_trip", json!(self.round_trip.map(|took| unit.number(took)))),
                ("held", self.held.into()),
                ("lagging", self.lagging.into()),
                ("at_risk", self.at_risk.into()),
                ("renewal_lag", unit.number(self.renewal_lag).into()),
                ("warnings", json!(self.warnings)),
            ],
        )
    }
}

impl Stats {
    /// The figures of a client in JSON, with times in `unit` and names as its language writes them. Words that name a case, such as
    /// `not_held`, are the same in every language.
    pub fn to_json(&self, unit: Unit) -> Value {
        let calls = |(operation, found): (&&str, &Calls)| {
            let Calls { calls, errors, time } = found;
            ((*operation).to_owned(), json!({ "calls": calls, "errors": errors, "time": unit.number(*time) }))
        };
        let lag = &self.renewal_lag;
        named(
            unit,
            [
                ("server", json!(&*self.server)),
                ("chosen_by", self.chosen_by.as_str().into()),
                ("held", self.held.into()),
                ("waiting", self.waiting.into()),
                ("acquired", self.acquired.into()),
                ("released", self.released.into()),
                ("release_failures", json!(self.release_failures)),
                ("renewed", self.renewed.into()),
                ("renewal_failures", self.renewal_failures.into()),
                (
                    "renewal_lag",
                    json!({ "count": lag.count, "total": unit.number(lag.total), "longest": unit.number(lag.longest) }),
                ),
                ("lost", json!(self.lost)),
                ("acquire_failures", json!(self.acquire_failures)),
                ("backend_calls", Value::Object(self.backend_calls.iter().map(calls).collect())),
                ("renewing", self.renewing.into()),
                ("scheduled", self.scheduled.into()),
                ("background", self.background.into()),
                ("queued_events", self.queued_events.into()),
                ("event_capacity", self.event_capacity.into()),
                ("dropped_events", self.dropped_events.into()),
            ],
        )
    }
}

impl Capabilities {
    /// What users may know of a backend's abilities, in JSON, with times in `unit` and names as its language writes them.
    pub fn to_json(&self, unit: Unit) -> Value {
        named(
            unit,
            [
                ("scheme", self.scheme.into()),
                ("fair", self.fair.into()),
                ("crash_release", self.crash_release.into()),
                ("counts_tokens", self.counts_tokens.into()),
                ("ttl_floor", unit.number(self.ttl_floor).into()),
                ("batch", self.batch.into()),
            ],
        )
    }
}

/// An object whose names are written as the language writes them that counts in `unit`.
fn named<const N: usize>(unit: Unit, fields: [(&str, Value); N]) -> Value {
    Value::Object(fields.into_iter().map(|(field, value)| (unit.name(field), value)).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holder::Note;
    use crate::observe::HealthStatus;

    #[test]
    fn json_counts_in_the_unit_that_was_asked_for() {
        let note = Note { host: "web-1".into(), pid: 4, since: 1500, metadata: None };
        let holder = Holder { owner: "abc".into(), token: Some(9), remaining: Some(Duration::from_millis(2500)), note: Some(note) };
        let (seconds, millis) = (holder.to_json(Unit::Seconds), holder.to_json(Unit::Millis));
        assert_eq!((&seconds["remaining"], &seconds["since"]), (&2.5.into(), &1.5.into()));
        assert_eq!((&millis["remaining"], &millis["since"]), (&2500.0.into(), &1500.0.into()));
        assert_eq!((&millis["pid"], &millis["metadata"]), (&4.into(), &Value::Null));
        assert_eq!(Holder { owner: "foreign".into(), ..Holder::default() }.to_json(Unit::Millis)["host"], Value::Null);
    }

    #[test]
    fn names_are_those_of_the_language_that_counts_in_the_unit() {
        let mut health = Health::down("redis://h".into(), "no answer".to_owned());
        health.round_trip = Some(Duration::from_millis(1500));
        assert_eq!(health.status, HealthStatus::Down);
        let (seconds, millis) = (health.to_json(Unit::Seconds), health.to_json(Unit::Millis));
        assert_eq!((&seconds["round_trip"], &millis["roundTrip"]), (&1.5.into(), &1500.0.into()));
        assert_eq!((&seconds["status"], &millis["atRisk"]), (&"down".into(), &0.into()));
        let stats = Stats { release_failures: [("not_held", 2)].into(), ..Stats::default() };
        assert_eq!(stats.to_json(Unit::Millis)["releaseFailures"]["not_held"], 2);
        let found = Inspection { waiting_here: 3, ..Inspection::default() };
        assert_eq!(found.to_json(Unit::Millis)["waitingHere"], 3);
        assert_eq!(found.to_json_of_command(Unit::Seconds, true)["queue_counts"], "clients");
    }
}
