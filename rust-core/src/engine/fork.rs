//! What a host language calls around `fork`, so that a child shares none of its parent's locks.
//!
//! ```
//! dlock::fork::before_fork();
//! // fork() happens here; then, depending on which process this is:
//! dlock::fork::after_fork_in_parent();
//! ```

use crate::backend::local::forking;
use crate::engine::runtime;
use crate::process;

/// Promises that every fork from now on is told of with the functions below, the child's before it does anything else with us: then the
/// engine need not ask the kernel, several times for each lock, which process it is in.
pub fn trust_hooks() {
    process::remember();
}

/// The id of this process, as far as the hooks can tell.
pub fn process_id() -> u32 {
    process::id()
}

/// Waits until no lock file is being opened or closed and no engine is being started, and keeps it so. To be called on the thread that
/// forks, right before.
pub fn before_fork() {
    runtime::before_fork();
    forking::before_fork();
}

/// Lets the parent go on. To be called on the thread that forked.
pub fn after_fork_in_parent() {
    forking::after_fork_in_parent();
    runtime::after_fork();
}

/// Lets go of every inherited lock file, without unlocking any, and of the inherited watches. To be called in the child.
pub fn after_fork_in_child() {
    process::forked();
    forking::after_fork_in_child();
    runtime::after_fork();
}
