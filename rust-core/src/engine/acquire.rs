//! How a session gets a key.
//!
//! Join the local line; with the turn, ask; while somebody else holds the key, wait for a hint and ask again under the same owner id.
//! The attempt may be dropped at any await: the turn passes on with its place, and a place that nobody wants is given up.

use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument;
use tracing::field::Empty;

use crate::backend::{self, Acquired, Grant, Waiting};
use crate::backoff::Backoff;
use crate::clock::Instant;
use crate::engine::attempt::Attempt;
use crate::engine::lease_record::LeaseRecord;
use crate::engine::lease_state::{LeaseEvent, LeaseState, Terms};
use crate::engine::line::{HandOverAnswer, Joined, QueuePosition, Turn};
use crate::engine::session::Session;
use crate::error::{BackendError, Error, Failure, Result};
use crate::fencing::is_token;
use crate::observe::logs::target;

/// Between requests that fail.
const BACKOFF: Backoff = Backoff::millis(20, 500);
/// A backend that says "look now" again and again is asked no faster than this.
const SHORTEST_LOOK: Duration = Duration::from_millis(1);

impl Session {
    /// Goes on with an attempt until the key is got.
    ///
    /// # Cancel safety
    /// May be dropped at any time: nothing stays behind in the backend.
    pub(crate) async fn acquire(self: &Arc<Self>, mut attempt: Box<Attempt>) -> Result<Arc<LeaseRecord>> {
        let span = tracing::debug_span!(target: target::ACQUIRE, "acquire", key = %attempt.key, token = Empty);
        // Boxed: the task around it is moved as a whole, several times.
        let result = Box::pin(self.go_on(&mut attempt)).instrument(span.clone()).await;
        if let Ok(record) = &result {
            span.record("token", record.token);
        }
        attempt.observed.ended(&result);
        result
    }

    async fn go_on(self: &Arc<Self>, attempt: &mut Attempt) -> Result<Arc<LeaseRecord>> {
        let entered = attempt.entered.take();
        let result = tokio::select! {
            biased;
            () = self.refusal(&attempt.caller) => return Err(Error::ClientClosed { operation: "acquire" }),
            result = self.get(attempt, entered) => result,
            error = self.end_of_wait(attempt) => Err(error),
        };
        if let Ok(record) = &result
            && self.closing.closed.is_cancelled()
        {
            // Granted when the drain was over: closing may have looked before this lease was there.
            self.release(record);
            return Err(Error::ClientClosed { operation: "acquire" });
        }
        result
    }

    async fn get(self: &Arc<Self>, attempt: &Attempt, entered: Option<Joined>) -> Result<Arc<LeaseRecord>> {
        let turn = match entered {
            None => match attempt.options.retry {
                Some(retry) if attempt.wait != Some(Duration::ZERO) => return Box::pin(self.retry(attempt, retry)).await,
                _ => {
                    // Boxed: those who wait would carry the room for it.
                    let record = Box::pin(self.try_once(attempt)).await?;
                    return record.ok_or_else(|| Error::LockBusy {
                        key: attempt.key.clone(),
                        holder: self.holder_seen(attempt).map(Box::new),
                    });
                }
            },
            Some(Joined::First(turn)) => turn,
            Some(Joined::Behind(wait)) => {
                let turn = wait.turn().instrument(tracing::debug_span!(target: target::ACQUIRE, "wait", key = %attempt.key));
                let own = self.lines.holder(&attempt.key);
                if let Some(record) = &own {
                    attempt.waits_for(record);
                }
                // While this session holds the key itself, there is nothing to be had past the line.
                if attempt.options.fair || own.is_some() {
                    turn.await
                } else {
                    tokio::pin!(turn);
                    // Whose turn it is may be handed the key meanwhile: that does not wait for the answer to a try.
                    tokio::select! {
                        biased;
                        turn = &mut turn => turn,
                        record = Box::pin(self.try_once(attempt)) => match record {
                            Ok(Some(record)) => return Ok(record),
                            Ok(None) => turn.await,
                            // It waits as long for a backend that fails as all others do.
                            Err(Error::BackendUnavailable { .. }) => {
                                self.lines.ask_again(&attempt.key);
                                turn.await
                            }
                            Err(error) => return Err(error),
                        },
                    }
                }
            }
        };
        self.ask_until_granted(turn, attempt).await
    }

