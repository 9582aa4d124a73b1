//! The hooks that keep lock files safe when the process forks.

use std::cell::RefCell;
use std::sync::MutexGuard;

use super::files::{DescriptorTable, table};

thread_local! {
    static LOCKED_TABLE: RefCell<Option<MutexGuard<'static, DescriptorTable>>> = const { RefCell::new(None) };
}

/// Waits until nobody opens or closes a lock file, and keeps it so until one of the calls below.
pub(crate) fn before_fork() {
    LOCKED_TABLE.with_borrow_mut(|locked| {
        if locked.is_none() {
            *locked = Some(table());
        }
    });
}

/// Lets the parent go on.
pub(crate) fn after_fork_in_parent() {
    LOCKED_TABLE.with_borrow_mut(|locked| drop(locked.take()));
}

/// Closes every inherited lock file without unlocking it, and the inherited watches.
pub(crate) fn after_fork_in_child() {
    LOCKED_TABLE.with_borrow_mut(|locked| {
        let mut table = locked.take().unwrap_or_else(table);
        table.abandon();
    });
}
