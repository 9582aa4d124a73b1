//! What both faces have of a lease.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use dlock::Status;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyWeakrefMethods, PyWeakrefReference};

use crate::call::Call;
use crate::completion::{Completions, Outcome, start};
use crate::error::raise;
use crate::grant::Grant;
use crate::hooks::{aside, hook, unexpected};
use crate::process::Owned;
use crate::taker::{discard, warn_dropped};
use crate::values::{duration, flag};

/// Releases a lease and pushes the answer: whether the backend confirmed it. Returns None, and pushes true, if that undid one of several
/// entries and the lease is still held.
pub(crate) fn release(lease: &dlock::Lease, completions: &Completions, number: u64) -> PyResult<Option<Call>> {
    let queue = completions.queue()?;
    let answered = move |status| queue.push(number, Outcome::Answer(matches!(status, Status::Released | Status::Held)));
    release_and(lease, completions, number, answered)
}

fn release_and(
    lease: &dlock::Lease,
    completions: &Completions,
    number: u64,
    answered: impl FnOnce(Status) + Send + 'static,
) -> PyResult<Option<Call>> {
    let outcome = completions.outcome(number)?;
    let call = outcome.driving(|| lease.release_for(completions.reader(), answered)).map_err(raise)?;
    Ok(call.map(|call| Call::new(call, outcome)))
}

/// What both faces have of a lease.
#[pyclass(frozen, subclass, module = "dlock._native")]
pub(crate) struct Lease(Owned<dlock::Lease>, Course);

/// How far the lease has got in Python.
#[derive(Default)]
struct Course {
    /// The body of a `with` has begun.
    entered: AtomicBool,
    released: AtomicBool,
}

impl Lease {
    /// The lease, for what a forked child may ask too.
    fn record(&self) -> PyResult<&dlock::Lease> {
        self.0.read_only().ok_or_else(|| PyRuntimeError::new_err("the lease is gone"))
    }

    pub(crate) fn is_released(&self) -> bool {
        self.1.released.load(Ordering::Relaxed)
    }

    pub(crate) fn set_entered(&self) {
        self.1.entered.store(true, Ordering::Relaxed);
    }

    /// Begins the one body that a lease may have.
    pub(crate) fn enter_body(&self, py: Python<'_>) -> PyResult<()> {
        if self.1.entered.load(Ordering::Relaxed) {
            return Err(PyErr::from_value(hook(py, "already_entered")?.call1((self.key()?,))?));
        }
        self.check()?;
        py.check_signals()?;
        self.set_entered();
        Ok(())
    }

    /// Enters a held lease again. It then takes one more release to free the key.
    pub(crate) fn again(&self) -> bool {
        self.0.mine().is_some_and(dlock::Lease::enter)
    }

    /// Checks a grant that has reached its caller. A lease that was lost on the way is released, and its error returned.
    pub(crate) fn claim(slf: &Bound<'_, Self>) -> PyResult<Option<dlock::Error>> {
        let lease = slf.get().0.get()?;
        if lease.is_valid() {
            return Ok(None);
        }
        let lost = lease.claim().err().filter(|error| matches!(error, dlock::Error::LockLost { .. }));
        if lost.is_some() {
            Self::mark_released(slf);
        }
        Ok(lost)
    }

    /// How often the event loop that acquired the lease sends heartbeats; None if the lease needs none.
    pub(crate) fn heartbeat_every(&self) -> Option<f64> {
        self.0.mine().and_then(dlock::Lease::heartbeat_every).map(|every| every.as_secs_f64())
    }

    /// Why the holder must not go on, if the lease was lost.
    pub(crate) fn loss(&self) -> Option<dlock::Error> {
        let lease = self.0.mine().filter(|lease| !lease.is_valid())?;
        lease.check().err().filter(|error| matches!(error, dlock::Error::LockLost { .. }))
    }

    /// Releases the lease, or undoes one entry, and does not wait for the answer.
    pub(crate) fn begin_release(slf: &Bound<'_, Self>) {
        let lease = slf.get();
        if !lease.is_released() && lease.0.mine().is_some_and(|lease| lease.release_then(drop).unwrap_or(false)) {
            Self::mark_released(slf);
        }
    }

