//! Who asks, as Python knows it: a task or a thread, and by whom it was started.

use pyo3::prelude::*;

/// A caller of the engine's. Immutable; compares by nothing but what the engine makes of it.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct Caller(pub(crate) dlock::Caller);

#[pymethods]
impl Caller {
    /// A caller that `started_by` started; without it, one that nobody did.
    #[new]
    #[pyo3(signature = (started_by = None))]
    fn new(started_by: Option<&Self>) -> Self {
        Self(started_by.map_or_else(dlock::Caller::root, |parent| parent.0.child()))
    }

    /// A caller of which nothing is known.
    #[staticmethod]
    fn unknown() -> Self {
        Self(dlock::Caller::unknown())
    }
}
