//! How a session acquires a key.
//!
//! The attempt has joined the local line (see [`attempt`](crate::engine::attempt)). With the turn, it asks the backend; while somebody else holds the key, it waits for a hint and
//! asks again under the same owner id. The attempt may be dropped at any await: the next caller in line inherits its queue
//! position, and a position that nobody inherits is withdrawn.

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
use crate::engine::line::{HandoverAnswer, Joined, QueuePosition, Turn};
use crate::engine::session::Session;
use crate::error::{BackendError, Error, Failure, Result};
use crate::fencing::is_token;
use crate::observe::logs::target;

/// Pauses between acquires that fail.
const ACQUIRE_BACKOFF: Backoff = Backoff::millis(20, 500);
/// The shortest pause between two requests of a waiter, also where the backend answers that it may ask again at once.
const SHORTEST_LOOK: Duration = Duration::from_millis(1);

impl Session {
    /// Carries an attempt through until it is granted or fails.
    ///
    /// # Cancel safety
    /// May be dropped at any time: nothing stays behind in the backend.
    pub(crate) async fn acquire(self: &Arc<Self>, mut attempt: Box<Attempt>) -> Result<Arc<LeaseRecord>> {
        let span = tracing::debug_span!(target: target::ACQUIRE, "acquire", key = %attempt.key, token = Empty);
        // Boxed because the task around it is moved as a whole, several times.
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
            // Granted after the drain was over: closing may have listed the leases before this one was registered.
            self.release(record);
            return Err(Error::ClientClosed { operation: "acquire" });
        }
        result
    }

    async fn get(self: &Arc<Self>, attempt: &Attempt, entered: Option<Joined>) -> Result<Arc<LeaseRecord>> {
        let turn = match entered {
            None => match attempt.options.retry {
                Some(retry) if !attempt.is_single() => return Box::pin(self.retry(attempt, retry)).await,
                _ => {
                    // Boxed so that the future of a queued attempt does not reserve space for this branch.
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
                // While this session holds the key itself, a request past the line cannot succeed.
                if attempt.options.fair || own.is_some() {
                    turn.await
                } else {
                    tokio::pin!(turn);
                    // The turn may come with the key while the try is under way, so it does not wait for the try's answer.
                    tokio::select! {
                        biased;
                        turn = &mut turn => turn,
                        record = Box::pin(self.try_once(attempt)) => match record {
                            Ok(Some(record)) => return Ok(record),
                            Ok(None) => turn.await,
                            // This caller waits through an outage for as long as every other caller in line.
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

    /// Asks until the key is granted.
    async fn ask_until_granted(self: &Arc<Self>, mut turn: Turn, attempt: &Attempt) -> Result<Arc<LeaseRecord>> {
        if !turn.has_asked {
            turn.drop_inherited_answer().await;
        }
        // During an outage the turn passes through callers whose time is up: no request is sent for them.
        self.check_outage(attempt)?;
        let mut pauses = ACQUIRE_BACKOFF.pauses();
        loop {
            let Some((sent, answer)) = self.ask(&mut turn, attempt).await else { continue };
            match answer {
                Ok(Acquired::Granted(grant)) => {
                    let Some(position) = &turn.position else { continue };
                    // A grant that ran out before its answer arrived is confirmed by asking once more.
                    if let Some(record) = self.make_lease(attempt, position, sent, grant) {
                        turn.granted();
                        return Ok(record);
                    }
                    self.note_failure(attempt, grant_ran_out())?;
                }
                Ok(Acquired::Waiting(waiting)) => {
                    pauses = ACQUIRE_BACKOFF.pauses();
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

    /// Sends one request, or waits until the release of the local holder has taken it along. `None`: the situation has changed, ask
    /// again.
    async fn ask(&self, turn: &mut Turn, attempt: &Attempt) -> Option<(Instant, std::result::Result<Acquired, BackendError>)> {
        let position = turn.position(|| self.next_owner());
        let owner = position.owner;
        if let Some(handed_over) = position.handed_over.as_mut() {
            let answer = handed_over.await;
            position.handed_over = None;
            let HandoverAnswer { sent, answer } = answer.ok()?;
            position.answered(sent, &answer);
            self.note_holder(attempt, &answer);
            return Some((sent, answer.and_then(|answer| position.checked(answer))));
        }
        // A position that may be in the queue asks by itself. The backend may have taken the key from the local holder, which does
        // not know it yet: then this position is served next, and has little time to confirm.
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
            let _kept_alive = heartbeats.keep(waiter, turn.ask_again.clone(), attempt.line_status.clone(), look_again);
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

    /// Asks once, past the local line; the guard withdraws what this leaves behind. A broken connection may take `op_timeout` to
    /// come back, and at most `connect_timeout`; a single try ends as soon as the backend says that it will not come back.
    pub(crate) async fn try_as(
        self: &Arc<Self>,
        try_guard: &mut TryGuard<'_>,
        attempt: &Attempt,
    ) -> Result<Option<Arc<LeaseRecord>>> {
        let mut dropped = if self.has_left_to_engine() { self.releasing_key(&attempt.key) } else { None };
        let give_up = self.clock.now() + attempt.op_timeout;
        let unreachable = give_up.min(self.clock.now() + self.options.connect_timeout);
        let mut pauses = ACQUIRE_BACKOFF.pauses();
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
                Ok(Acquired::Waiting(waiting)) => {
                    if position.unanswered.is_none() {
                        try_guard.position = None;
                    }
                    // The holder may be a lease that this program has dropped: then the try has overtaken its release on the engine.
                    let holder = waiting.holder.as_ref().and_then(|holder| holder.token);
                    let Some(record) = dropped.take().filter(|dropped| holder.is_none_or(|token| token == dropped.token)) else {
                        return Ok(None);
                    };
                    self.released(&record, give_up).await;
                    if self.clock.now() >= give_up {
                        return Ok(None);
                    }
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

    /// Sends one request. The position is marked unanswered before the await: if this future is dropped, cleanup knows that the
    /// request may still be executed.
    async fn send(
        &self,
        attempt: &Attempt,
        position: &mut QueuePosition,
        request: backend::Acquire,
    ) -> (Instant, std::result::Result<Acquired, BackendError>) {
        // Read before the request leaves, so that the engine never vouches for the lease longer than the backend keeps it.
        let sent = self.clock.now();
        let before = (position.sent, position.unanswered);
        (position.sent, position.unanswered) = (Some(sent), Some(sent));
        position.floor.get_or_insert(request.floor);
        attempt.line_status.asked(sent);
        let asking = attempt.asking();
        let answer = self.backend.acquire(request).await;
        drop(asking);
        (position.sent, position.unanswered) = before;
        position.answered(sent, &answer);
        self.note_holder(attempt, &answer);
        (sent, answer.and_then(|answer| position.checked(answer)))
    }

    /// Reports a failure that the first in line would see as well. Not while this session holds the key: then nobody else asks, and
    /// nobody would see the end of the failure.
    fn note_failed_try(&self, attempt: &Attempt, error: &BackendError) {
        let is_found_again = !attempt.is_in_line || self.lines.holder(&attempt.key).is_none();
        if error.failure != Failure::Refused && is_found_again {
            attempt.line_status.failed(self.clock.now(), error.clone());
        }
    }

    /// Reports to the line who holds the key. A grant is reported once it has become a lease.
    fn note_holder(&self, attempt: &Attempt, answer: &std::result::Result<Acquired, BackendError>) {
        if let Ok(Acquired::Waiting(waiting)) = answer {
            attempt.line_status.held_by(self.clock.now(), waiting.holder.clone(), waiting.position);
        }
    }

    /// Turns a grant into a lease; `None` if it ran out before it arrived.
    fn make_lease(
        self: &Arc<Self>,
        attempt: &Attempt,
        position: &QueuePosition,
        sent: Instant,
        grant: Grant,
    ) -> Option<Arc<LeaseRecord>> {
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
        // The stall timer starts when the grant is delivered, not when the request was sent.
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

/// The error of a grant that arrives too late, again and again.
fn grant_ran_out() -> BackendError {
    BackendError::new(Failure::Unknown, "the grant was over before its answer arrived")
}

impl QueuePosition {
    /// Notes what an answer, or its absence, says about this position. An answer says nothing about an earlier request that has
    /// none.
    fn answered(&mut self, sent: Instant, answer: &std::result::Result<Acquired, BackendError>) {
        match answer {
            Ok(_) => self.sent = Some(sent),
            Err(error) if error.failure == Failure::Unknown => (self.sent, self.unanswered) = (Some(sent), Some(sent)),
            Err(_) => {}
        }
    }

    /// Refuses a grant whose token does not rise: the protected resource would turn its holder away. Dropping the position then
    /// releases the grant.
    fn checked(&self, answer: Acquired) -> std::result::Result<Acquired, BackendError> {
        let floor = self.floor.unwrap_or_default();
        match &answer {
            Acquired::Granted(Grant { token, .. }) if !is_token(*token) || *token <= floor => {
                let message =
                    format!("it granted the token {token}, which is not above the last one, {floor}: its count is damaged");
                Err(BackendError::new(Failure::Refused, message))
            }
            _ => Ok(answer),
        }
    }
}

impl Turn {
    /// Waits for the answer to a request that this caller inherited. The request had the TTL and the note of a caller who has left,
    /// so the key is asked for again.
    async fn drop_inherited_answer(&mut self) {
        let Some(position) = &mut self.position else { return };
        let Some(handed_over) = &mut position.handed_over else { return };
        let handed_over = handed_over.await;
        position.handed_over = None;
        if let Ok(HandoverAnswer { sent, answer }) = handed_over {
            position.answered(sent, &answer);
        }
    }
}

/// The owner id of one or more tries. Dropping it withdraws the owner, unless the last try had a definite answer.
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
