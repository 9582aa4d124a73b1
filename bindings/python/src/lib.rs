//! `dlock._native`: the engine as Python sees it. Data in, data out; policy stays in the engine.
#![forbid(unsafe_code)]

mod acquiring;
mod async_lock;
mod blocking;
mod call;
mod caller;
mod client;
mod completion;
mod error;
mod event;
mod event_loop;
mod exit;
mod grant;
mod handles;
mod hooks;
mod lease;
mod lock;
mod objects;
mod observe;
mod process;
mod sync_lease;
mod sync_lock;
mod taker;
mod values;

/// Memory that one thread allocates is often freed on another, which the system allocator serialises (measured: a tenth of the time of an
/// acquire and release).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The extension module `dlock._native`.
#[pyo3::pymodule]
mod _native {
    use std::time::Duration;

    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::acquiring::Acquiring;
    #[pymodule_export]
    use crate::async_lock::{AsyncLease, AsyncLock};
    #[pymodule_export]
    use crate::blocking::block;
    #[pymodule_export]
    use crate::call::{Call, Descriptor};
    #[pymodule_export]
    use crate::caller::Caller;
    #[pymodule_export]
    use crate::client::Client;
    #[pymodule_export]
    use crate::completion::{Completions, tell};
    #[pymodule_export]
    use crate::event::Event;
    #[pymodule_export]
    use crate::exit::Exit;
    #[pymodule_export]
    use crate::grant::Grant;
    #[pymodule_export]
    use crate::handles::Handle;
    #[pymodule_export]
    use crate::lease::Lease;
    #[pymodule_export]
    use crate::lock::Lock;
    #[pymodule_export]
    use crate::observe::{Subscription, listen_to_logs, set_log_level, take_logs};
    #[pymodule_export]
    use crate::sync_lease::SyncLease;
    #[pymodule_export]
    use crate::sync_lock::SyncLock;
    #[pymodule_export]
    use crate::taker::taker;

    /// Version of the engine, shared by every package of the project.
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// Closes every client of this process and releases what they hold, within the time that the engine allows at exit.
    #[pyfunction]
    fn shutdown(py: Python<'_>) {
        py.detach(|| dlock::shutdown(dlock::EXIT_GRACE));
    }

    /// The names of the loggers under which the engine logs.
    #[pyfunction]
    fn log_targets() -> Vec<String> {
        dlock::logs::TARGETS.iter().map(|target| crate::observe::logger(target)).collect()
    }

    /// The log message of a client for which nothing chose a backend.
    #[pymodule_export]
    const DEFAULT_CHOSEN: &str = dlock::choice::DEFAULT_CHOSEN;

    /// The question about a TTL that is allowed but looks like milliseconds.
    #[pyfunction]
    fn ttl_hint(ttl: f64) -> Option<String> {
        Duration::try_from_secs_f64(ttl).ok().and_then(dlock::options::ttl_hint)
    }

    /// Checks a duration that a later call will use.
    #[pyfunction]
    fn check_seconds(field: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        crate::values::duration(field, value).map(|_| ())
    }

    /// Promises that Python calls the three functions below around every `fork`.
    #[pyfunction]
    fn trust_hooks() {
        dlock::fork::trust_hooks();
    }

    /// Python calls this right before `fork`.
    #[pyfunction]
    fn before_fork() {
        dlock::fork::before_fork();
    }

    /// Python calls this in the parent after `fork`.
    #[pyfunction]
    fn after_fork_in_parent() {
        dlock::fork::after_fork_in_parent();
    }

    /// Python calls this in the child after `fork`.
    #[pyfunction]
    fn after_fork_in_child() {
        dlock::fork::after_fork_in_child();
    }
}
