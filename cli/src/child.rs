//! Starts the command so that it cannot outlive dlock.
//!
//! dlock starts itself again. The copy asks the kernel to kill it when its parent dies, checks that the parent still lives, and executes the
//! command in its place. The kernel counts the *thread* that started the copy as the parent: this is the main thread, which lives as long as
//! dlock does.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use dlock::Lease;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal};

use crate::args::Exec;
use crate::exit::{Failure, NOT_EXECUTABLE, NOT_FOUND, SYSTEM};
use crate::{json, signals};

/// The running program, even after its file was replaced by a newer one.
const OURSELVES: &str = "/proc/self/exe";

/// Starts the command. Where the lease has lock files, the command shares them, so that the key becomes free only when both are gone.
pub(crate) fn start(command: &[OsString], lease: &Lease) -> Result<Pid, Failure> {
    let cannot = |error: io::Error| Failure::system("the command cannot be started", error);
    let files = lease.lock_files()?;
    for file in &files {
        fcntl_setfd(file, FdFlags::empty()).map_err(|error| cannot(error.into()))?;
    }
    let child = Command::new(OURSELVES)
        .arg0("dlock")
        .args(json::wanted().then_some("--json"))
        .args(["exec".to_owned(), getpid().as_raw_nonzero().to_string(), "--".to_owned()])
        .args(command)
        .env("DLOCK_KEY", &**lease.key())
        .env("DLOCK_TOKEN", lease.token().to_string())
        .spawn()
        .map_err(cannot)?;
    // `run` waits for it, together with all orphans that become our children.
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| Failure::new(SYSTEM, "the command has no process id"))
}

/// Passes a signal on. An error is ignored, since the command may just have ended.
pub(crate) fn pass_on(command: Pid, signal: Signal) {
    if let Err(error) = kill_process(command, signal) {
        tracing::debug!(%error, ?signal, "not passed on");
    }
}

/// What the copy does. Returns only if the command cannot be executed.
pub(crate) fn become_command(exec: &Exec) -> Failure {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return Failure::system("the command cannot be tied to dlock", error);
    }
    // If the parent died before the call above, somebody else is our parent now, and nobody would kill us.
    if getppid() != Pid::from_raw(exec.parent) {
        return Failure::new(SYSTEM, "dlock was killed before the command could start");
    }
    if let Err(error) = signals::unblock() {
        return Failure::system("signals cannot be unblocked", error);
    }
    let [program, arguments @ ..] = exec.command.as_slice() else { return Failure::usage("the command is missing") };
    let error = Command::new(program).args(arguments).exec();
    let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
    Failure::new(code, format_args!("{}: {error}", program.display()))
}
