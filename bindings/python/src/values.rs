//! What users hand in and get to see: durations, holders, inspections.

use std::time::Duration;

use dlock::backend::Inspection;
use dlock::holder::Holder;
use dlock::{Error, Unit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBool;

use crate::error::raise;

/// Seconds as `int`, `float` or `timedelta`.
pub(crate) fn duration(field: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let seconds = match value.extract::<f64>() {
        Ok(seconds) if !value.is_instance_of::<PyBool>() => Some(seconds),
        _ => value.call_method0("total_seconds").and_then(|seconds| seconds.extract::<f64>()).ok(),
    };
    let Some(seconds) = seconds else {
        let value = value.repr()?.to_string();
        return Err(raise(Error::InvalidOptions {
            field: field.into(),
            value,
            allowed: "seconds as a number, or a timedelta".into(),
        }));
    };
    Unit::Seconds.duration(field, seconds).map_err(raise)
}

/// [`duration`] where `None` means that there is none.
pub(crate) fn duration_or_none(field: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    value.map(|value| duration(field, value)).transpose()
}

/// A `dlock.Holder`.
pub(crate) fn holder<'py>(py: Python<'py>, holder: &Holder) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let remaining = holder.remaining.map(|remaining| remaining.as_secs_f64());
    let note = holder.note.as_ref();
    CLASS.import(py, "dlock._holder", "Holder")?.call1((
        &holder.owner,
        holder.token,
        remaining,
        note.map(|note| &note.host),
        note.map(|note| note.pid),
        note.map(|note| std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(note.since)),
        note.and_then(|note| note.metadata.as_ref()),
    ))
}

/// A `dlock.Inspection`.
pub(crate) fn inspection<'py>(py: Python<'py>, inspection: &Inspection) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let held_by = inspection.holder.as_ref().map(|held_by| holder(py, held_by)).transpose()?;
    CLASS.import(py, "dlock._holder", "Inspection")?.call1((&inspection.key, held_by, inspection.queue.clone()))
}
