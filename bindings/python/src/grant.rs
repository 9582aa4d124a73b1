//! A grant on its way from the engine to its caller.

use dlock::LossReason;
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::process::Owned;

/// A lease that has not reached its caller. Dropping it releases it.
pub(crate) struct Undelivered(Option<dlock::Lease>);

impl Undelivered {
    pub(crate) fn new(lease: dlock::Lease) -> Self {
        Self(Some(lease))
    }

    /// Calls `lost` when the lease is lost.
    pub(crate) fn watched_by(self, lost: impl FnOnce(LossReason) + Send + 'static) -> Self {
        if let Some(lease) = &self.0 {
            lease.on_lost(lost);
        }
        self
    }

    fn deliver(mut self) -> Option<dlock::Lease> {
        self.0.take()
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        if let Some(lease) = self.0.take() {
            // Fails only in a forked child, which has nothing to release.
            let _ = lease.begin_release();
        }
    }
}

/// A grant. `Lease(grant)` takes the lease out of it; a grant that nobody takes releases its lease.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct Grant(Owned<Mutex<Option<Undelivered>>>);

impl Grant {
    pub(crate) fn new(lease: Undelivered) -> Self {
        Self(Owned::new(Mutex::new(Some(lease))))
    }

    pub(crate) fn take(&self) -> PyResult<Option<dlock::Lease>> {
        Ok(self.0.get()?.lock().take().and_then(Undelivered::deliver))
    }
}

#[pymethods]
impl Grant {
    /// Releases the lease, unless somebody took it.
    pub(crate) fn release(&self) -> PyResult<()> {
        let lease = self.0.get()?.lock().take();
        drop(lease);
        Ok(())
    }
}
