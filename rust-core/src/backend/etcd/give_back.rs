//! How an owner gives up what it has, and what the session's next waiter gets in the same step.

use std::sync::Arc;

use tokio::time::Instant as Timer;

use super::Store;
use super::acquire::Asking;
use super::attempts::{Attempt, Turned};
use super::names::Queue;
use super::request;
use crate::backend::{Acquired, Handover, Outcome};
use crate::error::{BackendError, Failure};
use crate::owner::OwnerId;

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

    /// Gives a key back and asks for it again on behalf of the next waiter, in one transaction: no other server sees the one without the
    /// other. Meant for a task of its own.
    pub(super) async fn hand_over(
        self: Arc<Self>,
        owner: OwnerId,
        turned: Option<Turned>,
        next: Asking,
        turned_next: Turned,
    ) -> Result<Handover, BackendError> {
        let deadline = next.deadline;
        let outcome = match turned {
            None => Outcome::NotHeld,
            Some(turned) => self.clone().give_back(next.queue.clone(), owner, turned, deadline).await?,
        };
        let next = self.acquire(next, turned_next).await.map(Some).or_else(not_asked)?;
        Ok(Handover { outcome, next })
    }

    /// Deletes what an attempt has; whether it was its grant.
    pub(super) async fn take_back(
        &self,
        queue: &Queue,
        owner: OwnerId,
        attempt: &mut Attempt,
        deadline: Timer,
    ) -> Result<Outcome, BackendError> {
        loop {
            if attempt.is_over() {
                attempt.clear();
                return Ok(Outcome::NotHeld);
            }
            // What may still be executed would make the key again: in the same transaction the guard moves on, past it.
            let unanswered = attempt.unanswered;
            let guard = if unanswered { Some(self.guard.put(deadline).await?) } else { None };
            let txn = request::delete(queue, owner, attempt.created.unwrap_or(0), guard);
            let answer = if unanswered { self.commit_alone(txn, deadline).await } else { self.commit(queue, txn, deadline).await };
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) if unanswered && request::is_lease_gone(&error) => {
                    self.guard.unseat();
                    continue;
                }
                Err(error) => return Err(error),
            };
            if unanswered {
                self.guard.moved_to(answer.revision);
            }
            let held = attempt.granted && answer.answer.succeeded();
            attempt.clear();
            if !held && answer.ghosts {
                // It may be gone by our own first request.
                return Err(BackendError::new(Failure::Unknown, "another server was asked first and did not answer"));
            }
            return Ok(if held { Outcome::Released } else { Outcome::NotHeld });
        }
    }
}

/// A `next` that was certainly not asked for asks for itself.
fn not_asked(error: BackendError) -> Result<Option<Acquired>, BackendError> {
    if error.failure == Failure::Unknown { Err(error) } else { Ok(None) }
}
