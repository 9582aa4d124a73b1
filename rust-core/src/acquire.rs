//! How a session gets a key.
//!
//! Join the local line; with the turn, ask; while somebody else holds the key, wait for a hint and ask again under the same owner id.
//! The attempt may be dropped at any await: the turn passes on with its place, and a place that nobody wants is given up.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::Instrument;
use tracing::field::Empty;

use crate::backend::{self, Acquired, Grant, Waiting};
use crate::clock::Instant;
use crate::error::{BackendError, Error, Failure, Result};
use crate::held::Held;
use crate::holder::{Holder, Note};
use crate::lease_state::{Event, LeaseState, Terms};
use crate::observe::Trying;
use crate::options::LockOptions;
use crate::owner::OwnerId;
use crate::session::Session;
use crate::waiters::{Carried, Entered, Place, Turn};

/// A wait this long is worth a warning that names the holder.
const LONG_WAIT: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A backend that says "look now" again and again is asked no faster than this.
const SHORTEST_LOOK: Duration = Duration::from_millis(1);

/// One attempt to get a key.
pub(crate) struct Attempt {
    pub(crate) key: Arc<str>,
    options: LockOptions,
    op_timeout: Duration,
    note: Arc<str>,
    started: Instant,
    /// Who held the key when last seen.
    pub(crate) seen: Mutex<Option<Holder>>,
    /// Since when, and with what, the backend has been failing.
    pub(crate) trouble: Mutex<Option<(Instant, BackendError)>>,
    /// Where it stands in the local line; `None` for a single try, which stands in none.
    entered: Option<Entered>,
    trying: Trying,
}

