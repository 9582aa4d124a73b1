//! How a session releases keys and withdraws waiters: in the background and past cancellation, until the backend has confirmed it
//! or the lease would have run out by itself.

use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument;

use crate::backend::{Outcome, Release};
use crate::backoff::Backoff;
use crate::clock::Instant;
use crate::driver::Reader;
use crate::engine::call::Call;
use crate::engine::lease_record::LeaseRecord;
use crate::engine::lease_state::{Action, LeaseEvent, Status};
use crate::engine::leaving::Leaving;
use crate::engine::line::{HandoverAnswer, HandoverRequest, QueuePosition};
use crate::engine::pending_calls::Answer;
use crate::engine::session::Session;
use crate::error::{Failure, Result};
use crate::observe::logs::target;
use crate::owner::OwnerId;

/// Pauses between releases, and between withdrawals, that fail.
const RELEASE_BACKOFF: Backoff = Backoff::millis(50, 800);
/// For how long a withdrawal is tried again when the backend does not answer: no queue position and no claim lives longer.
const LONGEST_WITHDRAWAL: Duration = Duration::from_secs(60);

impl Session {
    /// Ends the validity and the renewal of a lease, then releases the key in the background. Does nothing to a lease that has
    /// ended.
    pub(crate) fn release(self: &Arc<Self>, record: &Arc<LeaseRecord>) {
        let nobody = None::<WhenReleased<fn(Result<Status>)>>;
        if self.engine.waking(|| drop(self.begin_release(record, nobody, || None))).is_none() {
            self.apply(record, LeaseEvent::Unattended);
        }
    }

    /// [`Session::release`] by a caller whose thread goes as far as it can by itself. Calls `then` once the release was answered, or after
    /// the lease's `op_timeout`.
    pub(crate) fn release_then(
        self: &Arc<Self>,
        record: &Arc<LeaseRecord>,
        reader: impl FnOnce() -> Option<Reader>,
        then: impl FnOnce(Status) + Send + 'static,
    ) -> Option<Call> {
        if self.engine.is_stopped() {
            self.apply(record, LeaseEvent::Unattended);
        }
        let ended = record.clone();
        let answer = self.engine.begin(move |status: Result<Status>| {
            then(status.unwrap_or_else(|_| match ended.status() {
                // The engine has stopped, so no answer will come.
                Status::Held | Status::Releasing => Status::Unconfirmed,
                status => status,
            }));
        });
        let then = WhenReleased(answer, record.clone());
        let begun = self.engine.waking(|| {
            self.begin_release(record, Some(then), reader).unwrap_or_else(|then| {
                if let Some(then) = then {
                    self.call_when_released(record, self.clock.now() + record.op_timeout, then);
                }
                None
            })
        });
        if begun.is_none() {
            self.apply(record, LeaseEvent::Unattended);
        }
        begun.flatten()
    }

    /// The call that the caller may drive, if there is one. Returns `then` as the error if there is no release to wait for here: the lease
    /// has ended, or another caller releases it already.
    fn begin_release<F>(
        self: &Arc<Self>,
        record: &Arc<LeaseRecord>,
        then: Option<WhenReleased<F>>,
        reader: impl FnOnce() -> Option<Reader>,
    ) -> std::result::Result<Option<Call>, Option<WhenReleased<F>>>
    where
        F: FnOnce(Result<Status>) + Send + 'static,
    {
        // Taken first: a closing session sees no lease any more once it is deregistered, and must still wait for the release.
        let _closing_waits = self.tasks.token();
        let since = self.clock.now();
        if self.apply_at(since, record, LeaseEvent::Release) != Action::Release {
            return Err(then);
        }
        // Noted first: a hint that no longer finds the lease in its line must find its release.
        let leaving = self.note_release(record);
        let hand_over = self.deregister(record);
        // What is handed over is answered to another caller, who must not depend on this one.
        let is_waited_for = hand_over.is_some();
        let reader = || if is_waited_for { None } else { reader() };
        let (session, record) = (self.clone(), record.clone());
        let span = tracing::debug_span!(target: target::RELEASE, "release", key = %record.key, token = record.token);
        // Boxed because it is large and would be moved as a whole with every future around it.
        let released = Box::pin(async move {
            session.release_until_confirmed(&record, since, hand_over, then).await;
            if record.status() == Status::Unconfirmed {
                // The lease has run out, but a backend may keep the key alive under something that others renew.
                session.withdraw_until_confirmed(&record.key, record.owner).await;
            }
            session.withdraw_late(&record.key, record.owner, record.unanswered, since).await;
        });
        Ok(self.in_background(leaving, released.instrument(span), reader))
    }

