//! Things that belong to the process that made them.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// A shared value that a forked child can neither use nor drop.
///
/// The child has a copy of the memory but none of the engine's threads, and locks in it may be held by threads that no longer exist. So the
/// child leaves the value alone, even its reference count.
pub(crate) struct Bound<T> {
    pid: u32,
    /// Taken out only on drop.
    value: Option<Arc<T>>,
}

impl<T> Bound<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        Self { pid: std::process::id(), value: Some(value) }
    }

    /// The value, in the process that made it.
    ///
    /// # Errors
    /// [`Error::Forked`] in any other.
    pub(crate) fn get(&self) -> Result<&Arc<T>> {
        let mine = self.value.as_ref().filter(|_| !self.is_foreign());
        mine.ok_or(Error::Forked { parent: self.pid })
    }

    /// The value, to be dropped by the process that made it; nothing in any other.
    pub(crate) fn take(&mut self) -> Option<Arc<T>> {
        let value = self.value.take()?;
        if self.is_foreign() {
            std::mem::forget(value);
            return None;
        }
        Some(value)
    }

    /// Asks the kernel each time: no copy of the answer survives a fork truthfully.
    fn is_foreign(&self) -> bool {
        self.pid != std::process::id()
    }
}

impl<T> Clone for Bound<T> {
    fn clone(&self) -> Self {
        Self { pid: self.pid, value: self.value.clone() }
    }
}

impl<T> Drop for Bound<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl<T> fmt::Debug for Bound<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("pid", &self.pid).finish_non_exhaustive()
    }
}
