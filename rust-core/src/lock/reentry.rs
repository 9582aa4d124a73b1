//! Reentrant locks in Rust: which caller may enter which lease again.
//!
//! The lease does the counting ([`Lease::enter`]); each language tells its callers apart.

use std::sync::Weak;
use std::thread::{self, ThreadId};

use parking_lot::Mutex;
use tokio::runtime;
use tokio::task;

use crate::error::{Error, Result};
use crate::lease::{Handle, Lease};

/// Who acquires. What may enter again is what cannot run beside itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taker {
    /// A task of tokio.
    Task(task::Id),
    /// A thread that waits in `block_on`.
    Thread(ThreadId),
}

impl Taker {
    /// # Errors
    /// [`Error::InvalidOptions`] outside of tokio: the tasks of other runtimes cannot be told apart.
    pub(super) fn current() -> Result<Self> {
        if let Some(task) = task::try_id() {
            return Ok(Self::Task(task));
        }
        match runtime::Handle::try_current() {
            Ok(_) => Ok(Self::Thread(thread::current().id())),
            Err(_) => Err(Error::invalid("reentrant", "true", "only in tasks of a tokio runtime; elsewhere call Lease::enter")),
        }
    }
}

/// The leases of a reentrant lock, by caller.
#[derive(Default)]
pub(super) struct Entered(Mutex<Vec<(Taker, Weak<Handle>)>>);

impl Entered {
    /// The caller's own lease, entered once more.
    pub(super) fn again(&self, caller: Taker) -> Option<Lease> {
        let own: Vec<_> = {
            let taken = self.0.lock();
            taken.iter().filter(|(taker, _)| *taker == caller).filter_map(|(_, lease)| lease.upgrade().map(Lease::from)).collect()
        };
        // Dropped outside the lock: the last handle of a lease may report its loss.
        own.into_iter().find(Lease::enter)
    }

    pub(super) fn remember(&self, caller: Taker, lease: &Lease) {
        let mut taken = self.0.lock();
        let mut seen = Vec::with_capacity(taken.len());
        taken.retain(|(_, lease)| {
            lease.upgrade().is_some_and(|handle| {
                let goes_on = !handle.has_ended();
                seen.push(handle);
                goes_on
            })
        });
        taken.push((caller, lease.downgrade()));
        // Unlocked before `seen` is dropped, for the same reason.
        drop(taken);
    }
}
