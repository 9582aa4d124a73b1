//! How a session gives keys and places back: in the background, past cancellation, until the backend has confirmed it or the lease would
//! have run out by itself.

use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument;

use crate::backend::{Outcome, Release};
use crate::calls::Answer;
use crate::clock::Instant;
use crate::error::{Failure, Result};
use crate::held::Held;
use crate::lease_state::{Action, Event, Status};
use crate::owner::OwnerId;
use crate::session::Session;
use crate::waiters::{Carried, Parked, Place};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);
/// For how long a place is given up again and again when the backend does not answer: no place or claim outlives that.
const PATIENCE: Duration = Duration::from_secs(60);

impl Session {
    /// Ends a lease's validity and renewal, then gives the key back in the background. Does nothing to a lease that has ended.
    pub(crate) fn release(self: &Arc<Self>, held: &Arc<Held>) {
        if self.engine.waking(|| self.begin_release(held, None::<Told<fn(Result<Status>)>>)).is_none() {
            self.leave_unattended(held);
        }
    }

    /// [`Session::release`] that calls `then` once the release was answered, or after the lease's `op_timeout`.
    pub(crate) fn release_then(self: &Arc<Self>, held: &Arc<Held>, then: impl FnOnce(Status) + Send + 'static) {
        if self.engine.is_stopped() {
            self.leave_unattended(held);
        }
        let ended = held.clone();
        let answer = self.engine.begin(move |status: Result<Status>| {
            then(status.unwrap_or_else(|_| match ended.status() {
                // The engine has stopped: nobody will hear more.
                Status::Held | Status::Releasing => Status::Unconfirmed,
                status => status,
            }));
        });
        let told = Told(answer, held.clone());
        let begun = self.engine.waking(|| {
            if let Some(told) = self.begin_release(held, Some(told)) {
                self.tell_released(held, self.clock.now() + held.op_timeout, told);
            }
        });
        if begun.is_none() {
            self.leave_unattended(held);
        }
    }

    /// Returns `then` if there is nothing to wait for here: the lease has ended, or is given back by somebody else already.
    fn begin_release<F>(self: &Arc<Self>, held: &Arc<Held>, then: Option<Told<F>>) -> Option<Told<F>>
    where
        F: FnOnce(Result<Status>) + Send + 'static,
    {
        // Taken first: a session that is closing sees no lease any more after `let_go`, and must still wait for the release.
        let _closing_waits = self.tasks.token();
        let since = self.clock.now();
        match held.on_at(since, Event::Release) {
            Action::GiveBack => {}
            Action::Lose(reason) => {
                self.on_loss(held, reason);
                return then;
            }
            Action::Wait | Action::Renew => return then,
        }
        let parked = self.let_go(held);
        let (session, held) = (self.clone(), held.clone());
        let span = tracing::debug_span!("release", key = %held.key, token = held.token);
        let given_back = async move {
            session.give_back(&held, since, parked, then).await;
            if held.status() == Status::Unconfirmed {
                // Its own time is over, but what the backend keeps it under may be kept alive for others.
                session.leave(&held.key, held.owner).await;
            }
            session.leave_again(&held.key, held.owner, held.unanswered, since).await;
        };
        self.in_background(given_back.instrument(span));
        None
    }

