//! A lock of asyncio: how a lease is released, and how a body ends.
//!
//! As in `sync_lock`, only native code runs from the grant until the caller has the lease, and until a release has begun. In a step of
//! Python in between, a signal handler or a debugger could raise, and the lease would stay held.

use pyo3::exceptions::PyStopIteration;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::acquiring::{Acquiring, Body};
use crate::call::Call;
use crate::completion::Completions;
use crate::error::{is_forked, is_lock_error, raise};
use crate::event_loop::{current, current_task, loop_runs, next_number, read_for, taker};
use crate::exit::{Exit, ExitMethod, Face};
use crate::handles::{entered, take_out, to_end, to_release};
use crate::hooks::{hook, insist};
use crate::lease::{self, Lease};
use crate::lock::{Lock, Wait};

/// The part of `dlock.Lock` that acquires and releases.
#[pyclass(frozen, subclass, module = "dlock._native")]
pub(crate) struct AsyncLock;

#[pymethods]
impl AsyncLock {
    fn __aenter__(slf: &Bound<'_, Self>) -> Acquiring {
        let lock = slf.as_any();
        Acquiring::new(lock, &Wait::Own, Body::Under(Exit::claim(lock)))
    }

    /// Releases the lease that this task acquired last with this lock, else the only outstanding one. See `Lease.release`.
    fn release<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, lock) = (slf.py(), slf.as_any());
        if !loop_runs(py)? {
            return hook(py, "inside")?.call1((slf.getattr(intern!(py, "release"))?, ()));
        }
        let (task, interrupted) = insist(|| current_task(py))?;
        let lease = to_release(lock, &taker(&task)?)?;
        let begun = match &lease {
            Some(lease) => begin(lease, Ending::Release),
            // There is none, or several, or one whose handle was dropped: the engine decides.
            None => begin_only(lock),
        };
        answer(begun, interrupted)
    }

    #[classattr]
    fn __aexit__() -> ExitMethod {
        ExitMethod(&FACE)
    }
}

/// How bodies of asyncio end.
static FACE: Face = Face { end: end_entered, close: Some(end_closed) };

/// The part of `dlock.Lease` that releases it.
#[pyclass(frozen, subclass, module = "dlock._native")]
pub(crate) struct AsyncLease;

#[pymethods]
impl AsyncLease {
    /// Releases the key. The lease stops being valid at once.
    ///
    /// True if the backend confirmed the release within `op_timeout`. Otherwise `status` has the state, and the engine goes on trying until
    /// the lease would have expired.
    ///
    /// With `reentrant`, each release undoes one acquire, and the last one frees the key.
    ///
    /// In asyncio, the release begins with the call, and awaiting it gives the answer. If the caller is cancelled, the release goes on in the
    /// background.
    fn release<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if !loop_runs(py)? {
            return hook(py, "inside")?.call1((slf.getattr(intern!(py, "release"))?, ()));
        }
        answer(begin(slf.as_any().cast()?, Ending::Release), None)
    }

    fn __aenter__(slf: &Bound<'_, Self>) -> PyResult<Ready> {
        let (py, lease) = (slf.py(), slf.as_any().cast::<Lease>()?);
        lease.get().check()?;
        let (state, task) = (current(py)?, current_task(py)?);
        lease.call_method1(intern!(py, "_enter"), (state, task, false)).inspect_err(|raised| {
            // A signal handler raised, so the `with` statement does not reach its body.
            if !is_lock_error(py, raised) {
                Lease::begin_release(lease);
            }
        })?;
        Ok(Ready(lease.clone().into_any().unbind()))
    }

    fn __aexit__<'py>(
        slf: &Bound<'py, Self>,
        kind: &Bound<'py, PyAny>,
        error: &Bound<'py, PyAny>,
        _trace: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        end_body(slf.as_any().cast()?, kind, error, false)
    }
}

/// An awaitable that is ready at once.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct Ready(Py<PyAny>);

#[pymethods]
impl Ready {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<()> {
        Err(PyStopIteration::new_err((self.0.clone_ref(py),)))
    }
}

/// Ends a body. `lease` is known if the body has its own `__aexit__`; otherwise the running task identifies it.
fn end_entered<'py>(
    lock: &Bound<'py, PyAny>,
    lease: Option<Bound<'py, Lease>>,
    kind: &Bound<'py, PyAny>,
    error: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = lock.py();
    let list = entered(lock)?;
    let (lease, interrupted) = if let Some(lease) = lease {
        take_out(&list, |other| other.is(&lease))?;
        (lease, None)
    } else {
        let (task, interrupted) = insist(|| current_task(py))?;
        (to_end(lock, &taker(&task)?, "__aexit__")?, interrupted)
    };
    let inner = list.iter().any(|other| other.is(&lease));
    let ended = end_body(&lease, kind, error, inner);
    interrupted.map_or(ended, Err)
}

