//! How a lock is released, a waiter withdrawn, and a lock handed over to the session's next waiter in the same step.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant as Timer;

use super::acquire::AcquireCall;
use super::attempt::{AttemptState, Deletion, EtcdAttempt};
use super::attempts::AttemptAccess;
use super::names::LockQueue;
use super::request::Step;
use super::store::EtcdStore;
use crate::backend::{Acquired, Handover, Outcome};
use crate::error::{BackendError, Failure};
use crate::owner::OwnerId;

/// How long after a failed withdrawal it is repeated in the background. By then the engine has given it up.
const REPEAT_AFTER: Duration = Duration::from_secs(70);

impl EtcdStore {
    /// Deletes an attempt's key, whether it holds or waits. Meant for a task of its own.
    pub(super) async fn release(
        self: Arc<Self>,
        queue: LockQueue,
        owner: OwnerId,
        access: AttemptAccess,
        deadline: Timer,
    ) -> Result<Outcome, BackendError> {
        // Waits for an acquire that is under way, which would otherwise undo this.
        let mut attempt = access.wait(deadline).await?;
        let outcome = self.withdraw(&queue, owner, &mut attempt, deadline).await;
        self.attempts.finish(owner, attempt);
        outcome
    }

    /// Withdraws an attempt, whatever it has. Meant for a task of its own.
    ///
    /// A withdrawal that fails is repeated in the background: the key may be under a lease that is kept alive for others, and then nothing
    /// else would end it.
    pub(super) async fn leave(
        self: Arc<Self>,
        queue: LockQueue,
        owner: OwnerId,
        access: AttemptAccess,
        deadline: Timer,
    ) -> Result<(), BackendError> {
        let mut attempt = access.wait(deadline).await?;
        let outcome = self.withdraw(&queue, owner, &mut attempt, deadline).await;
        if let AttemptState::Withdrawing(withdrawal) = &mut attempt.state
            && !std::mem::replace(&mut withdrawal.is_repeated, true)
        {
            tokio::spawn(self.clone().repeat_withdrawal(queue, owner));
        }
        self.attempts.finish(owner, attempt);
        outcome.map(drop)
    }

    async fn repeat_withdrawal(self: Arc<Self>, queue: LockQueue, owner: OwnerId) {
        loop {
            tokio::select! {
                () = self.closed.cancelled() => return,
                () = tokio::time::sleep(REPEAT_AFTER) => {}
            }
            let Some(access) = self.attempts.find(owner) else { return };
            let deadline = Timer::now() + self.context.op_timeout;
            let Ok(mut attempt) = access.wait(deadline).await else { continue };
            // Otherwise another request has confirmed the deletion, and the owner has asked again.
            let is_due = matches!(&attempt.state, AttemptState::Withdrawing(withdrawal) if withdrawal.is_repeated);
            let is_done = !is_due || self.withdraw(&queue, owner, &mut attempt, deadline).await.is_ok();
            self.attempts.finish(owner, attempt);
            if is_done {
                return;
            }
        }
    }

    /// Releases a lock and asks for it on behalf of the session's next waiter, usually in one transaction. Meant for a task of its own.
    pub(super) async fn hand_over(
        self: Arc<Self>,
        owner: OwnerId,
        access: Option<AttemptAccess>,
        next: AcquireCall,
        next_access: AttemptAccess,
    ) -> Result<Handover, BackendError> {
        let mut next_attempt = next_access.wait(next.deadline).await?;
        let Some(access) = access else {
            let acquired = self.get(&next, &mut next_attempt).await.map_err(|error| next_attempt.judge(error));
            self.attempts.finish(next.owner(), next_attempt);
            return Ok(Handover { outcome: Outcome::NotHeld, next: acquired.map(Some).or_else(none_if_not_asked)? });
        };
        let mut attempt = access.wait(next.deadline).await?;
        let handover = self.release_and_ask(owner, &mut attempt, &next, &mut next_attempt).await;
        self.attempts.finish(owner, attempt);
        self.attempts.finish(next.owner(), next_attempt);
        handover
    }

