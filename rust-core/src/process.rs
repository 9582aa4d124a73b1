//! The identity of this process, and values that belong to the process that made them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};

/// How long the end of a process, or of a client, waits for the releases that are under way, and a backend for what it ends then:
/// long enough for a server that answers, short enough for a program that wants to end.
pub const EXIT_GRACE: Duration = Duration::from_secs(2);

/// The id of this process, once the host language has promised to report every fork; zero while the kernel must be asked.
static REMEMBERED: AtomicU32 = AtomicU32::new(0);

/// The id of this process.
///
/// A forked child has a copy of whatever its parent knew. So the kernel is asked each time, which takes as long as the rest of a
/// look at a lease, unless the host language reports its forks.
pub(crate) fn id() -> u32 {
    match REMEMBERED.load(Ordering::Relaxed) {
        0 => std::process::id(),
        remembered => remembered,
    }
}

/// From now on [`forked`] is called in every forked child, before any other call.
pub(crate) fn remember() {
    REMEMBERED.store(std::process::id(), Ordering::Relaxed);
}

/// Notes that this is a forked child.
pub(crate) fn forked() {
    if REMEMBERED.load(Ordering::Relaxed) != 0 {
        remember();
    }
}

/// A shared value that a forked child can neither use nor drop.
///
/// The child has a copy of the memory but none of the engine's threads, and threads that no longer exist may hold the locks in it.
/// So the child leaves the value alone, even its reference count.
pub(crate) struct Bound<T> {
    pid: u32,
    /// Taken out only on drop.
    value: Option<Arc<T>>,
}

impl<T> Bound<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        Self { pid: id(), value: Some(value) }
    }

    /// The value, in the process that made it.
    ///
    /// # Errors
    /// [`Error::Forked`] in any other process.
    pub(crate) fn get(&self) -> Result<&Arc<T>> {
        let mine = self.value.as_ref().filter(|_| !self.is_foreign());
        mine.ok_or(Error::Forked { parent: self.pid })
    }

    /// The value, to be dropped in the process that made it; `None` in any other.
    pub(crate) fn take(&mut self) -> Option<Arc<T>> {
        let value = self.value.take()?;
        if self.is_foreign() {
            std::mem::forget(value);
            return None;
        }
        Some(value)
    }

    fn is_foreign(&self) -> bool {
        self.pid != id()
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
