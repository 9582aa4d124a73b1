//! One attempt to get a key: what is asked for, how long for, and what it has seen.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;

use crate::backend;
use crate::caller::Caller;
use crate::clock::Instant;
use crate::error::{BackendError, Error, Failure, Result};
use crate::held::Held;
use crate::holder::{Holder, Note};
use crate::lease_state::LeaseState;
use crate::observe::Trying;
use crate::options::LockOptions;
use crate::owner::OwnerId;
use crate::session::Session;
use crate::waiters::Entered;

/// A wait this long is worth a warning that names the holder.
const LONG_WAIT: Duration = Duration::from_secs(30);

/// One attempt to get a key.
pub(crate) struct Attempt {
    pub(crate) key: Arc<str>,
    pub(crate) options: LockOptions,
    /// Who asks.
    pub(crate) caller: Caller,
    /// Who is to hold the lease: the one who asks, or the body that it asks for.
    pub(crate) holder: Caller,
    /// Whether we say so if it waits for itself; bindings do that in their language's way.
    pub(crate) tells: bool,
    /// The lease that it waits for, if that is held by itself or by who started it.
    pub(crate) own: OnceLock<Arc<Held>>,
    pub(crate) op_timeout: Duration,
    pub(crate) note: Arc<str>,
    pub(crate) started: Instant,
    /// Who held the key when last seen.
    pub(crate) seen: Mutex<Option<Holder>>,
    /// Since when, and with what, the backend has been failing.
    pub(crate) trouble: Mutex<Option<(Instant, BackendError)>>,
    /// Where it stands in the local line; `None` for a single try, which stands in none.
    pub(crate) entered: Option<Entered>,
    pub(crate) trying: Trying,
    /// How many requests have left.
    sent: AtomicU64,
    /// How many of them were answered or given up.
    ended: AtomicU64,
}

impl Attempt {
    /// True if it is to be made once only.
    pub(crate) fn is_single(&self) -> bool {
        self.options.wait == Some(Duration::ZERO)
    }

    /// To be kept while a request is under way.
    pub(crate) fn asking(&self) -> Asking<'_> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        Asking(self)
    }

    /// Resolves unless the first request is under way, whose answer comes in time by itself. For the task that makes the attempt and polls
    /// both in turn: nobody else wakes it.
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
    /// Begins an attempt to get a key as `options` say: from here on it has its place in the local line.
    pub(crate) fn attempt(&self, key: Arc<str>, options: LockOptions, caller: Caller, holder: Caller) -> Box<Attempt> {
        let once = options.wait == Some(Duration::ZERO) || options.retry.is_some();
        let started = self.clock.now();
        let mut attempt = Box::new(Attempt {
            trying: Trying::new(&self.observer, &self.clock, &key, started),
            entered: None,
            note: self.notes.line(self.clock.wall(), options.metadata.as_deref()),
            op_timeout: options.op_timeout.unwrap_or(self.options.op_timeout),
            started,
            seen: Mutex::new(None),
            trouble: Mutex::new(None),
            key,
            options,
            caller,
            holder,
            tells: true,
            own: OnceLock::new(),
            sent: AtomicU64::default(),
            ended: AtomicU64::default(),
        });
        if !once {
            let request = || self.request(&attempt, self.next_owner(), true, attempt.op_timeout);
            attempt.entered = Some(self.lines.enter(&attempt.key, request));
        }
        attempt
    }

    /// Resolves to the error of an attempt whose time is up; warns on the way when it takes long.
    pub(crate) async fn end_of_wait(&self, attempt: &Attempt) -> Error {
        let wait = attempt.options.wait.filter(|wait| !wait.is_zero());
        if wait.is_none_or(|wait| wait > attempt.op_timeout) {
            // Most get the key with the first answer: no timer is set before there is something to wait for.
            attempt.is_waiting().await;
        }
        self.tell_of_starter(attempt).await;
        if wait.is_none_or(|wait| wait > LONG_WAIT) {
            self.clock.sleep_until(attempt.started + LONG_WAIT).await;
            let holder = attempt.seen.lock().as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::warn!(key = %attempt.key, holder, "still waiting for a lock after {LONG_WAIT:?}");
        }
        match wait {
            None => std::future::pending().await,
            Some(wait) => self.clock.sleep_until(attempt.started + wait).await,
        }
        if let Some((_, source)) = attempt.trouble.lock().take() {
            return self.unavailable("acquire", Some(attempt.key.clone()), source);
        }
        let holder = attempt.seen.lock().take().or_else(|| self.own_holder(&attempt.key));
        let waited = self.clock.now().since(attempt.started);
        Error::AcquireTimeout { key: attempt.key.clone(), waited, holder: holder.map(Box::new) }
    }

    /// This session's own lease of the key, described as the backend would.
    fn own_holder(&self, key: &str) -> Option<Holder> {
        let held = self.lines.holder(key)?;
        let remaining = held.read(LeaseState::valid_until).since(self.clock.now());
        let note = Note::of_this_process(held.acquired_at, None);
        Some(Holder { owner: held.owner.to_string(), token: Some(held.token), remaining: Some(remaining), note: Some(note) })
    }

    /// Notes a failure; an error once the backend has failed for too long, or will not do better.
    pub(crate) fn suffer(&self, attempt: &Attempt, error: BackendError) -> Result<()> {
        let now = self.clock.now();
        let refused = error.failure == Failure::Refused;
        let mut trouble = attempt.trouble.lock();
        let since = trouble.as_ref().map_or(now, |(since, _)| *since);
        if refused || now.since(since) >= self.options.connect_timeout {
            return Err(self.unavailable("acquire", Some(attempt.key.clone()), error));
        }
        *trouble = Some((since, error));
        Ok(())
    }

    /// The request for a place; `enqueue`: it may wait in the backend.
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
