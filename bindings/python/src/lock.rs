//! A lock in Python: what starts an attempt.

use std::time::Duration;

use pyo3::prelude::*;

use crate::caller::Caller;
use crate::completion::{Call, Completions, Outcome};
use crate::error::raise;
use crate::lease::{Undelivered, give_back};
use crate::process::Owned;
use crate::values::duration_or_none;

/// A key with its options.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct Lock(Owned<dlock::Lock>);

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
                Ok(lease) if watch => Outcome::Granted(lease.watched_by(queue.clone(), number)),
                Ok(lease) => Outcome::Granted(lease),
                Err(error) => Outcome::Failed(error),
            };
            queue.push(number, outcome);
        };
        let (asks, holds) = (caller.0.clone(), caller.0.clone());
        self.0.get()?.acquire_for(asks, holds, wait, granted).map(Call::new).map_err(raise)
    }
}

#[pymethods]
impl Lock {
    /// The key.
    #[getter]
    fn key(&self) -> &str {
        self.0.read_only().map_or("", |lock| lock.key())
    }

    /// Whether an acquire with the lock's own `wait` may wait.
    #[getter]
    fn waits(&self) -> bool {
        self.0.read_only().is_some_and(|lock| lock.options().wait != Some(Duration::ZERO))
    }

    /// Whether an acquire makes bounded attempts instead of waiting.
    #[getter]
    fn retries(&self) -> bool {
        self.0.read_only().is_some_and(|lock| lock.options().retry.is_some())
    }

    /// For how many seconds its holders may give no sign of life.
    #[getter]
    fn max_stall(&self) -> Option<f64> {
        self.0.read_only().and_then(|lock| lock.options().max_stall).map(|max_stall| max_stall.as_secs_f64())
    }

    /// Starts an attempt; the answer is a `Grant`. With `watch`, a loss of the lease comes under the same number.
    fn acquire(&self, completions: &Completions, number: u64, watch: bool, caller: &Caller) -> PyResult<Call> {
        let wait = self.0.read_only().and_then(|lock| lock.options().wait);
        self.start(completions, number, watch, caller, wait)
    }

    /// `acquire` with a `wait` of its own: None for ever, zero to try once.
    #[pyo3(signature = (completions, number, watch, caller, wait))]
    fn acquire_within(
        &self,
        completions: &Completions,
        number: u64,
        watch: bool,
        caller: &Caller,
        wait: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Call> {
        self.start(completions, number, watch, caller, duration_or_none("wait", wait)?)
    }

    /// Whether the key is held, through this client, by one who started the caller. True once for each lease.
    fn is_held_by_starter_of(&self, caller: &Caller) -> bool {
        self.0.mine().is_some_and(|lock| lock.is_held_by_starter_of(&caller.0))
    }

    /// Releases the only outstanding lease; the answer says whether the backend confirmed it.
    fn release(&self, completions: &Completions, number: u64) -> PyResult<()> {
        give_back(&self.0.get()?.only_lease("release").map_err(raise)?, completions, number).map(drop)
    }

    /// `(key, token)` of the held leases that only this lock remembers: they are given back with it.
    fn forgotten(&self) -> Vec<(String, u64)> {
        let Some(lock) = self.0.mine() else { return Vec::new() };
        lock.forgotten().into_iter().map(|(key, token)| (key.to_string(), token)).collect()
    }
}