    /// Releases the lease, or undoes one entry, and pushes the answer. None if that undid one of several entries.
    pub(crate) fn release(slf: &Bound<'_, Self>, completions: &Completions, number: u64) -> PyResult<Option<Call>> {
        Ok(Self::ended(slf, release(slf.get().0.get()?, completions, number)?))
    }

    /// As [`Lease::release`], with None as the answer: the end of a body awaits it.
    pub(crate) fn end(slf: &Bound<'_, Self>, completions: &Completions, number: u64) -> PyResult<Option<Call>> {
        let queue = completions.queue()?;
        let answered = move |_| queue.push(number, Outcome::Done);
        Ok(Self::ended(slf, release_and(slf.get().0.get()?, completions, number, answered)?))
    }

    fn ended(slf: &Bound<'_, Self>, call: Option<Call>) -> Option<Call> {
        if call.is_some() {
            Self::mark_released(slf);
        }
        call
    }

    /// Marks the lease as released through this handle, and ends what Python does for it.
    fn mark_released(slf: &Bound<'_, Self>) {
        slf.get().1.released.store(true, Ordering::Relaxed);
        // It fails only for a lease that its client does not know yet.
        let _ = forget(slf);
    }
}

/// A lease on its way to its caller. It is released unless every step up to there succeeds.
pub(crate) struct Got<'py>(Option<Bound<'py, Lease>>);

impl<'py> Got<'py> {
    pub(crate) fn new(lease: Bound<'py, Lease>) -> Self {
        Self(Some(lease))
    }

    pub(crate) fn lease(&self) -> PyResult<&Bound<'py, Lease>> {
        self.0.as_ref().ok_or_else(unexpected)
    }

    /// The lease, for the caller that has it now.
    pub(crate) fn keep(mut self) -> PyResult<Bound<'py, Lease>> {
        self.0.take().ok_or_else(unexpected)
    }
}

impl Drop for Got<'_> {
    fn drop(&mut self) {
        if let Some(lease) = &self.0 {
            Lease::begin_release(lease);
            let py = lease.py();
            if lease.get().is_released() {
                aside(py, || lease.call_method0(intern!(py, "_body_never_began")).map(drop));
            }
        }
    }
}

/// Removes the lease from the client's latest leases.
fn forget(lease: &Bound<'_, Lease>) -> PyResult<()> {
    let py = lease.py();
    let Some(leases) = lease.getattr_opt(intern!(py, "_leases"))? else { return Ok(()) };
    let (leases, key) = (leases.cast_into::<PyDict>()?, lease.getattr(intern!(py, "_key"))?);
    if let Some(known) = leases.get_item(&key)?
        && known.cast::<PyWeakrefReference>()?.upgrade().is_none_or(|known| known.is(lease))
    {
        leases.del_item(key)?;
    }
    Ok(())
}

impl Drop for Lease {
    /// Releases a lease whose handle is dropped while an exception is pending: a signal handler raised before the statement that acquired
    /// it could keep it. Its lock remembers the lease, but nobody is going to release it.
    fn drop(&mut self) {
        if self.is_released() {
            return;
        }
        let Some(lease) = self.0.mine().filter(|lease| lease.is_valid()) else { return };
        Python::try_attach(|py| {
            if PyErr::occurred(py) {
                let _ = lease.begin_release();
                let dropped = vec![(lease.key().to_string(), lease.token())];
                aside(py, || warn_dropped(py, dropped, None));
            }
        });
    }
}

#[pymethods]
impl Lease {
    /// The arguments after the grant are for the subclass.
    #[new]
    #[pyo3(signature = (grant, *_face))]
    fn new(grant: &Grant, _face: &Bound<'_, PyTuple>) -> PyResult<Self> {
        grant
            .take()?
            .map(|lease| Self(Owned::new(lease), Course::default()))
            .ok_or_else(|| PyRuntimeError::new_err("the grant was taken before"))
    }

    /// The key that was granted.
    #[getter]
    fn key(&self) -> PyResult<&str> {
        Ok(self.record()?.key())
    }

    /// The fencing token: greater than every token granted for this key before.
    #[getter]
    fn token(&self) -> PyResult<u64> {
        Ok(self.record()?.token())
    }

    /// The owner id of the attempt that acquired the lease, as other processes see it.
    #[getter]
    fn owner(&self) -> PyResult<String> {
        Ok(self.record()?.owner())
    }

    /// Wall time of the grant, for display.
    #[getter]
    fn acquired_at(&self) -> PyResult<SystemTime> {
        Ok(self.record()?.acquired_at())
    }

