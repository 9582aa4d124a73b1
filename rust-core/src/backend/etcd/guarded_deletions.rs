//! Withdrawal after a request for a queue key got no answer: the key is deleted, whether it was made or may still be made.
//! (An attempt that goes on asks again instead; see `acquire`.)
//!
//! The transaction that deletes it moves the guard on, which makes older requests void. Two consequences follow: other requests that are
//! under way for the session fail on the guard and are sent again, and two such transactions cannot succeed at the same time. So deletions
//! that arrive while one transaction is under way go together in the next. Otherwise a cluster that falls silent under ten thousand
//! requests would get ten thousand more, one after the other (ADR 6).

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant as Timer, timeout_at};

use super::answer::{deleted_keys, error_that_may_run, names_a_lease_that_is_gone, unexpected};
use super::batch::Batches;
use super::guard::{Guard, ROUNDS, guard_too_fast};
use super::outbox::MOST_BYTES;
use super::request::delete_and_move_guard;
use crate::error::{BackendError, Failure};

/// How many deletions go together: etcd allows 128 operations.
const MOST: usize = 100;

type DeletionResult = Result<DeletedKey, BackendError>;

/// What a deletion found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeletedKey {
    /// The create revision of the key, if it existed.
    pub(super) created: Option<i64>,
    /// An earlier copy of the same transaction may have deleted the key.
    pub(super) may_have_run_before: bool,
}

struct QueuedDeletion {
    queue_key: Vec<u8>,
    deadline: Timer,
    answer: oneshot::Sender<DeletionResult>,
}

/// The deletions of a session that move the guard on.
pub(super) struct GuardedDeletions {
    writes: Arc<Batches>,
    guard: Arc<Guard>,
    state: Mutex<GuardedDeletionsState>,
}

#[derive(Default)]
struct GuardedDeletionsState {
    queued: VecDeque<QueuedDeletion>,
    /// A task sends them.
    is_sending: bool,
}

impl GuardedDeletions {
    pub(super) fn new(writes: Arc<Batches>, guard: Arc<Guard>) -> Self {
        Self { writes, guard, state: Mutex::default() }
    }

    /// Deletes `queue_key` if it exists, and makes older requests that would make it void.
    ///
    /// # Cancel safety
    /// If it is dropped, the deletion may be executed or not. The key must not be requested again before another deletion is confirmed.
    pub(super) async fn delete(self: &Arc<Self>, queue_key: Vec<u8>, deadline: Timer) -> DeletionResult {
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.state.lock();
            state.queued.push_back(QueuedDeletion { queue_key, deadline, answer });
            if !std::mem::replace(&mut state.is_sending, true) {
                tokio::spawn(self.clone().send_all());
            }
        }
        match timeout_at(deadline, answered).await {
            Ok(Ok(answered)) => answered,
            // Sent and not answered; or not sent, because its deadline passed in the queue or the engine is shutting down.
            Ok(Err(_)) | Err(_) => Err(BackendError::no_answer(Failure::Unknown)),
        }
    }

    async fn send_all(self: Arc<Self>) {
        loop {
            let Some(batch) = self.state.lock().next() else { return };
            let this = self.clone();
            // In a task of its own: if it panics, those that are queued are still sent.
            let _ = tokio::spawn(async move { this.send(batch).await }).await;
        }
    }

    async fn send(&self, batch: Vec<QueuedDeletion>) {
        let Some(deadline) = batch.iter().map(|queued| queued.deadline).max() else { return };
        let queue_keys: Vec<_> = batch.iter().map(|queued| &*queued.queue_key).collect();
        match self.delete_together(&queue_keys, deadline).await {
            Ok(deleted) => {
                for (queued, deleted) in batch.into_iter().zip(deleted) {
                    let _ = queued.answer.send(Ok(deleted));
                }
            }
            // Nothing was executed, perhaps because this server allows fewer operations.
            Err(error) if error.failure == Failure::Refused && batch.len() > 1 => {
                for queued in batch {
                    let alone = self.delete_together(&[&queued.queue_key], queued.deadline).await;
                    let _ = queued.answer.send(alone.and_then(|mut deleted| deleted.pop().ok_or_else(unexpected)));
                }
            }
            Err(error) => {
                for queued in batch {
                    let _ = queued.answer.send(Err(error.clone()));
                }
            }
        }
    }

    async fn delete_together(&self, queue_keys: &[&[u8]], deadline: Timer) -> Result<Vec<DeletedKey>, BackendError> {
        let mut may_have_run = false;
        let deleted = self.try_to_delete(queue_keys, deadline, &mut may_have_run).await;
        // A request of an earlier round may have been executed.
        deleted.map_err(|error| error_that_may_run(error, may_have_run))
    }

    async fn try_to_delete(
        &self,
        queue_keys: &[&[u8]],
        deadline: Timer,
        may_have_run: &mut bool,
    ) -> Result<Vec<DeletedKey>, BackendError> {
        for _ in 0..ROUNDS {
            let guard = self.guard.current(deadline).await?;
            let (put, lease) = self.guard.put(deadline).await?;
            let txn = || delete_and_move_guard(queue_keys, &guard, put.clone());
            let answer = match self.writes.execute(txn, deadline).await {
                Ok(answer) => answer,
                // No other transaction shared the request, so the lease is the guard's.
                Err(error) if names_a_lease_that_is_gone(&error) => {
                    *may_have_run |= error.failure == Failure::Unknown;
                    self.guard.lease_is_over(lease);
                    continue;
                }
                Err(error) => return Err(error),
            };
            // A copy of this request may have moved the guard on and deleted the keys.
            *may_have_run |= answer.may_run_again;
            if let Some(found) = deleted_keys(&answer, queue_keys.len())? {
                self.guard.moved_to(answer.revision);
                let may_have_run_before = *may_have_run;
                return Ok(found.into_iter().map(|created| DeletedKey { created, may_have_run_before }).collect());
            }
            self.guard.forget(&guard);
        }
        Err(guard_too_fast())
    }
}

