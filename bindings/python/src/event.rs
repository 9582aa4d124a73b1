//! `dlock.Event`: an event of the engine. Its fields become Python objects only when they are read.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use dlock::observe::{Event as Happened, Kind};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use crate::error::raise;

/// The fields, in the order in which `__new__` takes them.
const FIELDS: [&str; 7] = ["kind", "key", "token", "owner", "waited", "held", "reason"];

/// Something that happened to a lease, or to an attempt to acquire one.
#[pyclass(frozen, eq, module = "dlock")]
#[derive(PartialEq)]
pub(crate) struct Event(pub(crate) Happened);

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = (kind, key, token=None, owner=None, waited=None, held=None, reason=None))]
    fn new(
        kind: &str,
        key: &str,
        token: Option<u64>,
        owner: Option<&str>,
        waited: Option<f64>,
        held: Option<f64>,
        reason: Option<String>,
    ) -> PyResult<Self> {
        Ok(Self(Happened {
            kind: Kind::parse(kind).map_err(raise)?,
            key: key.into(),
            token,
            owner: owner.map(str::parse).transpose().map_err(invalid)?,
            waited: waited.map(Duration::try_from_secs_f64).transpose().map_err(invalid)?,
            held: held.map(Duration::try_from_secs_f64).transpose().map_err(invalid)?,
            reason: reason.map(Cow::Owned),
        }))
    }

    #[classattr]
    #[pyo3(name = "__match_args__")]
    fn match_args(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        PyTuple::new(py, FIELDS)
    }

    #[getter]
    fn kind<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        static WORDS: PyOnceLock<[Py<PyString>; Kind::ALL.len()]> = PyOnceLock::new();
        let words = WORDS.get_or_init(py, || Kind::ALL.map(|kind| PyString::intern(py, kind.as_str()).unbind()));
        // Each kind is one bit.
        words[(self.0.kind as u8).trailing_zeros() as usize].bind(py)
    }

    #[getter]
    fn key(&self) -> &str {
        &self.0.key
    }

    /// None if no lease was acquired.
    #[getter]
    fn token(&self) -> Option<u64> {
        self.0.token
    }

    /// None if no lease was acquired.
    #[getter]
    fn owner(&self) -> Option<String> {
        self.0.owner.map(|owner| owner.to_string())
    }

    /// How many seconds the attempt took. Set on `acquired` and `acquire_failed`.
    #[getter]
    fn waited(&self) -> Option<f64> {
        self.0.waited.map(|waited| waited.as_secs_f64())
    }

    /// For how many seconds the lease has been held. Set on every event after `acquired`.
    #[getter]
    fn held(&self) -> Option<f64> {
        self.0.held.map(|held| held.as_secs_f64())
    }

    /// For `lost` the reason; for `acquire_failed` the error's code or `CANCELLED`; for `renewal_failed` the backend's error; for
    /// `released` the status.
    #[getter]
    fn reason(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// All fields by name.
    fn _asdict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let fields = PyDict::new(py);
        for (name, value) in FIELDS.into_iter().zip(self.values(py)?) {
            fields.set_item(name, value)?;
        }
        Ok(fields)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let mut shown = Vec::with_capacity(FIELDS.len());
        for (name, value) in FIELDS.into_iter().zip(self.values(py)?) {
            shown.push(format!("{name}={}", value.repr()?));
        }
        Ok(format!("Event({})", shown.join(", ")))
    }

    fn __hash__(&self) -> u64 {
        let Happened { kind, key, token, owner, waited, held, reason } = &self.0;
        let mut hasher = DefaultHasher::new();
        (kind, key, token, owner, waited, held, reason).hash(&mut hasher);
        hasher.finish()
    }

    /// Copies and pickles are made from the values.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyType>, Bound<'py, PyTuple>)> {
        Ok((py.get_type::<Self>(), self.values(py)?))
    }
}

impl Event {
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let values = (self.kind(py), self.key(), self.token(), self.owner(), self.waited(), self.held(), self.reason());
        values.into_pyobject(py)
    }
}

#[allow(clippy::needless_pass_by_value)] // what `map_err` hands over
fn invalid(error: impl ToString) -> PyErr {
    PyValueError::new_err(error.to_string())
}