    async fn release_until_confirmed<F>(
        self: &Arc<Self>,
        record: &Arc<LeaseRecord>,
        since: Instant,
        mut hand_over: Option<HandoverRequest>,
        mut then: Option<WhenReleased<F>>,
    ) where
        F: FnOnce(Result<Status>) + Send + 'static,
    {
        let (valid_until, longest) = record.read(|state| (state.valid_until(), state.longest_ttl()));
        // A renewal without an answer may have been executed, or still be: the backend may keep the key longer than the engine
        // vouched for it.
        let late = record.op_timeout.max(self.backend.capabilities().late_window);
        let give_up = valid_until.max(since + longest) + late;
        let patience = since + record.op_timeout;
        let mut pauses = RELEASE_BACKOFF.pauses();
        let mut maybe_done = false;
        loop {
            let next = hand_over.as_ref().map(|hand_over| hand_over.request.clone());
            let sent = self.clock.now();
            let release = Release { key: record.key.clone(), owner: record.owner, next, timeout: record.op_timeout };
            let refused = match self.backend.release(release).await {
                Ok(answer) => {
                    let still_ours = || self.clock.now() < valid_until;
                    self.note_release_ended(record, since, conclude(answer.outcome, maybe_done, still_ours));
                    drop(then);
                    if let (Some(hand_over), Some(granted)) = (hand_over, answer.next) {
                        // The receiver is the waiter, its successor or the cleanup task; with none of them left the answer may be
                        // dropped.
                        let _ = hand_over.reply.send(HandoverAnswer { sent, answer: Ok(granted) });
                    }
                    return;
                }
                Err(error) => {
                    tracing::warn!(target: target::RELEASE, key = %record.key, token = record.token, %error, "release failed; it will be tried again");
                    maybe_done |= error.failure == Failure::Unknown;
                    if let Some(then) = then.take() {
                        self.call_when_released(record, patience, then);
                    }
                    let refused = error.failure == Failure::Refused;
                    // The waiter must not wait for this release to succeed: it asks for itself from here on, under the same owner
                    // id.
                    if let Some(hand_over) = hand_over.take() {
                        let _ = hand_over.reply.send(HandoverAnswer { sent, answer: Err(error) });
                    }
                    refused
                }
            };
            // A backend that refuses a closed client will not serve it later.
            if self.clock.now() >= give_up || (refused && self.closing.closed.is_cancelled()) {
                self.note_release_ended(record, since, Status::Unconfirmed);
                return;
            }
            self.clock.sleep_until(self.clock.now() + pauses.next()).await;
        }
    }

    /// Reports the end of a release that began at `since`.
    pub(crate) fn note_release_ended(self: &Arc<Self>, record: &Arc<LeaseRecord>, since: Instant, status: Status) {
        self.apply(record, LeaseEvent::ReleaseEnded(status));
        self.observer.released(record.subject_until(since), status.as_str());
    }

    /// Waits until a release was answered, at most until `patience` is over.
    pub(super) async fn released(&self, record: &Arc<LeaseRecord>, patience: Instant) -> Status {
        tokio::select! {
            biased;
            status = record.until(is_over) => status,
            () = self.clock.sleep_until(patience) => record.status(),
        }
    }

    fn call_when_released<F>(self: &Arc<Self>, record: &Arc<LeaseRecord>, patience: Instant, then: WhenReleased<F>)
    where
        F: FnOnce(Result<Status>) + Send + 'static,
    {
        if is_over(record.status()) {
            drop(then);
            return;
        }
        let (session, record) = (self.clone(), record.clone());
        self.engine.spawn(async move {
            session.released(&record, patience).await;
            drop(then);
        });
    }

    /// Withdraws a queue position that no local caller wants any more, with whatever a late request may still bring it.
    pub(crate) fn withdraw(self: &Arc<Self>, key: Arc<str>, position: QueuePosition) {
        if position.sent.is_none() && position.handed_over.is_none() {
            return;
        }
        let session = self.clone();
        // Whatever was handed over may still be executed.
        let unanswered = position.unanswered.or_else(|| position.handed_over.is_some().then(|| self.clock.now()));
        let leaving = Leaving::new(key.clone(), position.owner, unanswered, None);
        self.withdraw_as(leaving, async move { session.withdraw_position(key, position).await });
    }

