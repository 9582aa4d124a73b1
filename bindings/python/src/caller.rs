//! A caller as Python knows it: a task or a thread, and the caller that started it.

use pyo3::prelude::*;

/// A caller of the engine.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct Caller(pub(crate) dlock::Caller);

#[pymethods]
impl Caller {
    /// A caller that `started_by` started, or one without a starter.
    #[new]
    #[pyo3(signature = (started_by = None))]
    fn new(started_by: Option<&Self>) -> Self {
        Self(started_by.map_or_else(dlock::Caller::root, |parent| parent.0.child()))
    }

    /// A caller about which nothing is known.
    #[staticmethod]
    fn unknown() -> Self {
        Self(dlock::Caller::unknown())
    }
}