    /// Wall time at which the lease ends, for display.
    #[getter]
    fn expires_at(&self) -> PyResult<SystemTime> {
        Ok(self.0.get()?.expires_at())
    }

    /// The lease time in seconds, of the latest grant or extension.
    #[getter]
    fn ttl(&self) -> PyResult<f64> {
        Ok(self.0.get()?.ttl().as_secs_f64())
    }

    /// For how many seconds the holder may still rely on the lease; zero once it is not valid.
    #[getter]
    fn remaining(&self) -> f64 {
        self.0.mine().map_or(0.0, |lease| lease.remaining().as_secs_f64())
    }

    /// The end of the lease, in nanoseconds on the engine's clock, for comparisons. Unlike `remaining` it reads no clock.
    #[getter]
    fn _ends(&self) -> u64 {
        self.0.mine().map_or(0, |lease| lease.valid_until().as_nanos())
    }

    /// Whether the holder may rely on the lease now. It reads the clock. False in a forked child.
    #[getter]
    fn valid(&self) -> bool {
        self.0.mine().is_some_and(dlock::Lease::is_valid)
    }

    /// Whether the lease ended without being released.
    #[getter]
    fn lost(&self) -> PyResult<bool> {
        Ok(matches!(self.0.get()?.status(), Status::Lost(_)))
    }

    /// `held`, `releasing`, `released`, `not_held`, `unknown` or `lost`.
    #[getter]
    fn status(&self) -> PyResult<&'static str> {
        Ok(self.0.get()?.status().as_str())
    }

    /// Raises `LockLost` or `NotHeld` unless the lease is valid.
    pub(crate) fn check(&self) -> PyResult<()> {
        self.0.get()?.check().map_err(raise)
    }

    /// Switches automatic renewal on or off while the lease is held.
    fn auto_renew(&self, renew: &Bound<'_, PyAny>) -> PyResult<()> {
        self.0.get()?.auto_renew(flag("renew", renew)?);
        Ok(())
    }

    /// A heartbeat: with `max_stall`, the lease ends if none comes for that long. False once the lease has ended.
    ///
    /// In asyncio, the event loop that acquired the lease sends heartbeats by itself. In `dlock.sync`, the holder calls this.
    fn heartbeat(&self) -> bool {
        self.0.mine().is_some_and(dlock::Lease::heartbeat)
    }

    /// Whether it was released through this handle.
    #[getter]
    fn _released(&self) -> bool {
        self.is_released()
    }

    /// A body that was about to begin never did, and the lease was released. asyncio's class does more.
    #[allow(clippy::unused_self)] // a method that Python overrides
    fn _body_never_began(&self) {}

    /// What `__del__` does. It is native: an exception of a signal handler in Python code would reach nobody.
    fn _dropped(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if this.is_released() {
            return Ok(());
        }
        forget(slf)?;
        let Some(lease) = this.0.mine() else { return Ok(()) };
        if !lease.is_last_handle() {
            // Its lock remembers it, so its taker may still release it through the lock.
            let taker = slf.getattr_opt(intern!(slf.py(), "_taker"))?;
            if !lease.is_valid() || taker.is_none_or(|taker| discard(&taker, lease).unwrap_or(true)) {
                return Ok(());
            }
            let _ = lease.begin_release();
        }
        warn_dropped(slf.py(), vec![(lease.key().to_string(), lease.token())], Some(slf.as_any()))
    }

    /// Pushes a loss under `number`.
    fn _watch(&self, completions: &Completions, number: u64) -> PyResult<()> {
        let queue = completions.queue()?;
        self.0.get()?.on_lost(move |reason| queue.push(number, Outcome::Lost(reason)));
        Ok(())
    }

    fn _extend(&self, completions: &Completions, number: u64, ttl: &Bound<'_, PyAny>) -> PyResult<Call> {
        let (lease, ttl) = (self.0.get()?.clone(), duration("ttl", ttl)?);
        start(completions, number, async move { lease.extend(ttl).await.map(|()| Outcome::Done) })
    }

    fn _wait_lost(&self, completions: &Completions, number: u64) -> PyResult<Call> {
        let lease = self.0.get()?.clone();
        start(completions, number, async move { Ok(Outcome::Lost(lease.lost().await)) })
    }
}
