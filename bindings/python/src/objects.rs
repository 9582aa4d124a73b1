//! Makes what users get: holders, inspections, figures, abilities and health, as objects of the classes in `dlock._holder` and
//! `dlock._observe`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use dlock::Health;
use dlock::backend::{Capabilities, Inspection};
use dlock::holder::Holder;
use dlock::observe::{Calls, Stats};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

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
        note.map(|note| SystemTime::UNIX_EPOCH + Duration::from_millis(note.since)),
        note.and_then(|note| note.metadata.as_ref()),
    ))
}

/// A `dlock.Inspection`.
pub(crate) fn inspection<'py>(py: Python<'py>, inspection: &Inspection) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let held_by = inspection.holder.as_ref().map(|held_by| holder(py, held_by)).transpose()?;
    CLASS.import(py, "dlock._holder", "Inspection")?.call1((
        &inspection.key,
        held_by,
        inspection.queue.clone(),
        &inspection.cluster,
        inspection.waiting_here,
    ))
}

/// A `dlock.Stats`.
pub(crate) fn figures<'py>(py: Python<'py>, stats: &Stats) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static LAG: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let lag = &stats.renewal_lag;
    let lag = LAG.import(py, "dlock._observe", "Lag")?.call1((lag.count, lag.total.as_secs_f64(), lag.longest.as_secs_f64()))?;
    let fields = PyDict::new(py);
    for (name, value) in [
        ("held", stats.held),
        ("waiting", stats.waiting),
        ("acquired", stats.acquired),
        ("released", stats.released),
        ("renewed", stats.renewed),
        ("renewal_failures", stats.renewal_failures),
        ("renewing", stats.renewing),
        ("scheduled", stats.scheduled),
        ("background", stats.background),
        ("queued_events", stats.queued_events),
        ("event_capacity", stats.event_capacity),
        ("dropped_events", stats.dropped_events),
    ] {
        fields.set_item(name, value)?;
    }
    fields.set_item("server", &*stats.server)?;
    fields.set_item("chosen_by", stats.chosen_by.as_str())?;
    fields.set_item("release_failures", &stats.release_failures)?;
    fields.set_item("lost", &stats.lost)?;
    fields.set_item("acquire_failures", &stats.acquire_failures)?;
    fields.set_item("renewal_lag", lag)?;
    fields.set_item("backend_calls", calls(py, &stats.backend_calls)?)?;
    CLASS.import(py, "dlock._observe", "Stats")?.call((), Some(&fields))
}

fn calls<'py>(py: Python<'py>, operations: &BTreeMap<&'static str, Calls>) -> PyResult<Bound<'py, PyDict>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CLASS.import(py, "dlock._observe", "Calls")?;
    let made = PyDict::new(py);
    for (operation, Calls { calls, errors, time }) in operations {
        made.set_item(operation, class.call1((calls, errors, time.as_secs_f64()))?)?;
    }
    Ok(made)
}

/// A `dlock.Capabilities`.
pub(crate) fn abilities<'py>(py: Python<'py>, capabilities: &Capabilities) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let Capabilities { scheme, fair, crash_release, counts_tokens, ttl_floor, batch, .. } = capabilities;
    CLASS.import(py, "dlock._observe", "Capabilities")?.call1((
        scheme,
        fair,
        crash_release,
        counts_tokens,
        ttl_floor.as_secs_f64(),
        batch,
    ))
}

/// A `dlock.Health`.
pub(crate) fn condition<'py>(py: Python<'py>, health: &Health) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CLASS.import(py, "dlock._observe", "Health")?.call1((
        health.status.as_str(),
        health.reasons.clone(),
        &*health.server,
        health.chosen_by.as_str(),
        health.round_trip.map(|took| took.as_secs_f64()),
        health.held,
        health.lagging,
        health.at_risk,
        health.renewal_lag.as_secs_f64(),
        health.warnings.clone(),
    ))
}