    async fn withdraw_position(self: Arc<Self>, key: Arc<str>, position: QueuePosition) {
        let QueuePosition { owner, mut sent, mut unanswered, handed_over, .. } = position;
        if let Some(handed_over) = handed_over {
            // A withdrawal that overtakes the request would be undone by it, so the answer comes first.
            if let Ok(HandoverAnswer { sent: at, answer }) = handed_over.await {
                sent = Some(at);
                if answer.is_err_and(|error| error.failure == Failure::Unknown) {
                    unanswered = Some(at);
                }
            }
        }
        if sent.is_some() {
            self.withdraw_twice(key, owner, unanswered).await;
        }
    }

    /// Withdraws in the background whatever an owner has, and what an unanswered request may still bring it.
    pub(crate) fn withdraw_in_background(self: &Arc<Self>, key: Arc<str>, owner: OwnerId, unanswered: Option<Instant>) {
        let (session, leaving) = (self.clone(), Leaving::new(key.clone(), owner, unanswered, None));
        self.withdraw_as(leaving, async move { session.withdraw_twice(key, owner, unanswered).await });
    }

    /// Withdraws in the background whatever an owner has, but not before the release of its lease was answered, if there is one:
    /// overtaken by the withdrawal, that would be told "not held".
    pub(crate) fn withdraw_after_release(self: &Arc<Self>, key: Arc<str>, owner: OwnerId) {
        let releasing = self.releasing(owner);
        let (session, leaving) = (self.clone(), Leaving::new(key.clone(), owner, None, None));
        let withdrawn = async move {
            if let Some(record) = releasing {
                record.until(|status| status != Status::Releasing).await;
            }
            session.withdraw_until_confirmed(&key, owner).await;
        };
        self.withdraw_as(leaving, withdrawn);
    }

    /// Withdraws, and once more for an unanswered request, if there is one.
    pub(super) async fn withdraw_twice(&self, key: Arc<str>, owner: OwnerId, unanswered: Option<Instant>) {
        let since = self.clock.now();
        self.withdraw_until_confirmed(&key, owner).await;
        self.withdraw_late(&key, owner, unanswered, since).await;
    }

    /// Withdraws once more when the backend can no longer execute a request that was never answered. A withdrawal that was sent at
    /// `since` may have been executed before that request, however late it was answered.
    async fn withdraw_late(&self, key: &Arc<str>, owner: OwnerId, unanswered: Option<Instant>, since: Instant) {
        let Some(late) = unanswered.map(|sent| sent + self.backend.capabilities().late_window) else { return };
        if since < late {
            self.clock.sleep_until(late).await;
            self.withdraw_until_confirmed(key, owner).await;
        }
    }

    /// Withdraws whatever an owner has, until the backend has confirmed it. To a backend that is
    /// [`leave`](crate::backend::Backend::leave).
    async fn withdraw_until_confirmed(&self, key: &Arc<str>, owner: OwnerId) {
        let give_up: Instant = self.clock.now() + LONGEST_WITHDRAWAL;
        let mut pauses = RELEASE_BACKOFF.pauses();
        while let Err(error) = self.backend.leave(key.clone(), owner, self.options.op_timeout).await {
            if error.failure == Failure::Refused || self.clock.now() >= give_up {
                tracing::warn!(target: target::RELEASE, %key, %owner, %error, "a waiter could not be withdrawn; it is left to expire");
                return;
            }
            self.clock.sleep_until(self.clock.now() + pauses.next()).await;
        }
    }
}

/// Answers the caller with the final status when dropped, also while unwinding.
struct WhenReleased<F: FnOnce(Result<Status>)>(Arc<Answer<Status, F>>, Arc<LeaseRecord>);

impl<F: FnOnce(Result<Status>)> Drop for WhenReleased<F> {
    fn drop(&mut self) {
        self.0.give(Ok(self.1.status()));
    }
}

/// Whether nothing is left to wait for.
fn is_over(status: Status) -> bool {
    !matches!(status, Status::Held | Status::Releasing)
}

/// What a definite answer says about the release.
///
/// "Not held" in answer to a *retry* may be the echo of the first request: before the lease's end nobody else can have taken the
/// key.
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
