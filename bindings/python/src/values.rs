//! Reads what users pass: durations, options, tokens. `objects` makes what they get.

use std::time::Duration;

use dlock::backend::Whom;
use dlock::{Error, Renewal, Retry, Unit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyString};

use crate::error::raise;

/// How many characters of a bad value an error contains.
const LONGEST_SHOWN: usize = 80;

/// Seconds as `int`, `float` or `timedelta`.
pub(crate) fn duration(field: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let seconds = match value.extract::<f64>() {
        Ok(seconds) if !value.is_instance_of::<PyBool>() => Some(seconds),
        _ => value.call_method0("total_seconds").and_then(|seconds| seconds.extract::<f64>()).ok(),
    };
    let seconds = seconds.ok_or_else(|| refuse(field, value, "seconds as a number, or a timedelta"))?;
    Unit::Seconds.duration(field, seconds).map_err(raise)
}

/// Text that UTF-8 can hold.
pub(crate) fn text(field: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    value.extract().map_err(|_| refuse(field, value, "a str without lone surrogates"))
}

pub(crate) fn flag(field: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    value.extract().map_err(|_| refuse(field, value, "True or False"))
}

pub(crate) fn share(field: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    value.extract().map_err(|_| refuse(field, value, "a number between 0 and 1"))
}

fn whole(field: &str, value: &Bound<'_, PyAny>) -> PyResult<u32> {
    match value.extract() {
        Ok(number) if !value.is_instance_of::<PyBool>() => Ok(number),
        _ => Err(refuse(field, value, &format!("a whole number from 0 to {}", u32::MAX))),
    }
}

fn number(field: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    value.extract().map_err(|_| refuse(field, value, "a number"))
}

/// A `dlock.Retry`.
pub(crate) fn retry(value: &Bound<'_, PyAny>) -> PyResult<Retry> {
    let part = |name| part("retry", "dlock.Retry", value, name);
    let default = Retry::default();
    Ok(Retry {
        max_retries: part("max_retries")?.map_or(Ok(default.max_retries), |value| whole("retry.max_retries", &value))?,
        delay: part("delay")?.map_or(Ok(default.delay), |value| duration("retry.delay", &value))?,
        backoff: part("backoff")?.map_or(Ok(default.backoff), |value| number("retry.backoff", &value))?,
        jitter: part("jitter")?.map_or(Ok(default.jitter), |value| number("retry.jitter", &value))?,
    })
}

/// A `dlock.Renewal`.
pub(crate) fn renewal(value: &Bound<'_, PyAny>) -> PyResult<Renewal> {
    let part = |name| part("renewal", "dlock.Renewal", value, name);
    let default = Renewal::default();
    Ok(Renewal {
        base_delay: part("base_delay")?.map_or(Ok(default.base_delay), |value| duration("renewal.base_delay", &value))?,
        max_delay: part("max_delay")?.map_or(Ok(default.max_delay), |value| duration("renewal.max_delay", &value))?,
        call_timeout: part("call_timeout")?.map(|value| duration("renewal.call_timeout", &value)).transpose()?,
        batch: part("batch")?.map(|value| whole("renewal.batch", &value)).transpose()?,
    })
}

/// A field of a class of this package. None stands for the engine's default.
fn part<'py>(field: &str, class: &str, value: &Bound<'py, PyAny>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    let part = value.getattr(name).map_err(|_| refuse(field, value, &format!("a {class}")))?;
    Ok(Some(part).filter(|part| !part.is_none()))
}

/// A token or an owner id.
pub(crate) fn whom(field: &str, value: &Bound<'_, PyAny>) -> PyResult<Whom> {
    match value.extract() {
        Ok(token) if !value.is_instance_of::<PyBool>() => Ok(Whom::Token(token)),
        _ => value.extract().map(Whom::Owner).map_err(|_| refuse(field, value, "a token (an int from 0) or an owner id (a str)")),
    }
}

/// `InvalidOptions` for a value of the wrong type.
fn refuse(field: &str, value: &Bound<'_, PyAny>, allowed: &str) -> PyErr {
    raise(Error::InvalidOptions { field: field.into(), value: printable(field, value), allowed: allowed.into() })
}

/// A value for an error message. Objects and URLs are left out, because they may contain a password.
fn printable(field: &str, value: &Bound<'_, PyAny>) -> String {
    let plain = value.is_none()
        || (value.is_instance_of::<PyString>() && field != "url")
        || value.is_instance_of::<PyInt>()
        || value.is_instance_of::<PyFloat>();
    match value.repr() {
        Ok(text) if plain => text.to_string().chars().take(LONGEST_SHOWN).collect(),
        _ => value.get_type().name().map_or_else(|_| "an object".to_owned(), |name| format!("an object of type {name}")),
    }
}

/// As [`duration`], for options that may be None.
pub(crate) fn duration_or_none(field: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    value.map(|value| duration(field, value)).transpose()
}