    async fn release_and_ask(
        &self,
        owner: OwnerId,
        attempt: &mut EtcdAttempt,
        next: &AcquireCall,
        next_attempt: &mut EtcdAttempt,
    ) -> Result<Handover, BackendError> {
        let AcquireCall { queue, since, deadline, .. } = next;
        let deletion = attempt.withdraw();
        let prepared = match deletion {
            Some(Deletion::Key { created, held }) if next_attempt.is_over() => {
                self.prepare(next, next_attempt).await.ok().map(|prepared| (created, held, prepared))
            }
            _ => None,
        };
        let Some((created, held, (prepared, request))) = prepared else {
            // One after the other: an unanswered request has to be ended first, or the next attempt has a key already.
            let outcome = self.withdraw(queue, owner, attempt, *deadline).await?;
            let acquired = self.get(next, next_attempt).await.map(Some);
            let acquired = acquired.map_err(|error| next_attempt.judge(error)).or_else(none_if_not_asked)?;
            return Ok(Handover { outcome, next: acquired });
        };
        let delete = Step::Delete { queue_key: queue.queue_key(owner.session, attempt.key_number), created };
        let [deleted, made] = self.writes.submit([delete, Step::MakeKey(request)], *deadline);
        let kept = self.pool.freshen(&prepared.lease.lease, *since, *deadline);
        let (deleted, made, kept) = tokio::join!(deleted.wait(), made.wait(), kept);
        let acquired = match self.conclude(next, next_attempt, prepared, made, kept).await {
            Ok(None) if deleted.is_ok() => self.get(next, next_attempt).await.map(Some),
            acquired => acquired,
        };
        let deleted = deleted?;
        let outcome = confirm(attempt, held && deleted.succeeded(), deleted.may_run_again)?;
        let acquired = acquired.map_err(|error| next_attempt.judge(error)).or_else(none_if_not_asked)?;
        Ok(Handover { outcome, next: acquired })
    }

    /// Deletes what an attempt has or may still get.
    pub(super) async fn withdraw(
        &self,
        queue: &LockQueue,
        owner: OwnerId,
        attempt: &mut EtcdAttempt,
        deadline: Timer,
    ) -> Result<Outcome, BackendError> {
        let Some(deletion) = attempt.withdraw() else {
            attempt.end();
            return Ok(Outcome::NotHeld);
        };
        let queue_key = queue.queue_key(owner.session, attempt.key_number);
        match deletion {
            Deletion::Key { created, held } => {
                let answer = self.writes.ask(Step::Delete { queue_key, created }, deadline).await?;
                confirm(attempt, held && answer.succeeded(), answer.may_run_again)
            }
            Deletion::Anything { held } => {
                let deleted = self.guarded_deletions.delete(queue_key, deadline).await?;
                confirm(attempt, held.is_some() && held == deleted.created, deleted.may_have_run_before)
            }
        }
    }
}

/// Ends an attempt whose deletion is confirmed. `held` says that the deletion found the key of a holder.
fn confirm(attempt: &mut EtcdAttempt, held: bool, may_have_run_before: bool) -> Result<Outcome, BackendError> {
    attempt.end();
    match (held, may_have_run_before) {
        (true, _) => Ok(Outcome::Released),
        (false, false) => Ok(Outcome::NotHeld),
        // An earlier copy of the request may have deleted the holder's key.
        (false, true) => Err(BackendError::new(Failure::Unknown, "another server was asked first and did not answer")),
    }
}

/// A next waiter that was certainly not asked for asks for itself.
fn none_if_not_asked(error: BackendError) -> Result<Option<Acquired>, BackendError> {
    if error.failure == Failure::Unknown { Err(error) } else { Ok(None) }
}
