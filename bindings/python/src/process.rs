//! Values that a forked child must neither use nor drop.
//!
//! The child has a copy of the memory but none of the engine's threads, so a mutex in it may stay locked for ever.

use std::sync::atomic::{AtomicU32, Ordering};

use dlock::fork::process_id;
use pyo3::PyResult;

use crate::error::raise;

/// A value of the process that first used it.
pub(crate) struct Owned<T> {
    /// Zero while nobody has used it.
    pid: AtomicU32,
    /// Taken out only on drop.
    value: Option<T>,
}

impl<T> Owned<T> {
    /// A value that belongs to this process.
    pub(crate) fn new(value: T) -> Self {
        Self { pid: AtomicU32::new(process_id()), value: Some(value) }
    }

    /// A value that belongs to the first process that uses it.
    pub(crate) fn unused(value: T) -> Self {
        Self { pid: AtomicU32::new(0), value: Some(value) }
    }

    /// The value, in its process; `ForkedError` in any other.
    pub(crate) fn get(&self) -> PyResult<&T> {
        self.mine().ok_or_else(|| raise(dlock::Error::Forked { parent: self.pid.load(Ordering::Relaxed) }))
    }

    /// The value, in its process.
    pub(crate) fn mine(&self) -> Option<&T> {
        let here = process_id();
        let owner = self.pid.compare_exchange(0, here, Ordering::Relaxed, Ordering::Relaxed).unwrap_or_else(|owner| owner);
        self.value.as_ref().filter(|_| owner == 0 || owner == here)
    }

    /// The value, for what a child may read too: nothing behind a mutex.
    pub(crate) fn read_only(&self) -> Option<&T> {
        self.value.as_ref()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !matches!(*self.pid.get_mut(), 0) && *self.pid.get_mut() != process_id() {
            std::mem::forget(self.value.take());
        }
    }
}
