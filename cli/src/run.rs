//! `dlock run`: acquires the lock, runs the command, and stays with it until it ends.

use std::future::pending;
use std::process::ExitCode;
use std::time::Duration;

use dlock::printable::quoted;
use dlock::{Error, Lease, Lock, LockOptions, Status};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, wait};
use tokio::time::{Instant, sleep_until};

use crate::args::Run;
use crate::exit::{Failure, LOST, SOFTWARE, of_signal, warn};
use crate::signals::{BlockedSignals, IncomingSignal, SignalSender, Signals};
use crate::{child, tree};

/// How long after KILL to look for descendants again: a new one may have started meanwhile.
const AGAIN: Duration = Duration::from_millis(50);

pub(crate) fn run(options: &Run) -> Result<ExitCode, Failure> {
    let cannot = |error: std::io::Error| Failure::system("signals cannot be read", error);
    let blocked = BlockedSignals::block().map_err(cannot)?;
    let lock = lock(options)?;
    // The runtime runs on this thread, because the command dies with the thread that starts it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::system("no event loop", error))?.block_on(async {
        let signals = blocked.listen().map_err(cannot)?;
        let lease = acquire(&lock, &signals).await?;
        let code = hold(options, &lease, &signals).await;
        release(&lease).await?;
        Ok(code?.into())
    })
}

fn lock(options: &Run) -> Result<Lock, Failure> {
    let default = LockOptions::default();
    let lock = options.backend.client()?.lock_with(
        &options.key,
        LockOptions {
            ttl: options.ttl,
            wait: options.wait,
            retry: options.attempts.retry(),
            max_hold: options.max_hold,
            renewal_threshold: options.renewal_threshold.unwrap_or(default.renewal_threshold),
            fair: !options.unfair,
            metadata: options.metadata.clone(),
            ..default
        },
    );
    lock.validate()?;
    Ok(lock)
}

/// Waits for the key, or for a signal that ends the wait.
async fn acquire(lock: &Lock, signals: &Signals) -> Result<Lease, Failure> {
    let ended_by_signal = async {
        loop {
            match signals.next().await {
                Ok(incoming) if incoming.ends() => return Failure::signalled(incoming.signal.as_raw()),
                Ok(_) => {}
                Err(error) => return Failure::system("signals cannot be read", error),
            }
        }
    };
    tokio::select! {
        lease = lock.acquire() => Ok(lease?),
        failure = ended_by_signal => Err(failure),
    }
}

/// Runs the command under the lease; returns its exit code.
async fn hold(options: &Run, lease: &Lease, signals: &Signals) -> Result<u8, Failure> {
    tree::adopt_orphans();
    lease.check()?;
    let mut running = RunningCommand { command: child::start(&options.command, lease)?, exit_code: None, ending: Ending::NotYet };
    tracing::info!(key = %lease.key(), token = lease.token(), "the command runs");
    loop {
        if let Some(code) = running.reap() {
            if running.ending != Ending::NotYet {
                return Ok(LOST);
            }
            // The lease may be lost without our having heard of it yet.
            lease.check()?;
            return Ok(code);
        }
        tokio::select! {
            biased;
            reason = lease.lost(), if running.ending == Ending::NotYet => {
                warn(format_args!(
                    "{}; the command is ended: TERM now, KILL in {:?}",
                    Error::LockLost { key: lease.key().clone(), token: lease.token(), reason },
                    options.grace,
                ));
                running.terminate(options.grace);
            }
            () = running.patience_ends() => running.kill(),
            incoming = signals.next() => match incoming {
                Ok(incoming) => running.on_signal(incoming),
                // Without signals we would not notice the command's end.
                Err(error) => return Err(Failure::system("signals cannot be read", error)),
            },
        }
    }
}

/// The running command, and how far we have ended it.
struct RunningCommand {
    command: Pid,
    /// Set once the command has ended.
    exit_code: Option<u8>,
    ending: Ending,
}

/// How far we have ended the command and its descendants.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    NotYet,
    /// They got TERM, and get KILL at this time.
    Terminated(Instant),
    /// They got KILL; at this time we look for descendants again.
    Killed(Instant),
    /// The command has ended; the descendants that are left belong to other users and cannot be killed.
    OutOfReach,
}

impl RunningCommand {
    /// Reaps ended processes; returns the exit code once there is nothing left to wait for: when the command has ended or, if we end it, when
    /// all its descendants have ended.
    fn reap(&mut self) -> Option<u8> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.command => self.exit_code = code(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return self.exit_code.filter(|_| matches!(self.ending, Ending::NotYet | Ending::OutOfReach)),
                Err(_) => return Some(self.exit_code.unwrap_or(SOFTWARE)),
            }
        }
    }

    fn on_signal(&self, incoming: IncomingSignal) {
        if incoming.signal == Signal::CHILD || self.exit_code.is_some() {
            return;
        }
        let has_it_already = match incoming.from {
            // The terminal sends its signals to the whole foreground group.
            SignalSender::Kernel => true,
            // A command may signal its own group by `kill 0`; passing that back to it could go on for ever.
            SignalSender::Process(sender) => sender.is_some_and(tree::contains),
        };
        if !has_it_already {
            child::pass_on(self.command, incoming.signal);
        }
    }

    fn terminate(&mut self, grace: Duration) {
        if grace.is_zero() {
            return self.kill();
        }
        tree::signal(Signal::TERM);
        // A stopped process handles TERM only after CONT.
        tree::signal(Signal::CONT);
        self.ending = Ending::Terminated(Instant::now() + grace);
    }

    fn kill(&mut self) {
        let reached = tree::signal(Signal::KILL);
        self.ending = match self.exit_code {
            Some(_) if reached == 0 => Ending::OutOfReach,
            _ => Ending::Killed(Instant::now() + AGAIN),
        };
    }

    async fn patience_ends(&self) {
        match self.ending {
            Ending::NotYet | Ending::OutOfReach => pending().await,
            Ending::Terminated(until) | Ending::Killed(until) => sleep_until(until).await,
        }
    }
}

/// The exit code; `None` for a process that was only stopped.
fn code(status: WaitStatus) -> Option<u8> {
    // The kernel keeps eight bits of an exit status.
    let exited = status.exit_status().and_then(|code| u8::try_from(code).ok());
    exited.or_else(|| status.terminating_signal().map(of_signal))
}

/// Releases the key. If it is not certain to be free, that is only a warning: the command has run all the same.
async fn release(lease: &Lease) -> Result<(), Failure> {
    if matches!(lease.status(), Status::Lost(_)) || lease.release().await? {
        return Ok(());
    }
    warn(match lease.status() {
        Status::NotHeld => format!("lock {} was somebody else's or nobody's when the command ended", quoted(lease.key())),
        _ => format!("lock {} is not known to be free yet: the backend does not answer", quoted(lease.key())),
    });
    Ok(())
}