    async fn give_back<F>(self: &Arc<Self>, held: &Arc<Held>, since: Instant, mut parked: Option<Parked>, mut then: Option<Told<F>>)
    where
        F: FnOnce(Result<Status>) + Send + 'static,
    {
        let (valid_until, longest) = held.read(|state| (state.valid_until(), state.longest_ttl()));
        // A renewal without an answer may have been executed, or still be: the backend can keep the key longer than we vouched for it.
        let late = held.op_timeout.max(self.backend.capabilities().late_window);
        let give_up = valid_until.max(since + longest) + late;
        let patience = since + held.op_timeout;
        let mut pause = FIRST_PAUSE;
        let mut maybe_done = false;
        loop {
            let next = parked.as_ref().map(|parked| parked.request.clone());
            let sent = self.clock.now();
            let release = Release { key: held.key.clone(), owner: held.owner, next, timeout: held.op_timeout };
            let refused = match self.backend.release(release).await {
                Ok(handover) => {
                    let still_ours = || self.clock.now() < valid_until;
                    self.end_release(held, since, conclude(handover.outcome, maybe_done, still_ours));
                    drop(then);
                    if let (Some(parked), Some(answer)) = (parked, handover.next) {
                        // Its waiter, its heir or whoever cleans up after them is there to take it.
                        let _ = parked.reply.send(Carried { sent, answer: Ok(answer) });
                    }
                    return;
                }
                Err(error) => {
                    tracing::warn!(key = %held.key, token = held.token, %error, "release failed, will be tried again");
                    maybe_done |= error.failure == Failure::Unknown;
                    if let Some(then) = then.take() {
                        self.tell_released(held, patience, then);
                    }
                    let refused = error.failure == Failure::Refused;
                    // The waiter must not wait for our troubles; from here on it asks for itself, under the same owner id.
                    if let Some(parked) = parked.take() {
                        let _ = parked.reply.send(Carried { sent, answer: Err(error) });
                    }
                    refused
                }
            };
            // A client that is closed will not be served again.
            if self.clock.now() >= give_up || (refused && self.closing.closed.is_cancelled()) {
                self.end_release(held, since, Status::Unconfirmed);
                return;
            }
            self.clock.sleep_until(self.clock.now() + pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A release that began at `since` is over.
    fn end_release(&self, held: &Held, since: Instant, status: Status) {
        held.on(Event::ReleaseEnded(status));
        self.observer.released(held.subject_until(since), status.as_str());
    }

    /// Waits until a release was answered, at most until `patience` is over.
    pub(crate) async fn released(&self, held: &Arc<Held>, patience: Instant) -> Status {
        tokio::select! {
            biased;
            status = held.until(|status| !matches!(status, Status::Held | Status::Releasing)) => status,
            () = self.clock.sleep_until(patience) => held.status(),
        }
    }

    fn tell_released<F>(self: &Arc<Self>, held: &Arc<Held>, patience: Instant, then: Told<F>)
    where
        F: FnOnce(Result<Status>) + Send + 'static,
    {
        let (session, held) = (self.clone(), held.clone());
        self.engine.spawn(async move {
            session.released(&held, patience).await;
            drop(then);
        });
    }

    /// Gives up a place that nobody here wants any more, with whatever a late request may still bring it.
    pub(crate) fn abandon(self: &Arc<Self>, key: Arc<str>, place: Place) {
        if place.sent.is_none() && place.carried.is_none() {
            return;
        }
        let session = self.clone();
        self.in_background(async move { session.give_up(key, place).await });
    }

    async fn give_up(self: Arc<Self>, key: Arc<str>, place: Place) {
        let Place { owner, mut sent, mut unanswered, carried, .. } = place;
        if let Some(carried) = carried {
            // Not before its request was answered: a leave that overtakes it would be undone by it.
            if let Ok(Carried { sent: at, answer }) = carried.await {
                sent = Some(at);
                if answer.is_err_and(|error| error.failure == Failure::Unknown) {
                    unanswered = Some(at);
                }
            }
        }
        if sent.is_some() {
            let since = self.clock.now();
            self.leave(&key, owner).await;
            self.leave_again(&key, owner, unanswered, since).await;
        }
    }

    /// Gives up in the background whatever an owner has, and what a request without an answer may bring it.
    pub(crate) fn leave_in_background(self: &Arc<Self>, key: Arc<str>, owner: OwnerId, unanswered: Option<Instant>) {
        let session = self.clone();
        let left = async move {
            let since = session.clock.now();
            session.leave(&key, owner).await;
            session.leave_again(&key, owner, unanswered, since).await;
        };
        self.in_background(left);
    }

    /// Leaves once more when the backend can no longer execute a request that was never answered. What has been done `since` may have come
    /// before it, however late that was answered.
    async fn leave_again(&self, key: &Arc<str>, owner: OwnerId, unanswered: Option<Instant>, since: Instant) {
        let Some(late) = unanswered.map(|sent| sent + self.backend.capabilities().late_window) else { return };
        if since < late {
            self.clock.sleep_until(late).await;
            self.leave(key, owner).await;
        }
    }

    /// Leaves until the backend has confirmed it.
    async fn leave(&self, key: &Arc<str>, owner: OwnerId) {
        let give_up: Instant = self.clock.now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        while let Err(error) = self.backend.leave(key.clone(), owner, self.options.op_timeout).await {
            if error.failure == Failure::Refused || self.clock.now() >= give_up {
                tracing::warn!(%key, %owner, %error, "could not be given up, is left to expire");
                return;
            }
            self.clock.sleep_until(self.clock.now() + pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Whom to tell how a lease stands when its release was answered, or when that comes to an end by a panic.
struct Told<F: FnOnce(Result<Status>)>(Arc<Answer<Status, F>>, Arc<Held>);

impl<F: FnOnce(Result<Status>)> Drop for Told<F> {
    fn drop(&mut self) {
        self.0.give(Ok(self.1.status()));
    }
}

/// What a definite answer says about the release.
///
/// "Not held" in answer to a *retry* may be the echo of our own first request: before the lease's end nobody else can have taken it.
fn conclude(outcome: Outcome, maybe_done: bool, still_ours: impl FnOnce() -> bool) -> Status {
    match outcome {
        Outcome::Released => Status::Released,
        Outcome::NotHeld if !maybe_done => Status::NotHeld,
        Outcome::NotHeld if still_ours() => Status::Released,
        Outcome::NotHeld => Status::Unconfirmed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r05_not_held_is_believed_the_first_time() {
        assert_eq!(conclude(Outcome::NotHeld, false, || true), Status::NotHeld);
        assert_eq!(conclude(Outcome::Released, true, || false), Status::Released);
    }

    #[test]
    fn r05_not_held_on_a_retry_is_the_echo_of_the_first_request_while_the_lease_lasts() {
        assert_eq!(conclude(Outcome::NotHeld, true, || true), Status::Released);
        assert_eq!(conclude(Outcome::NotHeld, true, || false), Status::Unconfirmed);
    }
}
