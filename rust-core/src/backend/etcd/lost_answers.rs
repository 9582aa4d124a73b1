//! How keys are deleted that a request without an answer has made, or may still make.
//!
//! The same transaction moves the guard on, so what was asked before it and is not executed yet will never be. Whoever asks for a place
//! meanwhile has to ask again, and no two of these can be under way at a time. So those that come while one is go together in the next: a
//! cluster that falls silent under ten thousand requests is not asked ten thousand times more, one after the other, for what became of them.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant as Timer, timeout_at};

use super::acquire::ROUNDS;
use super::batch::{Line, haunted};
use super::guard::{Guard, guard_too_fast};
use super::request;
use crate::error::{BackendError, Failure};

/// How many go together. etcd allows 128 operations, and limits the bytes of a request.
const MOST: usize = 100;
const MOST_BYTES: usize = 256 * 1024;

type Answered = Result<Cleared, BackendError>;

/// What was found where a key was to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cleared {
    /// The create revision of the key, if there was one.
    pub(super) created: Option<i64>,
    /// The key may have been deleted by an earlier request for the same.
    pub(super) ghosts: bool,
}

/// A key that is to be deleted.
struct Waiting {
    place: Vec<u8>,
    deadline: Timer,
    answer: oneshot::Sender<Answered>,
}

/// The keys of a session that wait to be deleted with the guard.
pub(super) struct Clearing {
    line: Arc<Line>,
    guard: Arc<Guard>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Somebody sends them.
    busy: bool,
}

impl Clearing {
    pub(super) fn new(line: Arc<Line>, guard: Arc<Guard>) -> Self {
        Self { line, guard, state: Mutex::default() }
    }

    /// Deletes what is at `place`, and sees to it that no request of before this makes it again.
    ///
    /// # Cancel safety
    /// What is dropped may be executed or not: nobody may ask for this place again before another deletion was answered.
    pub(super) async fn clear(self: &Arc<Self>, place: Vec<u8>, deadline: Timer) -> Answered {
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.state.lock();
            state.waiting.push_back(Waiting { place, deadline, answer });
            if !std::mem::replace(&mut state.busy, true) {
                tokio::spawn(self.clone().run());
            }
        }
        match timeout_at(deadline, answered).await {
            Ok(Ok(answered)) => answered,
            // Or unsent, where its time was over in line or the engine is shutting down.
            Ok(Err(_)) | Err(_) => Err(BackendError::new(Failure::Unknown, "no answer in time")),
        }
    }

    /// Sends what waits until nothing does.
    async fn run(self: Arc<Self>) {
        loop {
            let Some(batch) = self.state.lock().next() else { return };
            let this = self.clone();
            // In a task of its own: whatever ends it, those in line are not forgotten.
            let _ = tokio::spawn(async move { this.send(batch).await }).await;
        }
    }

    async fn send(&self, batch: Vec<Waiting>) {
        let Some(deadline) = batch.iter().map(|waiting| waiting.deadline).max() else { return };
        let places: Vec<_> = batch.iter().map(|waiting| &*waiting.place).collect();
        match self.delete(&places, deadline).await {
            Ok(cleared) => {
                for (waiting, cleared) in batch.into_iter().zip(cleared) {
                    let _ = waiting.answer.send(Ok(cleared));
                }
            }
            // Nothing was done: with so many operations, perhaps.
            Err(error) if error.failure == Failure::Refused && batch.len() > 1 => {
                for waiting in batch {
                    let alone = self.delete(&[&waiting.place], waiting.deadline).await;
                    let _ = waiting.answer.send(alone.and_then(|mut cleared| cleared.pop().ok_or_else(request::unexpected)));
                }
            }
            Err(error) => {
                for waiting in batch {
                    let _ = waiting.answer.send(Err(error.clone()));
                }
            }
        }
    }

    async fn delete(&self, places: &[&[u8]], deadline: Timer) -> Result<Vec<Cleared>, BackendError> {
        let mut ghosts = false;
        // One of the requests before the last may have been executed.
        self.try_to_delete(places, deadline, &mut ghosts).await.map_err(|error| haunted(error, ghosts))
    }

    async fn try_to_delete(&self, places: &[&[u8]], deadline: Timer, ghosts: &mut bool) -> Result<Vec<Cleared>, BackendError> {
        for _ in 0..ROUNDS {
            let guard = self.guard.current(deadline).await?;
            let (put, lease) = self.guard.put(deadline).await?;
            let answer = match self.line.execute(|| request::clear(places, &guard, put.clone()), deadline).await {
                Ok(answer) => answer,
                // It went alone, so it is the guard's.
                Err(error) if request::names_a_lease_that_is_gone(&error) => {
                    *ghosts |= error.failure == Failure::Unknown;
                    self.guard.unseat(lease);
                    continue;
                }
                Err(error) => return Err(error),
            };
            // It may have been this that moved the guard on, and deleted the keys.
            *ghosts |= answer.ghosts;
            if let Some(found) = request::cleared(&answer, places.len())? {
                self.guard.moved_to(answer.revision);
                return Ok(found.into_iter().map(|created| Cleared { created, ghosts: *ghosts }).collect());
            }
            self.guard.forget(&guard);
        }
        Err(guard_too_fast())
    }
}

impl State {
    /// Those that go next; `None` when nobody waits, and then nobody sends any more.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        let now = Timer::now();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < MOST
            && let Some(waiting) = self.waiting.pop_front()
        {
            if waiting.deadline <= now || waiting.answer.is_closed() {
                continue;
            }
            bytes += waiting.place.len();
            batch.push(waiting);
            if bytes > MOST_BYTES {
                break;
            }
        }
        self.busy = !batch.is_empty();
        self.busy.then_some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn waiting(bytes: usize, timeout: Duration) -> (Waiting, oneshot::Receiver<Answered>) {
        let (answer, answered) = oneshot::channel();
        (Waiting { place: vec![0; bytes], deadline: Timer::now() + timeout, answer }, answered)
    }

    #[tokio::test]
    async fn those_that_go_together_are_bounded_and_nobody_is_forgotten() {
        let second = Duration::from_secs(1);
        let (waiting, _answers): (VecDeque<_>, Vec<_>) = (0..=MOST).map(|_| waiting(10, second)).unzip();
        let mut state = State { waiting, busy: true };
        let sizes: Vec<_> = std::iter::from_fn(|| state.next()).map(|batch| batch.len()).collect();
        assert_eq!((sizes, state.busy), (vec![MOST, 1], false));
    }

    #[tokio::test]
    async fn many_bytes_go_in_several_requests() {
        let (waiting, _answers): (VecDeque<_>, Vec<_>) = (0..3).map(|_| waiting(MOST_BYTES, Duration::from_secs(1))).unzip();
        let mut state = State { waiting, busy: true };
        let sizes: Vec<_> = std::iter::from_fn(|| state.next()).map(|batch| batch.len()).collect();
        assert_eq!(sizes, [2, 1]);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_sent() {
        let (late, _late) = waiting(1, Duration::ZERO);
        let (left, _) = waiting(1, Duration::from_secs(1));
        let mut state = State { waiting: [late, left].into(), busy: true };
        assert!(state.next().is_none());
        assert!(!state.busy);
    }
}
