//! A lock of `dlock.sync`. Only native code runs from the grant to the beginning of the body, and from the body's end to the release: a
//! signal handler may raise between two steps of Python, and here it runs only where that loses no lease.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::blocking;
use crate::caller::Caller;
use crate::completion::{Completions, Outcome};
use crate::error::raise;
use crate::exit::{Exit, ExitMethod, Face};
use crate::grant::Grant;
use crate::handles::{Prepared, entered, prepare, remember, take_out, to_end, to_release, warned};
use crate::hooks::{hook, insist, unexpected};
use crate::lease::{self, Got, Lease};
use crate::lock::{Lock, Wait};
use crate::sync_lease::{self, end_body};
use crate::taker::taker;

/// The part of `dlock.sync.Lock` that acquires and releases.
#[pyclass(frozen, subclass, module = "dlock._native")]
pub(crate) struct SyncLock;

#[pymethods]
impl SyncLock {
    /// Waits for the key and returns the lease. `wait` replaces the lock's own: 0 tries once, None waits for ever.
    ///
    /// Raises `AcquireTimeout` when `wait` is over, `LockBusy` when it is 0 and another holder has the key, `RetriesExhausted` after the last
    /// attempt of `retry`, `BackendUnavailable` when the backend failed for `connect_timeout`.
    ///
    /// In `dlock.sync`, an exception that a signal handler raises ends the attempt, and a grant that is under way is released.
    #[pyo3(signature = (*, wait = Wait::Own, **other), text_signature = "($self, *, wait=..., **other)")]
    #[allow(clippy::needless_pass_by_value)] // extracted
    fn acquire<'py>(slf: &Bound<'py, Self>, wait: Wait<'py>, other: Option<Bound<'py, PyDict>>) -> PyResult<Bound<'py, Lease>> {
        if let Some(other) = other {
            hook(slf.py(), "refuse_words")?.call1(("acquire", other, "wait"))?;
        }
        let got = get(slf.as_any(), &wait)?;
        remember(slf.as_any(), got.lease()?)?;
        hand_over(slf.py(), got)
    }

    /// Releases the lease that this thread acquired last with this lock, else the only outstanding one. See `Lease.release`.
    fn release(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let (py, lock) = (slf.py(), slf.as_any());
        let (taker, interrupted) = insist(|| taker(py))?;
        let released = match to_release(lock, &taker)? {
            Some(lease) => sync_lease::release(&lease),
            // There is none, or several, or one whose handle was dropped: the engine decides.
            None => release_only(lock),
        };
        interrupted.map_or(released, Err)
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Lease>> {
        let (py, lock) = (slf.py(), slf.as_any());
        let exit = Exit::claim(lock);
        let got = get(lock, &Wait::Own)?;
        let lease = got.lease()?.clone();
        lease.get().set_entered();
        let entered = entered(lock)?;
        entered.append(&lease)?;
        if let Some(exit) = &exit {
            exit.enters(lock, &lease)?;
        }
        // From Python 3.14 on, signal handlers could otherwise run between here and the body, where nothing calls `__exit__`.
        hand_over(py, got).inspect_err(|_| {
            if let Some(exit) = &exit {
                exit.spend();
            }
            // By identity: another thread may have begun a body while the handler ran.
            let _ = take_out(&entered, |other| other.is(&lease));
        })
    }

    #[classattr]
    fn __exit__() -> ExitMethod {
        ExitMethod(&FACE)
    }
}

/// How bodies of `dlock.sync` end.
static FACE: Face = Face { end: end_entered, close: None };

/// Ends a body. `lease` is known if the body has its own `__exit__`; otherwise the running thread identifies it.
fn end_entered<'py>(
    lock: &Bound<'py, PyAny>,
    lease: Option<Bound<'py, Lease>>,
    kind: &Bound<'py, PyAny>,
    _error: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = lock.py();
    let nothing = py.None().into_bound(py);
    if let Some(lease) = lease {
        take_out(&entered(lock)?, |other| other.is(&lease))?;
        return end_body(&lease, kind).map(|()| nothing);
    }
    let (taker, interrupted) = insist(|| taker(py))?;
    let ended = end_body(&to_end(lock, &taker, "__exit__")?, kind);
    interrupted.map_or(ended, Err).map(|()| nothing)
}

/// Hands the lease to the caller, unless a signal handler raises.
fn hand_over<'py>(py: Python<'py>, got: Got<'py>) -> PyResult<Bound<'py, Lease>> {
    py.check_signals()?;
    got.keep()
}

/// Waits for the key, or enters the lease of this thread again.
fn get<'py>(lock: &Bound<'py, PyAny>, wait: &Wait<'py>) -> PyResult<Got<'py>> {
    let py = lock.py();
    let taker = taker(py)?;
    let attempt = match prepare(lock, wait, || Ok(taker.clone()))? {
        Prepared::Again(own) => return Ok(Got::new(own)),
        Prepared::Ask(attempt) => attempt,
    };
    let class = sync_lease::class(py)?;
    let native: Bound<'_, Lock> = lock.getattr(intern!(py, "_native"))?.cast_into()?;
    let caller: Bound<'_, Caller> = hook(py, "caller_of_thread")?.call1((&taker,))?.cast_into()?;
    let start = |completions: &Completions| native.get().acquire(completions, 0, false, caller.get(), wait).map(Some);
    let outcome = blocking::run(py, start).map_err(|error| warned(lock, &caller, error))?;
    let Outcome::Granted(grant) = outcome else { return Err(unexpected()) };
    let grant = Bound::new(py, Grant::new(grant))?;
    let got = Got::new(class.call1((grant,))?.cast_into()?);
    let lease = got.lease()?;
    if let Some(lost) = attempt.deliver(lease, taker)? {
        return Err(raise(lost));
    }
    Ok(got)
}

fn release_only(lock: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = lock.py();
    let native: Bound<'_, Lock> = lock.getattr(intern!(py, "_native"))?.cast_into()?;
    let lease = native.get().only_lease()?;
    sync_lease::answer_to(py, move |completions| match completions {
        Some(completions) => lease::release(&lease, completions, 0),
        None => lease.begin_release().map(|()| None).map_err(raise),
    })
}
