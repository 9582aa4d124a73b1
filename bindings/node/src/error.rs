//! Turns an error into a JSON text, from which `errors.js` makes an error of the class for its code.

use std::error::Error as _;
use std::iter;

use dlock::printable::{LONGEST_ANSWER, cut};
use dlock::{Error, Unit};
use serde_json::{Map, Value};

use crate::numbers::millis;

/// The error with its fields. Names of options are in camel case, as in JavaScript.
pub(crate) fn describe(error: &Error) -> String {
    let error = &with_own_names(error);
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    set("code", error.code().into());
    set("message", error.to_string().into());
    if let Some(key) = error.key() {
        set("key", key.into());
    }
    if let Some(found) = error.holder() {
        set("holder", found.to_json(Unit::Millis));
    }
    match error {
        Error::AcquireTimeout { waited, .. } => set("waited", millis(*waited).into()),
        Error::RetriesExhausted { attempts, .. } => set("attempts", (*attempts).into()),
        Error::LockLost { token, reason, .. } => {
            set("token", (*token).into());
            set("reason", reason.as_str().into());
        }
        Error::NotHeld { operation, .. } | Error::Ambiguous { operation, .. } | Error::ClientClosed { operation } => {
            set("operation", (*operation).into());
        }
        Error::BackendUnavailable { operation, server, .. } | Error::BackendRefused { operation, server, .. } => {
            set("operation", (*operation).into());
            set("server", server.as_ref().into());
        }
        Error::InvalidOptions { field, value, allowed } => {
            set("field", field.as_str().into());
            set("value", value.as_str().into());
            set("allowed", allowed.as_str().into());
        }
        _ => {}
    }
    let causes = iter::successors(error.source(), |&cause| cause.source()).map(|cause| cut(&cause.to_string(), LONGEST_ANSWER));
    let causes: Vec<_> = causes.collect();
    set("causes", causes.into());
    Value::Object(fields).to_string()
}

/// The error with the names of options as JavaScript writes them.
fn with_own_names(error: &Error) -> Error {
    let mut error = error.clone();
    if let Error::InvalidOptions { field, .. } = &mut error {
        *field = Unit::Millis.name(field);
    }
    error
}
