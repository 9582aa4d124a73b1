//! Steps of Python that the native part takes, and how it takes them where an exception must not get in the way.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// A function of `dlock._hooks`.
pub(crate) fn hook<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    static HOOKS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    HOOKS.get_or_try_init(py, || py.import("dlock._hooks").map(|module| module.into_any().unbind()))?.bind(py).getattr(name)
}

/// The error for an outcome that does not belong to the call: only a mistake in this package can cause it.
pub(crate) fn unexpected() -> PyErr {
    PyRuntimeError::new_err("the engine answered another call")
}

/// Runs a step of Python without which nothing could be released. If a signal handler raises in it, the step runs once more.
pub(crate) fn insist<T>(step: impl Fn() -> PyResult<T>) -> PyResult<(T, Option<PyErr>)> {
    match step() {
        Ok(value) => Ok((value, None)),
        Err(interrupted) => Ok((step()?, Some(interrupted))),
    }
}

/// Runs Python code while an exception may be pending. Nobody could catch another one, so what the code raises is only reported.
pub(crate) fn aside(py: Python<'_>, work: impl FnOnce() -> PyResult<()>) {
    let on_its_way = PyErr::take(py);
    if let Err(error) = work() {
        error.write_unraisable(py, None);
    }
    if let Some(error) = on_its_way {
        error.restore(py);
    }
}
