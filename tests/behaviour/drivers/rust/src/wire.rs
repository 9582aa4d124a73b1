//! What goes over the pipes: requests, answers, stamps.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use dlock::backend::Inspection;
use dlock::error::Error;
use dlock::holder::Holder;
use dlock::{Lease, Renewal, Retry, Status, Unit};
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: u64,
    #[serde(default)]
    pub(crate) client: String,
    pub(crate) op: String,
    #[serde(default)]
    pub(crate) args: Args,
}

/// The arguments of all operations; each takes what it knows.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Args {
    pub(crate) url: String,
    pub(crate) namespace: Option<String>,
    pub(crate) op_timeout: Option<Number>,
    pub(crate) connect_timeout: Option<Number>,
    pub(crate) key: String,
    pub(crate) lock: Option<String>,
    #[serde(rename = "as")]
    pub(crate) name: String,
    pub(crate) lease: String,
    pub(crate) ttl: Option<Number>,
    pub(crate) wait: Option<Number>,
    pub(crate) renew: Option<bool>,
    pub(crate) renewal_threshold: Option<Number>,
    pub(crate) fair: Option<bool>,
    pub(crate) max_hold: Option<Number>,
    pub(crate) max_stall: Option<Number>,
    pub(crate) retry: Option<RetryArgs>,
    pub(crate) renewal: Option<RenewalArgs>,
    pub(crate) reentrant: bool,
    pub(crate) levels: usize,
    pub(crate) metadata: Option<String>,
    pub(crate) token: Option<u64>,
    pub(crate) owner: Option<String>,
    pub(crate) renewing: Option<bool>,
    pub(crate) keys: usize,
    pub(crate) hold: Option<Number>,
    pub(crate) prefix: String,
    pub(crate) event: String,
    pub(crate) timeout: Option<Number>,
    pub(crate) task: Option<u64>,
    #[serde(rename = "for")]
    pub(crate) blocked: Option<Number>,
    pub(crate) stubborn: bool,
    pub(crate) then: Option<String>,
    /// For languages in which a signal ends the process otherwise.
    pub(crate) stays: Option<bool>,
    pub(crate) cycles: usize,
    pub(crate) tasks: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RetryArgs {
    max_retries: Option<Number>,
    delay: Option<Number>,
    backoff: Option<Number>,
    jitter: Option<Number>,
}

impl RetryArgs {
    pub(crate) fn retry(&self) -> Result<Retry, Error> {
        let default = Retry::default();
        Ok(Retry {
            max_retries: count("retry.max_retries", self.max_retries.as_ref())?.unwrap_or(default.max_retries),
            delay: duration("retry.delay", self.delay.as_ref())?.unwrap_or(default.delay),
            backoff: self.backoff.as_ref().map_or(default.backoff, Number::value),
            jitter: self.jitter.as_ref().map_or(default.jitter, Number::value),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RenewalArgs {
    max_delay: Option<Number>,
    base_delay: Option<Number>,
    call_timeout: Option<Number>,
    batch: Option<Number>,
}

impl RenewalArgs {
    pub(crate) fn renewal(&self) -> Result<Renewal, Error> {
        let default = Renewal::default();
        Ok(Renewal {
            max_delay: duration("renewal.max_delay", self.max_delay.as_ref())?.unwrap_or(default.max_delay),
            base_delay: duration("renewal.base_delay", self.base_delay.as_ref())?.unwrap_or(default.base_delay),
            call_timeout: duration("renewal.call_timeout", self.call_timeout.as_ref())?,
            batch: count("renewal.batch", self.batch.as_ref())?,
        })
    }
}

/// A number; `"nan"`, `"inf"` and `"-inf"` have no other form in JSON.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Number {
    Plain(f64),
    Word(String),
}

impl Number {
    pub(crate) fn value(&self) -> f64 {
        match self {
            Self::Plain(number) => *number,
            Self::Word(word) => word.parse().unwrap_or(f64::NAN),
        }
    }
}

/// A duration as a user of this language would make it.
pub(crate) fn duration(field: &str, millis: Option<&Number>) -> Result<Option<Duration>, Error> {
    millis.map(|number| Unit::Seconds.duration(field, number.value() / 1000.0)).transpose()
}

fn count(field: &str, number: Option<&Number>) -> Result<Option<u32>, Error> {
    number.map(|number| Unit::count(field, number.value())).transpose()
}

/// The stamp of this moment.
pub(crate) fn stamp() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    #[allow(clippy::cast_precision_loss)] // milliseconds with a fraction are precise enough for years
    let millis = now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6;
    millis
}

pub(crate) fn print(id: u64, answer: Result<Value, Value>) {
    let line = match answer {
        Ok(value) => json!({"id": id, "at": stamp(), "ok": value}),
        Err(error) => json!({"id": id, "at": stamp(), "error": error}),
    };
    write(&line);
}

/// Tells of something that happened before the answer.
pub(crate) fn event(id: u64, what: &str, value: &Value) {
    write(&json!({"id": id, "at": stamp(), "event": what, "value": value}));
}

fn write(line: &Value) {
    // The runner that does not read any more has ended, and stdin will say so.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

pub(crate) fn cancelled() -> Value {
    json!({"code": "CANCELLED"})
}

pub(crate) fn describe(error: &Error) -> Value {
    let mut fields =
        json!({"code": error.code(), "message": error.to_string(), "key": error.key(), "holder": error.holder().map(holder)});
    match error {
        Error::InvalidOptions { field, value, allowed } => {
            (fields["field"], fields["value"], fields["allowed"]) = (json!(field), json!(value), json!(allowed));
        }
        Error::BackendUnavailable { server, operation, .. } | Error::BackendRefused { server, operation, .. } => {
            (fields["server"], fields["operation"]) = (json!(&**server), json!(operation));
        }
        Error::RetriesExhausted { attempts, .. } => fields["attempts"] = json!(attempts),
        Error::LockLost { token, reason, .. } => (fields["token"], fields["reason"]) = (json!(token), json!(reason.as_str())),
        _ => {}
    }
    fields
}

pub(crate) fn lease(lease: &Lease) -> Value {
    let reason = match lease.status() {
        Status::Lost(reason) => Some(reason.as_str()),
        _ => None,
    };
    json!({
        "key": &**lease.key(), "token": lease.token(), "owner": lease.owner(), "ttl": millis(lease.ttl()),
        "remaining": millis(lease.remaining()), "valid": lease.is_valid(), "lost": reason.is_some(), "status": lease.status().as_str(),
        "acquired_at": since_1970(lease.acquired_at()), "expires_at": since_1970(lease.expires_at()), "reason": reason,
    })
}

pub(crate) fn inspection(found: &Inspection) -> Value {
    let waiting: Map<_, _> = found.queue.iter().enumerate().map(|(at, owner)| ((at + 1).to_string(), json!(owner))).collect();
    json!({
        "key": found.key, "holder": found.holder.as_ref().map(holder), "queue": found.queue.len(), "waiting": waiting,
        "cluster": found.cluster, "waiting_here": found.waiting_here,
    })
}

fn holder(holder: &Holder) -> Value {
    let note = holder.note.as_ref();
    json!({
        "owner": holder.owner, "token": holder.token, "remaining": holder.remaining.map(millis),
        "pid": note.map(|note| note.pid), "host": note.map(|note| &note.host), "metadata": note.and_then(|note| note.metadata.as_ref()),
    })
}

fn since_1970(time: SystemTime) -> f64 {
    millis(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
