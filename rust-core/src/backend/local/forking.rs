//! The hooks that keep lock files safe when the process forks.

use std::cell::RefCell;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};

use super::files::{DescriptorTable, table};

thread_local! {
    static LOCKED_TABLE: RefCell<Option<MutexGuard<'static, DescriptorTable>>> = const { RefCell::new(None) };
}

static IS_UNDER_WAY: AtomicBool = AtomicBool::new(false);

/// Whether a thread forks now. It keeps the table until then, and may wait for what a caller has, such as Python's GIL: a caller that waited
/// for the table would wait for ever.
pub(super) fn is_under_way() -> bool {
    IS_UNDER_WAY.load(Ordering::SeqCst)
}

/// Waits until nobody opens or closes a lock file, and keeps it so until one of the calls below.
pub(crate) fn before_fork() {
    LOCKED_TABLE.with_borrow_mut(|locked| {
        if locked.is_none() {
            *locked = Some(table());
            IS_UNDER_WAY.store(true, Ordering::SeqCst);
        }
    });
}

/// Lets the parent go on.
pub(crate) fn after_fork_in_parent() {
    IS_UNDER_WAY.store(false, Ordering::SeqCst);
    LOCKED_TABLE.with_borrow_mut(|locked| drop(locked.take()));
}

/// Closes every inherited lock file without unlocking it, and the inherited watches.
pub(crate) fn after_fork_in_child() {
    IS_UNDER_WAY.store(false, Ordering::SeqCst);
    LOCKED_TABLE.with_borrow_mut(|locked| {
        let mut table = locked.take().unwrap_or_else(table);
        table.abandon();
    });
}
