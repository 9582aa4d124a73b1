//! Turns the engine's errors into those of `dlock.errors`, which chooses the class by the stable code.

use std::error::Error as _;

use dlock::Error;
use dlock::printable::{LONGEST_ANSWER, cut};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};

use crate::objects::holder;

/// The error as a Python exception. The caller holds the GIL.
#[allow(clippy::needless_pass_by_value)] // made for `map_err(raise)`
pub(crate) fn raise(error: Error) -> PyErr {
    Python::attach(|py| match exception(py, &error) {
        Ok(exception) => PyErr::from_value(exception),
        Err(failure) => failure,
    })
}

/// The error as an instance of its Python class.
pub(crate) fn exception<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let fields = PyDict::new(py);
    if let Some(key) = error.key() {
        fields.set_item("key", key)?;
    }
    if let Some(held_by) = error.holder() {
        fields.set_item("holder", holder(py, held_by)?)?;
    }
    match error {
        Error::AcquireTimeout { waited, .. } => fields.set_item("waited", waited.as_secs_f64())?,
        Error::RetriesExhausted { attempts, .. } => fields.set_item("attempts", attempts)?,
        Error::LockLost { token, reason, .. } => {
            fields.set_item("token", token)?;
            fields.set_item("reason", reason.as_str())?;
        }
        Error::NotHeld { operation, .. } | Error::Ambiguous { operation, .. } | Error::ClientClosed { operation } => {
            fields.set_item("operation", operation)?;
        }
        Error::BackendUnavailable { operation, server, .. } | Error::BackendRefused { operation, server, .. } => {
            fields.set_item("operation", operation)?;
            fields.set_item("server", server.as_ref())?;
        }
        Error::InvalidOptions { field, value, allowed } => {
            fields.set_item("field", field)?;
            fields.set_item("value", value)?;
            fields.set_item("allowed", allowed)?;
        }
        _ => {}
    }
    MAKE.import(py, "dlock.errors", "from_engine")?.call1((error.code(), error.to_string(), fields, causes(error)))
}

/// The causes of an error, outermost first.
fn causes(error: &Error) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        // A server may have written the text.
        let text = cut(&error.to_string(), LONGEST_ANSWER);
        if causes.last() != Some(&text) {
            causes.push(text);
        }
        cause = error.source();
    }
    causes
}

pub(crate) fn is_forked(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    Ok(error.is_instance(py, CLASS.import(py, "dlock.errors", "ForkedError")?))
}

pub(crate) fn is_lock_error(py: Python<'_>, error: &PyErr) -> bool {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "dlock.errors", "LockError").is_ok_and(|class| error.is_instance(py, class))
}
