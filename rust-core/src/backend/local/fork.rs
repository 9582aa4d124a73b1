//! What a host language calls around `fork`, so that a child shares none of its parent's locks.
//!
//! ```
//! dlock::fork::before_fork();
//! // fork() happens here; then, depending on which process this is:
//! dlock::fork::after_fork_in_parent();
//! ```

use std::cell::RefCell;
use std::sync::MutexGuard;

use super::files::{Table, table};
use crate::process;

thread_local! {
    static PARKED: RefCell<Option<MutexGuard<'static, Table>>> = const { RefCell::new(None) };
}

/// Promises that every fork from now on is told of with the functions below, the child's before it does anything else with us: then the
/// engine need not ask the kernel, several times for each lock, which process it is in.
pub fn trust_hooks() {
    process::remember();
}

/// The id of this process, as far as the hooks can tell.
pub fn process_id() -> u32 {
    process::id()
}

/// Waits until no lock file is being opened or closed, and keeps it so. To be called on the thread that forks, right before.
pub fn before_fork() {
    PARKED.with_borrow_mut(|parked| {
        if parked.is_none() {
            *parked = Some(table());
        }
    });
}

/// Lets the parent go on. To be called on the thread that forked.
pub fn after_fork_in_parent() {
    PARKED.with_borrow_mut(|parked| drop(parked.take()));
}

/// Lets go of every inherited lock file, without unlocking any, and of the inherited watches. To be called in the child.
pub fn after_fork_in_child() {
    process::forked();
    PARKED.with_borrow_mut(|parked| {
        let mut table = parked.take().unwrap_or_else(table);
        table.abandon();
    });
}
