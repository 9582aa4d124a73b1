//! The `__exit__` of one body.
//!
//! A `with` statement looks `__exit__` up right beside its call of `__enter__`, and keeps it until the body has ended. So each lookup makes
//! a new object, which learns the lease of its body. If that object is dropped without a call, an exception came before the body began, and
//! nothing will ever end it: then the object releases the lease. Before Python 3.14 no exception can come there; from then on a signal
//! handler can raise one (python/cpython#148874). `ExitStack` has such a gap on every Python.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyGeneratorExit, PyTypeError};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyWeakrefMethods, PyWeakrefReference};

use crate::event_loop::loop_runs;
use crate::handles::{entered, take_out};
use crate::hooks::{aside, hook};
use crate::lease::Lease;

thread_local! {
    /// The objects that have no lease yet, the newest last.
    static FRESH: RefCell<Vec<Weak<State>>> = const { RefCell::new(Vec::new()) };
}

/// How the bodies of one face end.
pub(crate) struct Face {
    /// Ends a body, given its lock, its lease if that is known, and the type and the value of the exception that ends it, or None.
    pub(crate) end: EndBody,
    /// Ends the body of a coroutine that is closed while no event loop runs. None for bodies that need no loop.
    pub(crate) close: Option<CloseBody>,
}

type EndBody = for<'py> fn(
    &Bound<'py, PyAny>,
    Option<Bound<'py, Lease>>,
    &Bound<'py, PyAny>,
    &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>>;
type CloseBody = for<'py> fn(&Bound<'py, PyAny>, Option<Bound<'py, Lease>>) -> PyResult<Bound<'py, PyAny>>;

/// The descriptor that is `__exit__` in the class.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct ExitMethod(pub(crate) &'static Face);

#[pymethods]
impl ExitMethod {
    /// If it is looked up on the class, as `ExitStack` does, it learns its lock from the next `__enter__`.
    fn __get__(&self, lock: Option<Bound<'_, PyAny>>, _class: Option<&Bound<'_, PyAny>>) -> Exit {
        let state = Arc::new(State::default());
        let bound = lock.is_some();
        if let Some(lock) = lock {
            let _ = state.lock.set(lock.unbind());
        }
        FRESH.with_borrow_mut(|fresh| {
            fresh.retain(|state| state.strong_count() > 0);
            fresh.push(Arc::downgrade(&state));
        });
        Exit { face: self.0, state, bound }
    }
}

#[derive(Default)]
pub(crate) struct State {
    lock: OnceLock<Py<PyAny>>,
    /// A weak reference: the lock keeps the lease.
    lease: OnceLock<Py<PyAny>>,
    spent: AtomicBool,
}

impl State {
    /// The body under this `__exit__` begins.
    pub(crate) fn enters(&self, lock: &Bound<'_, PyAny>, lease: &Bound<'_, Lease>) -> PyResult<()> {
        let _ = self.lock.set(lock.clone().unbind());
        let _ = self.lease.set(PyWeakrefReference::new(lease.as_any())?.into_any().unbind());
        Ok(())
    }

    /// Marks the body as ended, so that nothing is left to release. False if it was marked before.
    pub(crate) fn spend(&self) -> bool {
        !self.spent.swap(true, Ordering::Relaxed)
    }

    fn lease<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Lease>> {
        let lease = self.lease.get()?.bind(py).cast::<PyWeakrefReference>().ok()?.upgrade()?;
        lease.cast_into().ok()
    }
}

/// `__exit__` or `__aexit__` of one body: takes the type, the value and the traceback of an exception, or None.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct Exit {
    face: &'static Face,
    state: Arc<State>,
    bound: bool,
}

impl Exit {
    /// The newest object of this lock that has no lease: it belongs to the statement that calls `__enter__` now.
    pub(crate) fn claim(lock: &Bound<'_, PyAny>) -> Option<Arc<State>> {
        FRESH.with_borrow_mut(|fresh| {
            while let Some(state) = fresh.pop() {
                if let Some(state) = state.upgrade()
                    && state.lock.get().is_none_or(|known| known.is(lock))
                {
                    return Some(state);
                }
            }
            None
        })
    }
}

#[pymethods]
impl Exit {
    #[pyo3(signature = (*arguments))]
    fn __call__<'py>(slf: &Bound<'py, Self>, arguments: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let (lock, first) = match (this.bound, arguments.len(), this.state.lock.get()) {
            (true, 3, Some(lock)) => (lock.bind(py).clone(), 0),
            (false, 4, _) => (arguments.get_item(0)?, 1),
            _ => return Err(PyTypeError::new_err("__exit__ takes the type, the value and the traceback of an exception, or None")),
        };
        let (kind, error) = (arguments.get_item(first)?, arguments.get_item(first + 1)?);
        if let Some(close) = this.face.close
            && !loop_runs(py)?
        {
            if !kind.is(py.get_type::<PyGeneratorExit>()) {
                return hook(py, "inside")?.call1((slf, arguments));
            }
            let lease = if this.state.spend() { this.state.lease(py) } else { None };
            return close(&lock, lease);
        }
        let lease = if this.state.spend() { this.state.lease(py) } else { None };
        (this.face.end)(&lock, lease, &kind, &error)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.state.lock.get())
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        if self.state.lease.get().is_some() && self.state.spend() {
            Python::try_attach(|py| aside(py, || self.release_unbegun(py)));
        }
    }
}

impl Exit {
    /// Releases the lease of a body that never began, and that nothing will end.
    fn release_unbegun(&self, py: Python<'_>) -> PyResult<()> {
        let (Some(lock), Some(lease)) = (self.state.lock.get(), self.state.lease(py)) else { return Ok(()) };
        if take_out(&entered(lock.bind(py))?, |other| other.is(&lease))?.is_some() {
            Lease::begin_release(&lease);
            lease.getattr(intern!(py, "_body_never_began"))?.call0()?;
        }
        Ok(())
    }
}
