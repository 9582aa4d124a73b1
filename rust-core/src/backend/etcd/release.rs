//! How an owner gives up what it has, and what the session's next waiter gets in the same step.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant as Timer;

use super::Store;
use super::acquire::Asking;
use super::attempts::{Attempt, Leaving, Turned};
use super::names::Queue;
use super::request::Answer;
use super::shape::Step;
use crate::backend::{Acquired, Handover, Outcome};
use crate::error::{BackendError, Failure};
use crate::owner::OwnerId;

/// The pause before a key is deleted that nobody wants, by when everybody else has given up.
const SWEEP: Duration = Duration::from_secs(70);

impl Store {
    /// Gives up an attempt's key, be it a grant or a place. Meant for a task of its own.
    pub(super) async fn give_back(
        self: Arc<Self>,
        queue: Queue,
        owner: OwnerId,
        turned: Turned,
        deadline: Timer,
    ) -> Result<Outcome, BackendError> {
        // An acquire that is under way is waited for: overtaken, it would undo this.
        let mut turn = turned.wait(deadline).await?;
        let outcome = self.take_back(&queue, owner, &mut turn, deadline).await;
        self.attempts.end(owner, turn);
        outcome
    }

    /// Gives up what an attempt has, whatever that is. Meant for a task of its own.
    ///
    /// One that fails is tried again when everybody else has given it up: the lease may be kept alive for others, and then nothing ends
    /// by itself.
    pub(super) async fn leave(
        self: Arc<Self>,
        queue: Queue,
        owner: OwnerId,
        turned: Turned,
        deadline: Timer,
    ) -> Result<(), BackendError> {
        let mut turn = turned.wait(deadline).await?;
        let outcome = self.take_back(&queue, owner, &mut turn, deadline).await;
        if outcome.is_err() && std::mem::replace(&mut turn.leaving, Leaving::Swept) != Leaving::Swept {
            tokio::spawn(self.clone().sweep(queue, owner));
        }
        self.attempts.end(owner, turn);
        outcome.map(drop)
    }

    async fn sweep(self: Arc<Self>, queue: Queue, owner: OwnerId) {
        loop {
            tokio::select! {
                () = self.closed.cancelled() => return,
                () = tokio::time::sleep(SWEEP) => {}
            }
            let Some(turned) = self.attempts.find(owner) else { return };
            let deadline = Timer::now() + self.context.op_timeout;
            let Ok(mut turn) = turned.wait(deadline).await else { continue };
            if turn.leaving != Leaving::Swept {
                // It was gone, and its owner has asked for another one.
                return self.attempts.end(owner, turn);
            }
            let swept = self.take_back(&queue, owner, &mut turn, deadline).await.is_ok();
            self.attempts.end(owner, turn);
            if swept {
                return;
            }
        }
    }

    /// Gives a key back and asks for it again on behalf of the next waiter, as a rule in one transaction. Meant for a task of its own.
    pub(super) async fn hand_over(
        self: Arc<Self>,
        owner: OwnerId,
        turned: Option<Turned>,
        next: Asking,
        turned_next: Turned,
    ) -> Result<Handover, BackendError> {
        let mut turn_next = turned_next.wait(next.deadline).await?;
        let Some(turned) = turned else {
            let acquired = self.get(&next, &mut turn_next).await.map_err(|error| turn_next.judge(error));
            self.attempts.end(next.acquire.owner, turn_next);
            return Ok(Handover { outcome: Outcome::NotHeld, next: acquired.map(Some).or_else(not_asked)? });
        };
        let mut turn = turned.wait(next.deadline).await?;
        let handover = self.pass_on(owner, &mut turn, &next, &mut turn_next).await;
        self.attempts.end(owner, turn);
        self.attempts.end(next.acquire.owner, turn_next);
        handover
    }

    async fn pass_on(
        &self,
        owner: OwnerId,
        attempt: &mut Attempt,
        next: &Asking,
        attempt_next: &mut Attempt,
    ) -> Result<Handover, BackendError> {
        let Asking { queue, since, deadline, .. } = next;
        let prepared = if is_plain(attempt, attempt_next) { self.prepare(next, attempt_next).await.ok() } else { None };
        let Some((prepared, ask)) = prepared else {
            // Something without an answer is to be cleared up first, or there is a place already: one after the other.
            let outcome = self.take_back(queue, owner, attempt, *deadline).await?;
            let acquired = self.get(next, attempt_next).await.map(Some);
            let acquired = acquired.map_err(|error| attempt_next.judge(error)).or_else(not_asked)?;
            return Ok(Handover { outcome, next: acquired });
        };
        let place = queue.place(owner.session, attempt.chair);
        let delete = Step::Delete { place, created: attempt.created.unwrap_or(0) };
        attempt.leave();
        let [released, asked] = self.line.submit([delete, Step::Ask(ask)], *deadline)?;
        let kept = self.pool.freshen(&prepared.lease, *since, *deadline);
        let (released, asked, kept) = tokio::join!(released.wait(), asked.wait(), kept);
        let acquired = match self.conclude(next, attempt_next, prepared, asked, kept).await {
            Ok(None) if released.is_ok() => self.get(next, attempt_next).await.map(Some),
            acquired => acquired,
        };
        let outcome = released_by(attempt, &released?)?;
        Ok(Handover { outcome, next: acquired.map_err(|error| attempt_next.judge(error)).or_else(not_asked)? })
    }

    /// Deletes what an attempt has.
    pub(super) async fn take_back(
        &self,
        queue: &Queue,
        owner: OwnerId,
        attempt: &mut Attempt,
        deadline: Timer,
    ) -> Result<Outcome, BackendError> {
        if attempt.is_over() {
            attempt.clear();
            return Ok(Outcome::NotHeld);
        }
        let place = queue.place(owner.session, attempt.chair);
        attempt.leave();
        match attempt.created {
            Some(created) if !attempt.unanswered => {
                let [coming] = self.line.submit([Step::Delete { place, created }], deadline)?;
                released_by(attempt, &coming.wait().await?)
            }
            _ => {
                let cleared = self.clearing.clear(place, deadline).await?;
                let held = attempt.granted && cleared.created.is_some() && cleared.created == attempt.created;
                released(attempt, held, cleared.ghosts)
            }
        }
    }
}

/// True if nothing has to be cleared up before the one is given back and the other asked for.
fn is_plain(attempt: &Attempt, next: &Attempt) -> bool {
    !attempt.unanswered && attempt.created.is_some() && next.created.is_none() && !next.unanswered
}

/// Takes the answer to a deletion: nothing of the attempt is left.
fn released_by(attempt: &mut Attempt, answer: &Answer) -> Result<Outcome, BackendError> {
    released(attempt, attempt.granted && answer.succeeded(), answer.ghosts)
}

fn released(attempt: &mut Attempt, held: bool, ghosts: bool) -> Result<Outcome, BackendError> {
    attempt.clear();
    match (held, ghosts) {
        (true, _) => Ok(Outcome::Released),
        (false, false) => Ok(Outcome::NotHeld),
        // It may be gone by our own first request.
        (false, true) => Err(BackendError::new(Failure::Unknown, "another server was asked first and did not answer")),
    }
}

/// A `next` that was certainly not asked for asks for itself.
fn not_asked(error: BackendError) -> Result<Option<Acquired>, BackendError> {
    if error.failure == Failure::Unknown { Err(error) } else { Ok(None) }
}
