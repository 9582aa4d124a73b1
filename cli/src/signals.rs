//! Reads signals from a descriptor, like messages, instead of handling them.
//!
//! They are blocked in every thread. The descriptor also shows the sender, which matters because the terminal sends its signals to the
//! command as well.

use std::io;
use std::sync::Arc;

use nix::sys::signal::{SigSet, Signal as Name};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{Pid, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The signals that are passed on to the command.
const FORWARDED: [Name; 6] = [Name::SIGTERM, Name::SIGINT, Name::SIGHUP, Name::SIGQUIT, Name::SIGUSR1, Name::SIGUSR2];

/// A signal that was received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IncomingSignal {
    pub(crate) signal: Signal,
    pub(crate) from: SignalSender,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignalSender {
    /// The kernel, for example on behalf of the terminal, for its whole foreground group.
    Kernel,
    /// A process; `None` if it is outside our pid namespace.
    Process(Option<Pid>),
}

impl IncomingSignal {
    /// Whether the signal asks dlock to end. The others are meant for the command only.
    pub(crate) fn ends(self) -> bool {
        [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT].contains(&self.signal)
    }
}

/// The blocked signals. They are blocked before any other thread starts, since threads inherit it.
#[derive(Debug)]
pub(crate) struct BlockedSignals(SigSet);

impl BlockedSignals {
    /// Blocks the signals that we pass on, and CHLD, in this thread and the threads that it will start.
    pub(crate) fn block() -> io::Result<Self> {
        let set = ours(&ignored());
        set.thread_block()?;
        Ok(Self(set))
    }

    /// Starts reading. Needs a runtime.
    pub(crate) fn listen(self) -> io::Result<Signals> {
        // Our parent may have ignored CHLD, which we inherit: then the kernel would reap our children before we could wait for them. A
        // handler, even one that never runs, ends that.
        signal_hook::flag::register(Signal::CHILD.as_raw(), Arc::default())?;
        let descriptor = SignalFd::with_flags(&self.0, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        // The constructor that replaces this one is `unsafe`, because an owner might close or swap its descriptor. Ours keeps it for life.
        #[expect(deprecated)]
        let descriptor = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
        Ok(Signals { descriptor })
    }
}

/// Unblocks the signals for the command, which would inherit the block.
pub(crate) fn unblock() -> io::Result<()> {
    ours(&ignored()).thread_unblock()?;
    Ok(())
}

/// The stream of blocked signals.
#[derive(Debug)]
pub(crate) struct Signals {
    descriptor: AsyncFd<SignalFd>,
}

impl Signals {
    /// The next signal.
    ///
    /// # Cancel safety
    /// Dropping it loses no signal.
    pub(crate) async fn next(&self) -> io::Result<IncomingSignal> {
        loop {
            let mut ready = self.descriptor.readable().await?;
            let Some(info) = self.descriptor.get_ref().read_signal()? else {
                ready.clear_ready();
                continue;
            };
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            let Some(signal) = Signal::from_named_raw(number) else { continue };
            // Positive codes are the kernel's own; those of kill and sigqueue are zero or below.
            let from = if info.ssi_code > 0 {
                SignalSender::Kernel
            } else {
                SignalSender::Process(i32::try_from(info.ssi_pid).ok().and_then(Pid::from_raw))
            };
            return Ok(IncomingSignal { signal, from });
        }
    }
}

/// The signals that we read, without those that our parent had us ignore: under nohup the command is to ignore HUP as well.
fn ours(ignored: &SigSet) -> SigSet {
    let mut set = SigSet::empty();
    for name in FORWARDED.into_iter().filter(|name| !ignored.contains(*name)) {
        set.add(name);
    }
    set.add(Name::SIGCHLD);
    set
}

/// The signals that this process ignores; none if that cannot be read.
fn ignored() -> SigSet {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    Name::iterator().filter(|name| mask >> (*name as u32 - 1) & 1 == 1).collect()
}
