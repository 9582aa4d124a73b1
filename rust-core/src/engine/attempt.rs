//! One attempt to acquire a key: it begins here and joins the local line. What is asked for, how long the caller waits, and what the attempt
//! has seen.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::backend;
use crate::caller::Caller;
use crate::clock::Instant;
use crate::engine::lease_record::LeaseRecord;
use crate::engine::lease_state::LeaseState;
use crate::engine::line::Joined;
use crate::engine::line_status::{LastHolder, LineStatus};
use crate::engine::session::Session;
use crate::error::{BackendError, Error, Failure, Result};
use crate::holder::Holder;
use crate::observe::ObservedAttempt;
use crate::observe::logs::target;
use crate::options::LockOptions;
use crate::owner::OwnerId;

/// A caller that waits this long is warned, with the name of the holder.
const LONG_WAIT: Duration = Duration::from_secs(30);
/// A backend that is silent for this part of `op_timeout` counts as failing, not as slow.
const SILENCE: u32 = 4;

/// One attempt to acquire a key.
pub(crate) struct Attempt {
    pub(crate) key: Arc<str>,
    pub(crate) options: Arc<LockOptions>,
    /// How long this attempt waits: an acquire may set it apart from the options.
    pub(crate) wait: Option<Duration>,
    /// Who asks for the key.
    pub(crate) caller: Caller,
    /// Who will hold the lease: the caller, or the body that the caller asks for.
    pub(crate) holder: Caller,
    /// Whether the engine warns of a self-wait. Bindings warn in the way of their language.
    pub(crate) warns: bool,
    /// The lease that the attempt waits for, if the caller itself or an ancestor of it holds that.
    pub(crate) own: OnceLock<Arc<LeaseRecord>>,
    pub(crate) op_timeout: Duration,
    pub(crate) note: Arc<str>,
    pub(crate) started: Instant,
    /// What the local line knows about the key.
    pub(crate) line_status: Arc<LineStatus>,
    /// The position in the local line until the attempt begins; `None` for a single try, which joins no line.
    pub(crate) entered: Option<Joined>,
    pub(crate) is_in_line: bool,
    pub(crate) observed: ObservedAttempt,
    /// How many requests were sent.
    sent: AtomicU64,
    /// How many of them were answered or dropped.
    ended: AtomicU64,
    /// Makes closing wait for the attempt, from before it joins the line until it has dropped its turn: its queue position may then
    /// have to be withdrawn. Dropped last.
    _counted: TaskTrackerToken,
}

impl Attempt {
    /// True if the key is asked for once only.
    pub(crate) fn is_single(&self) -> bool {
        self.wait == Some(Duration::ZERO)
    }

    /// True if others are before it in the local line, so that it certainly waits.
    pub(crate) fn is_behind(&self) -> bool {
        matches!(self.entered, Some(Joined::Behind(_)))
    }

    /// Counts a request as under way until the guard is dropped.
    pub(crate) fn asking(&self) -> Asking<'_> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        Asking(self)
    }

    /// Pending while the first request is in flight: its answer comes in time by itself. Registers no waker, so poll it in the same
    /// `select!` as that request.
    async fn is_waiting(&self) {
        let under_way = || self.sent.load(Ordering::Relaxed) == 1 && self.ended.load(Ordering::Relaxed) == 0;
        poll_fn(|_| if under_way() { Poll::Pending } else { Poll::Ready(()) }).await;
    }
}

/// A request under way.
pub(crate) struct Asking<'a>(&'a Attempt);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl Session {
    /// Begins an attempt and joins the local line.
    pub(crate) fn attempt(
        &self,
        key: Arc<str>,
        options: Arc<LockOptions>,
        wait: Option<Duration>,
        caller: Caller,
        holder: Caller,
    ) -> Box<Attempt> {
        let waits = options.waits(wait);
        let started = self.clock.now();
        let mut attempt = Box::new(Attempt {
            observed: ObservedAttempt::new(&self.observer, &self.clock, &key, started),
            entered: None,
            is_in_line: waits,
            note: self.notes.line(self.clock.wall(), options.metadata.as_deref()),
            op_timeout: options.op_timeout.unwrap_or(self.options.op_timeout),
            started,
            line_status: Arc::default(),
            key,
            options,
            wait,
            caller,
            holder,
            warns: true,
            own: OnceLock::new(),
            sent: AtomicU64::default(),
            ended: AtomicU64::default(),
            _counted: self.tasks.token(),
        });
        if waits {
            let request = || self.request(&attempt, self.next_owner(), true, attempt.op_timeout);
            let mut line_status = attempt.line_status.clone();
            attempt.entered = Some(self.lines.enter(&attempt.key, &mut line_status, request));
            attempt.line_status = line_status;
        }
        attempt
    }

