//! A lease of `dlock.sync`. Its release is native, so that no signal handler runs before the release has begun.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::blocking;
use crate::call::Call;
use crate::completion::{Completions, Outcome};
use crate::error::{is_forked, raise};
use crate::hooks::unexpected;
use crate::lease::Lease;

/// The part of `dlock.sync.Lease` that releases it.
#[pyclass(frozen, subclass, module = "dlock._native")]
pub(crate) struct SyncLease;

#[pymethods]
impl SyncLease {
    /// Releases the key. The lease stops being valid at once.
    ///
    /// True if the backend confirmed the release within `op_timeout`. Otherwise `status` has the state, and the engine goes on trying until
    /// the lease would have expired.
    ///
    /// With `reentrant`, each release undoes one acquire, and the last one frees the key.
    ///
    /// In `dlock.sync`, the release goes on in the background if a signal handler raises during the call.
    fn release(slf: &Bound<'_, Self>) -> PyResult<bool> {
        release(slf.as_any().cast()?)
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let lease = slf.as_any();
        let known: &Bound<'_, Lease> = lease.cast()?;
        known.get().enter_body(slf.py())?;
        Ok(lease.clone())
    }

    fn __exit__(
        slf: &Bound<'_, Self>,
        kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        end_body(slf.as_any().cast()?, kind)
    }
}

/// The class of leases of `dlock.sync`.
pub(crate) fn class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    static CLASS: pyo3::sync::PyOnceLock<Py<PyType>> = pyo3::sync::PyOnceLock::new();
    CLASS.import(py, "dlock.sync", "Lease").cloned()
}

/// Begins the release and waits for the answer.
pub(crate) fn release(lease: &Bound<'_, Lease>) -> PyResult<bool> {
    answer_to(lease.py(), |completions| {
        if let Some(completions) = completions {
            return Lease::release(lease, completions, 0);
        }
        Lease::begin_release(lease);
        Ok(None)
    })
}

/// Waits for the answer to a release that `begin` begins, and that comes to the queue. Without a queue, because a signal handler
/// has raised, the release begins all the same.
pub(crate) fn answer_to(py: Python<'_>, begin: impl FnOnce(Option<&Completions>) -> PyResult<Option<Call>>) -> PyResult<bool> {
    let completions = match blocking::queue(py) {
        Ok(completions) => completions,
        Err(raised) => {
            // It fails only in a forked child, which has nothing to release.
            let _ = begin(None);
            return Err(raised);
        }
    };
    let call = begin(Some(&completions))?;
    // From here on an exception does no harm: the release has begun.
    blocking::warn_in_loop(py)?;
    match blocking::wait(py, completions, call)? {
        Outcome::Answer(confirmed) => Ok(confirmed),
        _ => Err(unexpected()),
    }
}

/// Ends a body: releases the lease, and raises the loss if the body did not raise.
pub(crate) fn end_body(lease: &Bound<'_, Lease>, kind: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = lease.py();
    let lost = lease.get().loss();
    match release(lease) {
        Ok(_) => {}
        Err(error) if !kind.is_none() && is_forked(py, &error)? => {}
        Err(error) => return Err(error),
    }
    match lost {
        Some(lost) if kind.is_none() && lease.getattr(intern!(py, "_on_lost"))?.ne("ignore")? => Err(raise(lost)),
        _ => Ok(()),
    }
}
