//! `--json`: what is said to programs. One object a line, the same names as in the other faces, times in seconds.

use std::fmt::{Debug, Display};
use std::sync::OnceLock;

use dlock::backend::Inspection;
use dlock::{Health, Unit};
use serde_json::{Map, Value, json};
use tracing::Level;
use tracing::field::{Field, Visit};

static WANTED: OnceLock<bool> = OnceLock::new();

/// Settles, once, how this process speaks.
pub(crate) fn choose(wanted: bool) {
    let _ = WANTED.set(wanted);
}

pub(crate) fn wanted() -> bool {
    WANTED.get().copied().unwrap_or_default()
}

/// JSON leaves no control character as it is, so whatever others wrote is safe on a terminal.
pub(crate) fn line(value: &Value) -> String {
    format!("{value}\n")
}

/// Something that `dlock` itself has to say; an error with the code that it exits with.
pub(crate) fn message(level: &str, message: &dyn Display, code: Option<u8>) -> String {
    let mut said = json!({ "level": level, "message": message.to_string() });
    if let Some(code) = code {
        said["exit_code"] = code.into();
    }
    line(&said)
}

/// `queue_counts` says what one entry of the queue stands for; null where the backend keeps none.
pub(crate) fn inspection(found: &Inspection, keeps_queue: bool) -> Value {
    let mut shown = found.to_json(Unit::Seconds);
    shown["queue_counts"] = keeps_queue.then_some("clients").into();
    shown
}

pub(crate) fn health(found: &Health) -> Value {
    json!({
        "status": found.status.as_str(),
        "server": &*found.server,
        "chosen_by": found.chosen_by.as_str(),
        "round_trip": found.round_trip.map(|took| Unit::Seconds.number(took)),
        "reasons": found.reasons,
        "warnings": found.warnings,
    })
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
