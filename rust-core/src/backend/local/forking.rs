//! What happens to lock files when the process forks.

use std::cell::RefCell;
use std::sync::MutexGuard;

use super::files::{DescriptorTable, table};

thread_local! {
    static PARKED: RefCell<Option<MutexGuard<'static, DescriptorTable>>> = const { RefCell::new(None) };
}

/// Waits until no lock file is being opened or closed, and keeps it so.
pub(crate) fn before_fork() {
    PARKED.with_borrow_mut(|parked| {
        if parked.is_none() {
            *parked = Some(table());
        }
    });
}

/// Lets the parent go on.
pub(crate) fn after_fork_in_parent() {
    PARKED.with_borrow_mut(|parked| drop(parked.take()));
}

/// Lets go of every inherited lock file, without unlocking any, and of the inherited watches.
pub(crate) fn after_fork_in_child() {
    PARKED.with_borrow_mut(|parked| {
        let mut table = parked.take().unwrap_or_else(table);
        table.abandon();
    });
}
