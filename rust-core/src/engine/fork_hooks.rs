//! Hooks that a host language calls around `fork`, so that a child shares none of its parent's locks.
//!
//! ```
//! dlock::fork::before_fork();
//! // fork() happens here; then, depending on which process this is:
//! dlock::fork::after_fork_in_parent();
//! ```

use crate::backend::local::forking;
use crate::engine::runtime;
use crate::process;

/// Promises that the hooks below are called around every fork, in the child before any other call. Then the engine need not ask the
/// kernel, several times for each lock, in which process it runs.
pub fn trust_hooks() {
    process::remember();
}

/// The id of this process, as far as the hooks can tell.
pub fn process_id() -> u32 {
    process::id()
}

/// Waits until no lock file is being opened or closed and no engine is being started, and keeps it so until the fork is over. Call
/// it on the thread that forks, right before the fork.
pub fn before_fork() {
    runtime::before_fork();
    forking::before_fork();
}

/// Lets the parent go on. Call it on the thread that forked.
pub fn after_fork_in_parent() {
    forking::after_fork_in_parent();
    runtime::after_fork();
}

/// Closes every inherited lock file and every inherited watch, without unlocking any. Call it in the child.
pub fn after_fork_in_child() {
    process::forked();
    forking::after_fork_in_child();
    runtime::after_fork();
}