    /// Asks until the key is ours.
    async fn ask_until_granted(self: &Arc<Self>, mut turn: Turn, attempt: &Attempt) -> Result<Arc<LeaseRecord>> {
        if !turn.has_asked {
            turn.drop_inherited_answer().await;
        }
        // In an outage the turn passes through all whose time is up: nothing is asked for them.
        self.check_outage(attempt)?;
        let mut pauses = BACKOFF.pauses();
        loop {
            let Some((sent, answer)) = self.ask(&mut turn, attempt).await else { continue };
            match answer {
                Ok(Acquired::Granted(grant)) => {
                    let Some(position) = &turn.position else { continue };
                    // A grant that took too long to arrive is confirmed rather than believed.
                    if let Some(record) = self.make_lease(attempt, position, sent, grant) {
                        turn.granted();
                        return Ok(record);
                    }
                    self.note_failure(attempt, grant_ran_out())?;
                }
                Ok(Acquired::Waiting(waiting)) => {
                    pauses = BACKOFF.pauses();
                    let token = waiting.holder.as_ref().and_then(|holder| holder.token);
                    let span = tracing::debug_span!(target: target::ACQUIRE, "wait", key = %attempt.key, token);
                    Box::pin(self.wait(&turn, attempt, waiting).instrument(span)).await;
                }
                Err(error) => {
                    self.note_failure(attempt, error)?;
                    self.clock.sleep_until(self.clock.now() + pauses.next()).await;
                }
            }
        }
    }

    /// One request, or the wait for the local holder's release to take it along. `None`: look again, things have changed.
    async fn ask(&self, turn: &mut Turn, attempt: &Attempt) -> Option<(Instant, std::result::Result<Acquired, BackendError>)> {
        let position = turn.position(|| self.next_owner());
        let owner = position.owner;
        if let Some(handed_over) = position.handed_over.as_mut() {
            let answer = handed_over.await;
            position.handed_over = None;
            let HandOverAnswer { sent, answer } = answer.ok()?;
            position.answered(sent, &answer);
            self.note_holder(attempt, &answer);
            return Some((sent, answer.and_then(|answer| position.checked(answer))));
        }
        // A place that may be in the queue already asks for itself: if the backend has taken the key from our holder, who has not heard of it
        // yet, that place is served next, and has little time to say yes.
        if position.sent.is_none()
            && let Some(holder) = self.lines.holder(&attempt.key)
        {
            attempt.waits_for(&holder);
            turn.offer_hand_over(&holder, self.request(attempt, owner, true, attempt.op_timeout));
            return None;
        }
        let request = self.request(attempt, owner, true, attempt.op_timeout);
        Some(self.send(attempt, position, request).await)
    }

    /// Waits until it is worth asking again.
    async fn wait(&self, turn: &Turn, attempt: &Attempt, waiting: Waiting) {
        let look_again = waiting.look_again.max(SHORTEST_LOOK);
        let Some(owner) = turn.position.as_ref().map(|position| position.owner) else { return };
        if let Some(heartbeats) = &self.heartbeats {
            let waiter = backend::Waiter { key: attempt.key.clone(), owner };
            let _kept_alive = heartbeats.keep(waiter, turn.ask_again.clone(), attempt.known.clone(), look_again);
            turn.ask_again.notified().await;
            return;
        }
        tokio::select! {
            biased;
            () = turn.ask_again.notified() => {}
            () = self.clock.sleep_until(self.clock.now() + look_again) => {}
        }
    }

    /// Asks once, past the local line, and leaves nothing behind.
    async fn try_once(self: &Arc<Self>, attempt: &Attempt) -> Result<Option<Arc<LeaseRecord>>> {
        self.try_as(&mut self.try_guard(attempt), attempt).await
    }

    pub(crate) fn try_guard<'a>(self: &'a Arc<Self>, attempt: &'a Attempt) -> TryGuard<'a> {
        TryGuard { session: self, key: &attempt.key, position: None }
    }

    /// Asks once, past the local line; what it leaves behind is in the trace. A broken connection is given `op_timeout` to come back, at most
    /// `connect_timeout`; but a single try ends as soon as it is clear that it will not.
    pub(crate) async fn try_as(
        self: &Arc<Self>,
        try_guard: &mut TryGuard<'_>,
        attempt: &Attempt,
    ) -> Result<Option<Arc<LeaseRecord>>> {
        let give_up = self.clock.now() + attempt.op_timeout;
        let unreachable = give_up.min(self.clock.now() + self.options.connect_timeout);
        let mut pauses = BACKOFF.pauses();
        loop {
            let position = try_guard.position.get_or_insert_with(|| QueuePosition::new(self.next_owner()));
            let timeout = give_up.since(self.clock.now()).max(SHORTEST_LOOK);
            let (sent, answer) = self.send(attempt, position, self.request(attempt, position.owner, false, timeout)).await;
            match answer {
                Ok(Acquired::Granted(grant)) => {
                    if let Some(record) = self.make_lease(attempt, position, sent, grant) {
                        try_guard.position = None;
                        return Ok(Some(record));
                    }
                    if self.clock.now() >= give_up {
                        return Err(self.unavailable("acquire", Some(attempt.key.clone()), grant_ran_out()));
                    }
                }
                Ok(Acquired::Waiting(_)) => {
                    if position.unanswered.is_none() {
                        try_guard.position = None;
                    }
                    return Ok(None);
                }
                Err(error) => {
                    self.note_failed_try(attempt, &error);
                    let end = if error.failure == Failure::Unknown { give_up } else { unreachable };
                    let clear = error.failure == Failure::Refused || error.definite && attempt.is_single();
                    if clear || self.clock.now() >= end {
                        return Err(self.unavailable("acquire", Some(attempt.key.clone()), error));
                    }
                    self.clock.sleep_until(end.min(self.clock.now() + pauses.next())).await;
                }
            }
        }
    }

