//! `--json`: output for programs, one object a line, with the same names as in the languages' packages and times in seconds.

use std::fmt::{Debug, Display};
use std::sync::OnceLock;

use dlock::backend::Inspection;
use dlock::{Health, Unit};
use serde_json::{Map, Value, json};
use tracing::Level;
use tracing::field::{Field, Visit};

/// What health knows of the leases that its client holds.
const LEASE_FIGURES: [&str; 4] = ["held", "lagging", "at_risk", "renewal_lag"];

static WANTED: OnceLock<bool> = OnceLock::new();

/// Decides, once, whether this process answers in JSON.
pub(crate) fn choose(wanted: bool) {
    let _ = WANTED.set(wanted);
}

pub(crate) fn wanted() -> bool {
    WANTED.get().copied().unwrap_or_default()
}

/// One line. JSON escapes control characters, so text that other programs wrote is safe on a terminal.
pub(crate) fn line(value: &Value) -> String {
    format!("{value}\n")
}

/// A message of `dlock` itself; an error has the exit code.
pub(crate) fn message(level: &str, message: &dyn Display, code: Option<u8>) -> String {
    let mut object = json!({ "level": level, "message": message.to_string() });
    if let Some(code) = code {
        object["exit_code"] = code.into();
    }
    line(&object)
}

pub(crate) fn inspection(found: &Inspection, keeps_queue: bool) -> String {
    line(&found.to_json_of_command(Unit::Seconds, keeps_queue))
}

/// Without the figures of leases, since a command that checks health holds none.
pub(crate) fn health(found: &Health) -> Value {
    let mut shown = found.to_json(Unit::Seconds);
    if let Value::Object(fields) = &mut shown {
        fields.retain(|name, _| !LEASE_FIGURES.contains(&name.as_str()));
    }
    shown
}

/// The fields of a log line.
#[derive(Default)]
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub(crate) fn line(mut self, level: Level) -> String {
        self.0.insert("level".to_owned(), level.as_str().to_ascii_lowercase().into());
        line(&Value::Object(self.0))
    }
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
