//! A lock in Python: it starts attempts to acquire.

use std::time::Duration;

use pyo3::prelude::*;

use crate::call::Call;
use crate::caller::Caller;
use crate::completion::{Completions, Outcome};
use crate::error::raise;
use crate::grant::Undelivered;
use crate::hooks::hook;
use crate::process::Owned;
use crate::values::duration_or_none;

/// A key with its options.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct Lock(Owned<dlock::Lock>);

/// The `wait` of one acquire.
pub(crate) enum Wait<'py> {
    /// The lock's own.
    Own,
    /// The caller's own; None waits for ever.
    Given(Bound<'py, PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for Wait<'py> {
    type Error = PyErr;

    fn extract(wait: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let given = wait.to_owned();
        Ok(if given.is(hook(wait.py(), "UNSET")?) { Self::Own } else { Self::Given(given) })
    }
}

impl Lock {
    pub(crate) fn new(lock: dlock::Lock) -> Self {
        Self(Owned::unused(lock))
    }

    fn start(
        &self,
        completions: &Completions,
        number: u64,
        watch: bool,
        caller: &Caller,
        wait: Option<Duration>,
    ) -> PyResult<Call> {
        let queue = completions.queue()?;
        let granted = move |granted: dlock::Result<dlock::Lease>| {
            let outcome = match granted.map(Undelivered::new) {
                Ok(lease) if watch => {
                    let queue = queue.clone();
                    Outcome::Granted(lease.watched_by(move |reason| queue.push(number, Outcome::Lost(reason))))
                }
                Ok(lease) => Outcome::Granted(lease),
                Err(error) => Outcome::Failed(error),
            };
            queue.push(number, outcome);
        };
        let (asks, holds) = (caller.0.clone(), caller.0.clone());
        let (lock, reader) = (self.0.get()?, completions.reader());
        let outcome = completions.outcome(number)?;
        let call = outcome.driving(|| lock.acquire_for(asks, holds, wait, reader, granted));
        call.map(|call| Call::new(call, outcome)).map_err(raise)
    }

    /// Starts an attempt; the answer is a `Grant`. With `watch`, a loss of the lease comes under the same number.
    pub(crate) fn acquire(
        &self,
        completions: &Completions,
        number: u64,
        watch: bool,
        caller: &Caller,
        wait: &Wait<'_>,
    ) -> PyResult<Call> {
        self.start(completions, number, watch, caller, self.wait_of(wait)?)
    }

    /// Whether an acquire with this `wait` waits for the key in line.
    pub(crate) fn waits(&self, wait: &Wait<'_>) -> PyResult<bool> {
        let wait = self.wait_of(wait)?;
        Ok(self.0.read_only().is_some_and(|lock| lock.options().waits(wait)))
    }

    fn wait_of(&self, wait: &Wait<'_>) -> PyResult<Option<Duration>> {
        match wait {
            Wait::Own => Ok(self.0.read_only().and_then(|lock| lock.options().wait)),
            Wait::Given(wait) => duration_or_none("wait", Some(wait).filter(|wait| !wait.is_none())),
        }
    }

    /// `(key, token)` of the discarded leases that are still held. They are dropped with this lock.
    pub(crate) fn dropped_with_it(&self) -> Vec<(String, u64)> {
        let Some(lock) = self.0.mine() else { return Vec::new() };
        lock.forgotten().into_iter().map(|(key, token)| (key.to_string(), token)).collect()
    }

    /// The only lease that was acquired and not released.
    pub(crate) fn only_lease(&self) -> PyResult<dlock::Lease> {
        self.0.get()?.only_lease("release").map_err(raise)
    }
}

#[pymethods]
impl Lock {
    /// The key.
    #[getter]
    fn key(&self) -> &str {
        self.0.read_only().map_or("", |lock| lock.key())
    }

    /// Whether a caller that started this one holds the key through this client. True only once for each lease.
    fn is_held_by_starter_of(&self, caller: &Caller) -> bool {
        self.0.mine().is_some_and(|lock| lock.is_held_by_starter_of(&caller.0))
    }
}