/// Ends the body of a coroutine that is closed while no loop runs. Nothing can be awaited then.
fn end_closed<'py>(lock: &Bound<'py, PyAny>, lease: Option<Bound<'py, Lease>>) -> PyResult<Bound<'py, PyAny>> {
    let py = lock.py();
    if let Some(lease) = lease {
        take_out(&entered(lock)?, |other| other.is(&lease))?;
        Lease::begin_release(&lease);
        lease.call_method0(intern!(py, "_body_never_began"))?;
    }
    Ok(Bound::new(py, Ready(py.None()))?.into_any())
}

/// Begins the release and returns an awaitable for its end. `inner`: other bodies of the same task use this lease too.
fn end_body<'py>(
    lease: &Bound<'py, Lease>,
    kind: &Bound<'py, PyAny>,
    error: &Bound<'py, PyAny>,
    inner: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let py = lease.py();
    let lost = lease.get().loss();
    let well = !inner && kind.is_none() && lost.is_none() && !lease.getattr(intern!(py, "_cancelled"))?.is_truthy()?;
    if well {
        lease.setattr(intern!(py, "_body"), py.None())?;
    }
    let begun = begin(
        lease,
        if inner {
            Ending::Release
        } else if well {
            Ending::Body
        } else {
            Ending::BodyExplained
        },
    );
    if well {
        return begun;
    }
    let future = match begun {
        Err(failure) if !kind.is_none() && is_forked(py, &failure)? => py.None().into_bound(py),
        begun => begun?,
    };
    let lost = lost.map(|lost| raise(lost).into_value(py));
    let end = if inner { intern!(py, "_end_inner_body") } else { intern!(py, "_end_body") };
    lease.call_method1(end, (kind, error, lost, future))
}

#[derive(Clone, Copy, PartialEq)]
enum Ending {
    /// A call of `release`, or the end of an inner body.
    Release,
    /// The end of a body without an exception, a loss or a cancellation.
    Body,
    /// The end of a body whose exception, loss or cancellation has to be explained.
    BodyExplained,
}

/// Begins the release of a lease. The future gets the answer: whether the backend confirmed it, or None for the end of a body.
fn begin<'py>(lease: &Bound<'py, Lease>, ending: Ending) -> PyResult<Bound<'py, PyAny>> {
    let py = lease.py();
    let watching = lease.getattr(intern!(py, "_state"))?;
    let (state, interrupted) = match if watching.is_none() { insist(|| current(py)) } else { Ok((watching.clone(), None)) } {
        Ok(found) => found,
        Err(raised) => {
            Lease::begin_release(lease);
            return Err(raised);
        }
    };
    let (completions, number) = next_number(&state)?;
    let call = if ending == Ending::Body {
        Lease::end(lease, completions.get(), number)?
    } else {
        Lease::release(lease, completions.get(), number)?
    };
    // From here on an exception does no harm: the release has begun.
    if (call.is_some() || ending != Ending::Release) && !watching.is_none() {
        let watched = state.getattr(intern!(py, "_watched"))?;
        let _ = watched.cast::<PyDict>()?.del_item(lease.getattr(intern!(py, "_number"))?);
        lease.setattr(intern!(py, "_state"), py.None())?;
    }
    let end = end_of(&state, completions.get(), number, call)?;
    interrupted.map_or(Ok(end), Err)
}

/// What the caller of a release awaits: it is ready if the answer has come.
fn end_of<'py>(
    state: &Bound<'py, PyAny>,
    completions: &Completions,
    number: u64,
    call: Option<Call>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = state.py();
    if let Some(outcome) = completions.queue()?.take_one(number) {
        return Ok(Bound::new(py, Ready(outcome.into_value(py)?.unbind()))?.into_any());
    }
    let future = state.call_method1(intern!(py, "expect"), (number,))?;
    if let Some(call) = call {
        read_for(state, &Bound::new(py, call)?)?;
    }
    Ok(future)
}

fn begin_only<'py>(lock: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = lock.py();
    let native: Bound<'_, Lock> = lock.getattr(intern!(py, "_native"))?.cast_into()?;
    let lease = native.get().only_lease()?;
    let (state, interrupted) = insist(|| current(py)).inspect_err(|_| {
        let _ = lease.begin_release();
    })?;
    let (completions, number) = next_number(&state)?;
    let call = lease::release(&lease, completions.get(), number)?;
    let end = end_of(&state, completions.get(), number, call)?;
    interrupted.map_or(Ok(end), Err)
}

/// A coroutine that awaits an answer.
fn answer(future: PyResult<Bound<'_, PyAny>>, interrupted: Option<PyErr>) -> PyResult<Bound<'_, PyAny>> {
    let future = future?;
    match interrupted {
        Some(interrupted) => Err(interrupted),
        None => hook(future.py(), "answer")?.call1((future,)),
    }
}