    /// Resolves to the error of an attempt whose time is up. Warns on the way if that takes long.
    pub(crate) async fn end_of_wait(&self, attempt: &Attempt) -> Error {
        let wait = attempt.wait.filter(|wait| !wait.is_zero());
        if wait.is_none_or(|wait| wait > attempt.op_timeout) {
            // Most attempts are granted by the first answer, so no timer is set before there is something to wait for.
            attempt.is_waiting().await;
        }
        let over = async {
            self.warn_of_wait_for_starter(attempt).await;
            if wait.is_none_or(|wait| wait > LONG_WAIT) {
                self.clock.sleep_until(attempt.started + LONG_WAIT).await;
                self.warn_of_long_wait(attempt);
            }
            match wait {
                None => std::future::pending().await,
                Some(wait) => self.clock.sleep_until(attempt.started + wait).await,
            }
        };
        tokio::select! {
            biased;
            error = attempt.line_status.outlast(&self.clock, attempt.started, self.options.connect_timeout), if attempt.is_in_line => {
                self.unavailable("acquire", Some(attempt.key.clone()), error)
            }
            () = over => self.out_of_time(attempt),
        }
    }

    /// Names the holder. If this process is the holder, the wait may never end: the warning then says so, and why.
    fn warn_of_long_wait(&self, attempt: &Attempt) {
        let seen = self.holder_seen(attempt);
        let holder = seen.as_ref().map(ToString::to_string).unwrap_or_default();
        let own = self.lines.holder(&attempt.key);
        let remark = match (&own, seen.and_then(|holder| holder.note)) {
            (Some(record), _) => {
                let since = format!(": this process holds it through the same client, since {} s ago", record.held_for().as_secs());
                let discarded = "; the lease was discarded, and only its lock can still release it";
                since + if record.is_discarded() { discarded } else { "" }
            }
            (None, Some(note)) if note.is_of_this_process() => ": this process holds it, through another client".to_owned(),
            _ => String::new(),
        };
        let queue = behind(attempt.line_status.ahead().filter(|_| own.is_none()));
        tracing::warn!(target: target::ATTEMPT, key = %attempt.key, holder, "still waiting for a lock after {LONG_WAIT:?}{queue}{remark}");
    }

    /// The error of an attempt whose `wait` is over. It says that the key is held only if the backend has answered.
    fn out_of_time(&self, attempt: &Attempt) -> Error {
        let now = self.clock.now();
        let waited = now.since(attempt.started);
        let failure = attempt.line_status.trouble().or_else(|| {
            let silent = now.since(attempt.line_status.silent_since(attempt.started)?);
            let is_dead = silent >= attempt.op_timeout / SILENCE && self.lines.holder(&attempt.key).is_none();
            is_dead.then(|| BackendError::new(Failure::Unknown, format!("no answer within {} ms", silent.as_millis())))
        });
        match failure {
            Some(source) => self.unavailable("acquire", Some(attempt.key.clone()), source),
            None => Error::AcquireTimeout { key: attempt.key.clone(), waited, holder: self.holder_seen(attempt).map(Box::new) },
        }
    }

    /// Who held the key when anybody in the line last saw it.
    pub(crate) fn holder_seen(&self, attempt: &Attempt) -> Option<Holder> {
        let record = self.lines.holder(&attempt.key);
        let remaining = record.as_ref().map(|record| (record.token, record.read(LeaseState::valid_until).since(self.clock.now())));
        match attempt.line_status.seen() {
            Some(LastHolder::Own(own)) => {
                Some(own.holder(remaining.filter(|(token, _)| *token == own.token).map(|(_, left)| left)))
            }
            Some(LastHolder::Named(holder)) => Some(holder),
            None => record.map(|record| record.own().holder(remaining.map(|(_, left)| left))),
        }
    }

    /// Notes a failure. An error once the backend has failed for too long, or refuses.
    pub(crate) fn note_failure(&self, attempt: &Attempt, error: BackendError) -> Result<()> {
        if error.failure == Failure::Refused {
            return Err(self.unavailable("acquire", Some(attempt.key.clone()), error));
        }
        attempt.line_status.failed(self.clock.now(), error);
        self.check_outage(attempt)
    }

    /// An error once the backend has failed for `connect_timeout`, counted from the start of this attempt at the earliest.
    pub(crate) fn check_outage(&self, attempt: &Attempt) -> Result<()> {
        match attempt.line_status.outlasted(self.clock.now(), attempt.started, self.options.connect_timeout) {
            Some(error) => Err(self.unavailable("acquire", Some(attempt.key.clone()), error)),
            None => Ok(()),
        }
    }

    /// The request for a queue position. With `enqueue` it may wait in the backend.
    pub(crate) fn request(&self, attempt: &Attempt, owner: OwnerId, enqueue: bool, timeout: Duration) -> backend::Acquire {
        backend::Acquire {
            key: attempt.key.clone(),
            owner,
            ttl: attempt.options.ttl,
            fair: attempt.options.fair,
            enqueue,
            note: attempt.note.clone(),
            renew: attempt.options.renew,
            floor: self.floor(),
            timeout,
        }
    }
}

/// Says how many other clients are ahead in the backend's queue, if there are any.
fn behind(ahead: Option<u64>) -> String {
    match ahead {
        None | Some(0) => String::new(),
        Some(1) => ", behind one other client".to_owned(),
        Some(ahead) => format!(", behind {ahead} other clients"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r16_a_long_wait_says_how_many_clients_are_ahead() {
        let said = [None, Some(0), Some(1), Some(12)].map(behind);
        assert_eq!(said, ["", "", ", behind one other client", ", behind 12 other clients"]);
    }
}