impl GuardedDeletionsState {
    /// The deletions that go next; `None` when none are queued, and then nobody sends any more.
    fn next(&mut self) -> Option<Vec<QueuedDeletion>> {
        let now = Timer::now();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < MOST
            && let Some(queued) = self.queued.pop_front()
        {
            if queued.deadline <= now || queued.answer.is_closed() {
                continue;
            }
            bytes += queued.queue_key.len();
            batch.push(queued);
            if bytes > MOST_BYTES {
                break;
            }
        }
        self.is_sending = !batch.is_empty();
        self.is_sending.then_some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn queued(bytes: usize, timeout: Duration) -> (QueuedDeletion, oneshot::Receiver<DeletionResult>) {
        let (answer, answered) = oneshot::channel();
        (QueuedDeletion { queue_key: vec![0; bytes], deadline: Timer::now() + timeout, answer }, answered)
    }

    #[tokio::test]
    async fn deletions_that_go_together_are_bounded_and_none_is_forgotten() {
        let second = Duration::from_secs(1);
        let (queued, _answers): (VecDeque<_>, Vec<_>) = (0..=MOST).map(|_| queued(10, second)).unzip();
        let mut state = GuardedDeletionsState { queued, is_sending: true };
        let sizes: Vec<_> = std::iter::from_fn(|| state.next()).map(|batch| batch.len()).collect();
        assert_eq!((sizes, state.is_sending), (vec![MOST, 1], false));
    }

    #[tokio::test]
    async fn many_bytes_go_in_several_requests() {
        let (queued, _answers): (VecDeque<_>, Vec<_>) = (0..3).map(|_| queued(MOST_BYTES, Duration::from_secs(1))).unzip();
        let mut state = GuardedDeletionsState { queued, is_sending: true };
        let sizes: Vec<_> = std::iter::from_fn(|| state.next()).map(|batch| batch.len()).collect();
        assert_eq!(sizes, [2, 1]);
    }

    #[tokio::test]
    async fn a_deletion_that_nobody_waits_for_is_not_sent() {
        let (late, _late) = queued(1, Duration::ZERO);
        let (left, _) = queued(1, Duration::from_secs(1));
        let mut state = GuardedDeletionsState { queued: [late, left].into(), is_sending: true };
        assert!(state.next().is_none());
        assert!(!state.is_sending);
    }
}
