//! `dlock run`: get the lock, run the command, stay with it until it ends.

use std::future::pending;
use std::process::ExitCode;
use std::time::Duration;

use dlock::printable::quoted;
use dlock::{Error, Lease, Lock, LockOptions, Status};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, wait};
use tokio::time::{Instant, sleep_until};

use crate::args::Run;
use crate::exit::{Failure, LOST, SOFTWARE, of_signal, say};
use crate::signals::{Blocked, Incoming, Sender, Signals};
use crate::{child, tree};

/// How long descendants that got KILL may take before they are looked for again: one may have been born meanwhile.
const AGAIN: Duration = Duration::from_millis(50);

pub(crate) fn run(options: &Run) -> Result<ExitCode, Failure> {
    let cannot = |error: std::io::Error| Failure::system("signals cannot be read", error);
    let blocked = Blocked::block().map_err(cannot)?;
    let lock = lock(options)?;
    // On this thread: the command is tied to the thread that starts it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::system("no event loop", error))?.block_on(async {
        let signals = blocked.listen().map_err(cannot)?;
        let lease = acquire(&lock, &signals).await?;
        let code = hold(options, &lease, &signals).await;
        give_back(&lease).await?;
        Ok(code?.into())
    })
}

fn lock(options: &Run) -> Result<Lock, Failure> {
    let default = LockOptions::default();
    let lock = options.server.client()?.lock_with(
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
    let told_to_end = async {
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
        failure = told_to_end => Err(failure),
    }
}

/// Runs the command under the lease; its exit code.
async fn hold(options: &Run, lease: &Lease, signals: &Signals) -> Result<u8, Failure> {
    tree::adopt_orphans();
    lease.check()?;
    let mut watch = Watch { command: child::start(&options.command, lease)?, ended: None, end: End::NotYet };
    tracing::info!(key = %lease.key(), token = lease.token(), "the command runs");
    loop {
        if let Some(code) = watch.reap() {
            if watch.end != End::NotYet {
                return Ok(LOST);
            }
            // The news may not have reached us yet.
            lease.check()?;
            return Ok(code);
        }
        tokio::select! {
            biased;
            reason = lease.lost(), if watch.end == End::NotYet => {
                say(format_args!(
                    "{}; the command is ended: TERM now, KILL in {:?}",
                    Error::LockLost { key: lease.key().clone(), token: lease.token(), reason },
                    options.grace,
                ));
                watch.terminate(options.grace);
            }
            () = watch.patience_ends() => watch.kill(),
            incoming = signals.next() => match incoming {
                Ok(incoming) => watch.on_signal(incoming),
                // Without signals we would not see the command's end.
                Err(error) => return Err(Failure::system("signals cannot be read", error)),
            },
        }
    }
}

/// The command and what we have done to it.
struct Watch {
    command: Pid,
    /// Its exit code, once it has ended.
    ended: Option<u8>,
    end: End,
}

/// How far the ending of the command by us has got.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    /// It got TERM, and gets KILL then.
    Terminated(Instant),
    /// It got KILL, and those below it are looked for again then.
    Killed(Instant),
    /// It is gone; those left belong to other users and cannot be killed.
    OutOfReach,
}

impl Watch {
    /// Collects the dead; the exit code once there is nothing left to wait for.
    ///
    /// That is the end of the command or, when we end it, the end of all its descendants.
    fn reap(&mut self) -> Option<u8> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.command => self.ended = code(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return self.ended.filter(|_| matches!(self.end, End::NotYet | End::OutOfReach)),
                Err(_) => return Some(self.ended.unwrap_or(SOFTWARE)),
            }
        }
    }

    fn on_signal(&self, incoming: Incoming) {
        if incoming.signal == Signal::CHILD || self.ended.is_some() {
            return;
        }
        let already_there = match incoming.from {
            // Sent by the terminal to its whole foreground group.
            Sender::Kernel => true,
            // Passing a command's own `kill 0` back to it may go on for ever.
            Sender::Process(sender) => sender.is_some_and(tree::contains),
        };
        if !already_there {
            child::pass_on(self.command, incoming.signal);
        }
    }

    fn terminate(&mut self, grace: Duration) {
        if grace.is_zero() {
            return self.kill();
        }
        tree::signal(Signal::TERM);
        // A stopped process would hear of it too late.
        tree::signal(Signal::CONT);
        self.end = End::Terminated(Instant::now() + grace);
    }

    fn kill(&mut self) {
        let reached = tree::signal(Signal::KILL);
        self.end = match self.ended {
            Some(_) if reached == 0 => End::OutOfReach,
            _ => End::Killed(Instant::now() + AGAIN),
        };
    }

    async fn patience_ends(&self) {
        match self.end {
            End::NotYet | End::OutOfReach => pending().await,
            End::Terminated(until) | End::Killed(until) => sleep_until(until).await,
        }
    }
}

/// The exit code; `None` for one that was stopped only.
fn code(status: WaitStatus) -> Option<u8> {
    // The kernel keeps eight bits of an exit status.
    let exited = status.exit_status().and_then(|code| u8::try_from(code).ok());
    exited.or_else(|| status.terminating_signal().map(of_signal))
}

/// Gives the key back. That it cannot be said to be free changes nothing about what the command did.
async fn give_back(lease: &Lease) -> Result<(), Failure> {
    if matches!(lease.status(), Status::Lost(_)) || lease.release().await? {
        return Ok(());
    }
    say(match lease.status() {
        Status::NotHeld => format!("lock {} was somebody else's or nobody's when the command ended", quoted(lease.key())),
        _ => format!("lock {} is not known to be free yet: the backend does not answer", quoted(lease.key())),
    });
    Ok(())
}