    /// One request for a place, with a note in it while the answer is missing.
    async fn send(
        &self,
        attempt: &Attempt,
        position: &mut QueuePosition,
        request: backend::Acquire,
    ) -> (Instant, std::result::Result<Acquired, BackendError>) {
        // Before the request leaves: whatever the answer takes, the lease is not vouched for longer than the backend keeps it.
        let sent = self.clock.now();
        let before = (position.sent, position.unanswered);
        (position.sent, position.unanswered) = (Some(sent), Some(sent));
        position.floor.get_or_insert(request.floor);
        attempt.known.asked(sent);
        let asking = attempt.asking();
        let answer = self.backend.acquire(request).await;
        drop(asking);
        (position.sent, position.unanswered) = before;
        position.answered(sent, &answer);
        self.note_holder(attempt, &answer);
        (sent, answer.and_then(|answer| position.checked(answer)))
    }

    /// What the first in line would find out as well. Not while this session holds the key: then nobody asks, and nobody finds the end of it.
    fn note_failed_try(&self, attempt: &Attempt, error: &BackendError) {
        let is_found_again = !attempt.is_in_line || self.lines.holder(&attempt.key).is_none();
        if error.failure != Failure::Refused && is_found_again {
            attempt.known.failed(self.clock.now(), error.clone());
        }
    }

    /// Tells the line who holds the key. Of a grant it hears when that has become a lease.
    fn note_holder(&self, attempt: &Attempt, answer: &std::result::Result<Acquired, BackendError>) {
        if let Ok(Acquired::Waiting(waiting)) = answer {
            attempt.known.held_by(self.clock.now(), waiting.holder.clone());
        }
    }

    /// Turns a grant into a lease; `None` if it is over before it is told.
    fn make_lease(&self, attempt: &Attempt, position: &QueuePosition, sent: Instant, grant: Grant) -> Option<Arc<LeaseRecord>> {
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
        state.on(now, LeaseEvent::Heartbeat);
        if !state.is_valid(now) {
            return None;
        }
        let clock = self.clock.clone();
        let mut record = LeaseRecord::new(attempt.key.clone(), position.owner, grant.token, attempt.op_timeout, now, clock, state);
        record.unanswered = position.unanswered;
        record.holder = attempt.holder.clone();
        let record = Arc::new(record);
        self.observer.acquired(record.subject_until(now), now.since(attempt.started));
        self.register(&record);
        Some(record)
    }
}

/// What is wrong when no grant arrives in time.
fn grant_ran_out() -> BackendError {
    BackendError::new(Failure::Unknown, "the grant was over before its answer arrived")
}

impl QueuePosition {
    /// Takes note of an answer, or of its absence. An answer says nothing about an earlier request that has none.
    fn answered(&mut self, sent: Instant, answer: &std::result::Result<Acquired, BackendError>) {
        match answer {
            Ok(_) => self.sent = Some(sent),
            Err(error) if error.failure == Failure::Unknown => (self.sent, self.unanswered) = (Some(sent), Some(sent)),
            Err(_) => {}
        }
    }

    /// Refuses a grant whose token does not rise: a resource would turn its holder away. Whoever is refused drops the place, which gives the
    /// grant back.
    fn checked(&self, answer: Acquired) -> std::result::Result<Acquired, BackendError> {
        let floor = self.floor.unwrap_or_default();
        match &answer {
            Acquired::Granted(Grant { token, .. }) if !is_token(*token) || *token <= floor => {
                let told = format!("it granted the token {token}, which is not above the last one, {floor}: its count was spoilt");
                Err(BackendError::new(Failure::Refused, told))
            }
            _ => Ok(answer),
        }
    }
}

impl Turn {
    /// Waits for the answer to a request that a release has taken along for somebody who has left: it was made on their terms, with their
    /// TTL and their note, so the key is then asked for again.
    async fn drop_inherited_answer(&mut self) {
        let Some(position) = &mut self.position else { return };
        let Some(handed_over) = &mut position.handed_over else { return };
        let handed_over = handed_over.await;
        position.handed_over = None;
        if let Ok(HandOverAnswer { sent, answer }) = handed_over {
            position.answered(sent, &answer);
        }
    }
}

/// The owner id of a try and of those that follow it, given up unless the last one came to a definite end.
pub(crate) struct TryGuard<'a> {
    session: &'a Arc<Session>,
    key: &'a Arc<str>,
    position: Option<QueuePosition>,
}

impl Drop for TryGuard<'_> {
    fn drop(&mut self) {
        if let Some(position) = self.position.take() {
            self.session.withdraw(self.key.clone(), position);
        }
    }
}
