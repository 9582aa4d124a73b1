//! Signals, read like messages instead of interrupting us.
//!
//! They are blocked in every thread and come out of a descriptor with the sender beside them. The sender matters: what the terminal sends,
//! it sends to the command as well.

use std::io;
use std::sync::Arc;

use nix::sys::signal::{SigSet, Signal as Name};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{Pid, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What is passed on to the command.
const FORWARDED: [Name; 6] = [Name::SIGTERM, Name::SIGINT, Name::SIGHUP, Name::SIGQUIT, Name::SIGUSR1, Name::SIGUSR2];

/// A signal that came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming {
    pub(crate) signal: Signal,
    pub(crate) from: Sender,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// The kernel: by the terminal to its whole foreground group, for instance.
    Kernel,
    /// A process; `None` if it is outside of our pid namespace.
    Process(Option<Pid>),
}

impl Incoming {
    /// Whether it asks us to end, rather than to tell the command something.
    pub(crate) fn ends(self) -> bool {
        [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT].contains(&self.signal)
    }
}

/// The blocked signals. Made before any other thread, which would not have them blocked.
#[derive(Debug)]
pub(crate) struct Blocked(SigSet);

impl Blocked {
    /// Blocks what we pass on, and the news of children, in this thread and those it will start.
    pub(crate) fn block() -> io::Result<Self> {
        let set = ours(&ignored());
        set.thread_block()?;
        Ok(Self(set))
    }

    /// Starts reading. Needs a runtime.
    pub(crate) fn listen(self) -> io::Result<Signals> {
        // Whoever started us may have had the end of children ignored, which we would inherit: then none could be waited for. A handler,
        // even one that never runs, ends that.
        signal_hook::flag::register(Signal::CHILD.as_raw(), Arc::default())?;
        let descriptor = SignalFd::with_flags(&self.0, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        // Its successor is unsafe, for owners that might close or swap their descriptor: ours keeps one for life.
        #[expect(deprecated)]
        let descriptor = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
        Ok(Signals { descriptor })
    }
}

/// Lets the command have its signals: blocked ones are inherited.
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
    pub(crate) async fn next(&self) -> io::Result<Incoming> {
        loop {
            let mut ready = self.descriptor.readable().await?;
            let Some(info) = self.descriptor.get_ref().read_signal()? else {
                ready.clear_ready();
                continue;
            };
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            let Some(signal) = Signal::from_named_raw(number) else { continue };
            // Positive codes are the kernel's own; those of kill, sigqueue and the like are zero or below.
            let from = if info.ssi_code > 0 {
                Sender::Kernel
            } else {
                Sender::Process(i32::try_from(info.ssi_pid).ok().and_then(Pid::from_raw))
            };
            return Ok(Incoming { signal, from });
        }
    }
}

/// The signals we take, but for those that we were started to ignore: under nohup the command is to ignore HUP as well.
fn ours(ignored: &SigSet) -> SigSet {
    let mut set = SigSet::empty();
    for name in FORWARDED.into_iter().filter(|name| !ignored.contains(*name)) {
        set.add(name);
    }
    set.add(Name::SIGCHLD);
    set
}

/// What this process ignores. Where that cannot be read: nothing.
fn ignored() -> SigSet {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    Name::iterator().filter(|name| mask >> (*name as u32 - 1) & 1 == 1).collect()
}