impl Session {
    /// Begins an attempt to get a key as `options` say: from here on it has its place in the local line.
    pub(crate) fn attempt(&self, key: Arc<str>, options: LockOptions) -> Box<Attempt> {
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
        });
        if !once {
            let request = || self.request(&attempt, self.next_owner(), true, attempt.op_timeout);
            attempt.entered = Some(self.lines.enter(&attempt.key, request));
        }
        attempt
    }

    /// Goes on with an attempt until the key is got.
    ///
    /// # Cancel safety
    /// May be dropped at any time: nothing stays behind in the backend.
    pub(crate) async fn acquire(self: &Arc<Self>, mut attempt: Box<Attempt>) -> Result<Arc<Held>> {
        let span = tracing::debug_span!("acquire", key = %attempt.key, token = Empty);
        let result = self.go_on(&mut attempt).instrument(span.clone()).await;
        if let Ok(held) = &result {
            span.record("token", held.token);
        }
        attempt.trying.ended(&result);
        result
    }

    async fn go_on(self: &Arc<Self>, attempt: &mut Attempt) -> Result<Arc<Held>> {
        let entered = attempt.entered.take();
        if self.closing.is_cancelled() {
            return Err(Error::ClientClosed { operation: "acquire" });
        }
        // Closing waits for attempts as well: until this one has dropped its turn, its place may still have to be given up.
        let _counted = self.tasks.token();
        let result = tokio::select! {
            biased;
            () = self.closing.cancelled() => return Err(Error::ClientClosed { operation: "acquire" }),
            result = self.get(attempt, entered) => result,
            error = self.end_of_wait(attempt) => Err(error),
        };
        if let Ok(held) = &result
            && self.closing.is_cancelled()
        {
            // Granted while the client was being closed: closing may have looked before this lease was there.
            self.release(held);
            return Err(Error::ClientClosed { operation: "acquire" });
        }
        result
    }

    async fn get(self: &Arc<Self>, attempt: &Attempt, entered: Option<Entered>) -> Result<Arc<Held>> {
        let turn = match entered {
            None => match attempt.options.retry {
                Some(retry) if attempt.options.wait != Some(Duration::ZERO) => return Box::pin(self.retry(attempt, retry)).await,
                _ => {
                    // Boxed: those who wait would carry the room for it.
                    let held = Box::pin(self.try_once(attempt)).await?;
                    return held.ok_or_else(|| Error::LockBusy {
                        key: attempt.key.clone(),
                        holder: attempt.seen.lock().take().map(Box::new),
                    });
                }
            },
            Some(Entered::First(turn)) => turn,
            Some(Entered::Behind(ticket)) => {
                let turn = ticket.turn().instrument(tracing::debug_span!("wait", key = %attempt.key));
                // While this session holds the key itself, there is nothing to be had past the line.
                if attempt.options.fair || self.lines.holder(&attempt.key).is_some() {
                    turn.await
                } else {
                    tokio::pin!(turn);
                    // Whose turn it is may be handed the key meanwhile: that does not wait for the answer to a try.
                    tokio::select! {
                        biased;
                        turn = &mut turn => turn,
                        held = Box::pin(self.try_once(attempt)) => match held? {
                            Some(held) => return Ok(held),
                            None => turn.await,
                        },
                    }
                }
            }
        };
        self.drive(turn, attempt).await
    }

    /// Resolves to the error of an attempt whose time is up; warns on the way when it takes long.
    async fn end_of_wait(&self, attempt: &Attempt) -> Error {
        let wait = attempt.options.wait.filter(|wait| !wait.is_zero());
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

    /// Asks until the key is ours.
    async fn drive(self: &Arc<Self>, mut turn: Turn, attempt: &Attempt) -> Result<Arc<Held>> {
        if !turn.has_asked {
            turn.settle().await;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let Some((sent, answer)) = self.ask(&mut turn, attempt).await else { continue };
            match answer {
                Ok(Acquired::Granted(grant)) => {
                    let Some(place) = &turn.place else { continue };
                    // A grant that took too long to arrive is confirmed rather than believed.
                    if let Some(held) = self.hold(attempt, place, sent, grant) {
                        turn.granted();
                        return Ok(held);
                    }
                    self.suffer(attempt, too_far())?;
                }
                Ok(Acquired::Waiting(waiting)) => {
                    *attempt.trouble.lock() = None;
                    pause = FIRST_PAUSE;
                    let token = waiting.holder.as_ref().and_then(|holder| holder.token);
                    let span = tracing::debug_span!("wait", key = %attempt.key, token);
                    Box::pin(self.wait(&turn, attempt, waiting).instrument(span)).await;
                }
                Err(error) => {
                    self.suffer(attempt, error)?;
                    self.clock.sleep_until(self.clock.now() + pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// One request, or the wait for the local holder's release to take it along. `None`: look again, things have changed.
    async fn ask(&self, turn: &mut Turn, attempt: &Attempt) -> Option<(Instant, std::result::Result<Acquired, BackendError>)> {
        let place = turn.place(|| self.next_owner());
        let owner = place.owner;
        if let Some(carried) = place.carried.as_mut() {
            let answer = carried.await;
            place.carried = None;
            let Carried { sent, answer } = answer.ok()?;
            place.answered(sent, &answer);
            return Some((sent, answer));
        }
        // A place that may be in the queue already asks for itself: if the backend has taken the key from our holder, who has not heard of it
        // yet, that place is served next, and has little time to say yes.
        if place.sent.is_none()
            && let Some(holder) = self.lines.holder(&attempt.key)
        {
            turn.park(&holder, self.request(attempt, owner, true, attempt.op_timeout));
            return None;
        }
        let request = self.request(attempt, owner, true, attempt.op_timeout);
        Some(self.send(place, request).await)
    }

    /// Waits until it is worth asking again.
    async fn wait(&self, turn: &Turn, attempt: &Attempt, waiting: Waiting) {
        if waiting.holder.is_some() {
            *attempt.seen.lock() = waiting.holder;
        }
        let look_again = waiting.look_again.max(SHORTEST_LOOK);
        let Some(owner) = turn.place.as_ref().map(|place| place.owner) else { return };
        if let Some(places) = &self.places {
            let place = backend::Place { key: attempt.key.clone(), owner };
            let _keeping = places.keep(place, turn.look.clone(), look_again);
            turn.look.notified().await;
            return;
        }
        tokio::select! {
            biased;
            () = turn.look.notified() => {}
            () = self.clock.sleep_until(self.clock.now() + look_again) => {}
        }
    }

    /// Notes a failure; an error once the backend has failed for too long, or will not do better.
    fn suffer(&self, attempt: &Attempt, error: BackendError) -> Result<()> {
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

    /// Asks once, past the local line, and leaves nothing behind.
    async fn try_once(self: &Arc<Self>, attempt: &Attempt) -> Result<Option<Arc<Held>>> {
        self.try_under(&mut self.trace(attempt), attempt).await
    }

    pub(crate) fn trace<'a>(self: &'a Arc<Self>, attempt: &'a Attempt) -> Trace<'a> {
        Trace { session: self, key: &attempt.key, place: None }
    }

    /// Asks once, past the local line; what it leaves behind is in the trace. A broken connection is given `op_timeout` to come back, at most
    /// `connect_timeout`.
    pub(crate) async fn try_under(self: &Arc<Self>, trace: &mut Trace<'_>, attempt: &Attempt) -> Result<Option<Arc<Held>>> {
        let give_up = self.clock.now() + attempt.op_timeout;
        let unreachable = give_up.min(self.clock.now() + self.options.connect_timeout);
        let mut pause = FIRST_PAUSE;
        loop {
            let place = trace.place.get_or_insert_with(|| Place::new(self.next_owner()));
            let timeout = give_up.since(self.clock.now()).max(SHORTEST_LOOK);
            let (sent, answer) = self.send(place, self.request(attempt, place.owner, false, timeout)).await;
            match answer {
                Ok(Acquired::Granted(grant)) => {
                    if let Some(held) = self.hold(attempt, place, sent, grant) {
                        trace.place = None;
                        return Ok(Some(held));
                    }
                    if self.clock.now() >= give_up {
                        return Err(self.unavailable("acquire", Some(attempt.key.clone()), too_far()));
                    }
                }
                Ok(Acquired::Waiting(waiting)) => {
                    *attempt.seen.lock() = waiting.holder;
                    *attempt.trouble.lock() = None;
                    if place.unanswered.is_none() {
                        trace.place = None;
                    }
                    return Ok(None);
                }
                Err(error) => {
                    let end = if error.failure == Failure::Unknown { give_up } else { unreachable };
                    if error.failure == Failure::Refused || self.clock.now() >= end {
                        return Err(self.unavailable("acquire", Some(attempt.key.clone()), error));
                    }
                    self.clock.sleep_until(end.min(self.clock.now() + pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// One request for a place, with a note in it while the answer is missing.
    async fn send(&self, place: &mut Place, request: backend::Acquire) -> (Instant, std::result::Result<Acquired, BackendError>) {
        // Before the request leaves: whatever the answer takes, the lease is not vouched for longer than the backend keeps it.
        let sent = self.clock.now();
        let before = (place.sent, place.unanswered);
        (place.sent, place.unanswered) = (Some(sent), Some(sent));
        let answer = self.backend.acquire(request).await;
        (place.sent, place.unanswered) = before;
        place.answered(sent, &answer);
        (sent, answer)
    }

    fn request(&self, attempt: &Attempt, owner: OwnerId, enqueue: bool, timeout: Duration) -> backend::Acquire {
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

    /// Turns a grant into a lease; `None` if it is over before it is told.
    fn hold(&self, attempt: &Attempt, place: &Place, sent: Instant, grant: Grant) -> Option<Arc<Held>> {
        let options = &attempt.options;
        let margin = self.backend.capabilities().margin;
        let terms = Terms {
            renew: options.renew,
            threshold: options.renewal_threshold,
            margin,
            max_hold: options.max_hold,
            max_stall: options.max_stall,
        };
        let mut state = LeaseState::granted(sent - grant.age, grant.ttl, terms);
        let now = self.clock.now();
        // Where nobody has heard of the grant yet, nobody has stalled.
        state.on(now, Event::Heartbeat);
        if !state.is_valid(now) {
            return None;
        }
        let clock = self.clock.clone();
        let mut held = Held::new(attempt.key.clone(), place.owner, grant.token, attempt.op_timeout, now, clock, state);
        held.unanswered = place.unanswered;
        let held = Arc::new(held);
        self.observer.acquired(held.subject_until(now), now.since(attempt.started));
        self.adopt(&held);
        Some(held)
    }
}

/// What is wrong when no grant arrives in time.
fn too_far() -> BackendError {
    BackendError::new(Failure::Unknown, "the grant was over before its answer arrived")
}

impl Place {
    /// Takes note of an answer, or of its absence. An answer says nothing about an earlier request that has none.
    fn answered(&mut self, sent: Instant, answer: &std::result::Result<Acquired, BackendError>) {
        match answer {
            Ok(_) => self.sent = Some(sent),
            Err(error) if error.failure == Failure::Unknown => (self.sent, self.unanswered) = (Some(sent), Some(sent)),
            Err(_) => {}
        }
    }
}

impl Turn {
    /// Waits for the answer to a request that a release has taken along for somebody who has left: it was made on their terms, with their
    /// TTL and their note, so the key is then asked for again.
    async fn settle(&mut self) {
        let Some(place) = &mut self.place else { return };
        let Some(carried) = &mut place.carried else { return };
        let carried = carried.await;
        place.carried = None;
        if let Ok(Carried { sent, answer }) = carried {
            place.answered(sent, &answer);
        }
    }
}

/// The owner id of a try and of those that follow it, given up unless the last one came to a definite end.
pub(crate) struct Trace<'a> {
    session: &'a Arc<Session>,
    key: &'a Arc<str>,
    place: Option<Place>,
}

impl Drop for Trace<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.session.abandon(self.key.clone(), place);
        }
    }
}
