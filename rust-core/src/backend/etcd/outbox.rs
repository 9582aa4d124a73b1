//! The outbox in which a session's transactions wait for their batch, and the rules by which they leave it.
//!
//! Each request costs the cluster an entry in its log, which most of its servers write to disk; a transaction that contains many costs one
//! as well. So a transaction that finds the outbox free goes at once, and those that arrive while requests are under way go together. Only
//! after a large batch the first transaction in the outbox waits for the others, a millisecond at most (ADR 8).
//!
//! etcd's rules for a batch decide what may be in it. Compares see the store as it was before the whole batch, and everything in the batch
//! happens at one revision: two keys made in one queue would have the same age, so a batch makes at most one key in a queue. No key may be
//! written twice: requests of the same attempt wait for each other. Operations count on each level, and are limited.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant as Timer, timeout_at};

use super::answer::TxnAnswer;
use super::request::Step;
use crate::backend::limits::LONGEST_OUTBOX;
use crate::error::{BackendError, Failure};

/// How many transactions go together. etcd allows 128 operations, and limits the bytes of a request.
const MOST_STEPS: usize = 100;
pub(super) const MOST_BYTES: usize = 256 * 1024;

/// How many requests are under way at most: one travels while the cluster works on another.
const MOST_CALLS: usize = 2;

/// From this size on, one request after the other is better than two at a time: a request costs the server some 250 µs, and a lock taken
/// and released in it 25.
pub(super) const LARGE: usize = 16;

/// How long a call waits for the callers of a large batch to come back. They come back one by one, and the first would go alone.
const LONGEST_WAIT: Duration = Duration::from_millis(1);

pub(super) type TxnResult = Result<TxnAnswer, BackendError>;

/// A step in the outbox.
pub(super) struct QueuedStep {
    pub(super) step: Step,
    pub(super) deadline: Timer,
    /// It has left the outbox before its deadline, and may have been executed.
    taken: Arc<AtomicBool>,
    pub(super) answer: oneshot::Sender<TxnResult>,
}

/// A session's transactions that wait for their batch.
#[derive(Default)]
pub(super) struct TxnOutbox {
    state: Mutex<TxnOutboxState>,
    /// Enough callers of a large batch are back.
    back: Notify,
}

#[derive(Default)]
struct TxnOutboxState {
    queued: VecDeque<QueuedStep>,
    calls: usize,
    /// How many transactions the calls carry.
    under_way: usize,
    /// The sizes of the last two batches. After a large batch the first caller to come back goes alone, and the others after it, so one
    /// size would not tell.
    sizes: [usize; 2],
    /// A call waits until this many transactions are in the outbox.
    expected: usize,
}

/// The answer to come for one step.
pub(super) struct PendingAnswer {
    outbox: Arc<TxnOutbox>,
    deadline: Timer,
    taken: Arc<AtomicBool>,
    answer: oneshot::Receiver<TxnResult>,
}

impl PendingAnswer {
    pub(super) async fn wait(self) -> TxnResult {
        match timeout_at(self.deadline, self.answer).await {
            Ok(Ok(answered)) => answered,
            // The sender was dropped unused: the engine is shutting down.
            Ok(Err(_)) => Err(BackendError::new(Failure::Unknown, "given up")),
            Err(_) => {
                // Under the outbox's lock: a batch is taken as a whole, and nothing is taken after its deadline.
                let _nothing_leaves = self.outbox.state.lock();
                let failure = if self.taken.load(Ordering::Relaxed) { Failure::Unknown } else { Failure::NotSent };
                Err(BackendError::no_answer(failure))
            }
        }
    }
}

impl TxnOutbox {
    /// Puts steps in the outbox, which go in this order and if possible in one request. True if they are worth another call of [`Self::next`].
    pub(super) fn submit<const N: usize>(self: &Arc<Self>, steps: [Step; N], deadline: Timer) -> ([PendingAnswer; N], bool) {
        let mut state = self.state.lock();
        let is_full = state.queued.len() + N > LONGEST_OUTBOX;
        let pending = steps.map(|step| {
            let (answer, receiver) = oneshot::channel();
            let taken = Arc::new(AtomicBool::new(false));
            if is_full {
                let _ = answer.send(Err(BackendError::new(Failure::NotSent, "too many requests before this one")));
            } else {
                state.queued.push_back(QueuedStep { step, deadline, taken: taken.clone(), answer });
            }
            PendingAnswer { outbox: self.clone(), deadline, taken, answer: receiver }
        });
        if state.expected > 0 && state.are_back() {
            self.back.notify_one();
        }
        let is_worth_a_call = state.is_worth_a_call();
        state.calls += usize::from(is_worth_a_call);
        (pending, is_worth_a_call)
    }

    /// The next batch of a call. `None` ends the call: the outbox is empty, or not worth a request beside the other call.
    pub(super) fn next(&self) -> Option<Vec<QueuedStep>> {
        self.state.lock().next()
    }

    /// Whether a step would be a lone one now: none is queued or under way, and none were many a moment ago, who would wait for this one when they
    /// come back.
    pub(super) fn is_free_for_lone(&self) -> bool {
        self.state.lock().is_free_for_lone()
    }

    /// Counts a lone step as a call of its own, which its caller makes. False if it is not one ([`Self::is_free_for_lone`]).
    pub(super) fn begin_lone(&self) -> bool {
        let mut state = self.state.lock();
        let is_lone = state.is_free_for_lone();
        if is_lone {
            (state.calls, state.under_way, state.sizes) = (1, 1, [state.sizes[1], 1]);
        }
        is_lone
    }

    /// Ends the call of a lone step. True if others wait: then it goes on with [`Self::next`].
    pub(super) fn end_lone(&self) -> bool {
        let mut state = self.state.lock();
        state.under_way -= 1;
        let goes_on = !state.queued.is_empty();
        state.calls -= usize::from(!goes_on);
        goes_on
    }

    /// Notes that a batch of this size was answered.
    pub(super) fn answered(&self, size: usize) {
        self.state.lock().under_way -= size;
    }

    /// Waits until most of the callers of a large batch are back in the outbox, or [`LONGEST_WAIT`] has passed.
    pub(super) async fn wait_for_callers(&self, answered: usize) {
        let end = Timer::now() + LONGEST_WAIT;
        {
            let mut state = self.state.lock();
            state.expected = ((answered + state.queued.len()) * 7 / 8).min(MOST_STEPS);
        }
        while !self.state.lock().are_back() && timeout_at(end, self.back.notified()).await.is_ok() {}
        self.state.lock().expected = 0;
    }
}

impl TxnOutboxState {
    fn is_free_for_lone(&self) -> bool {
        self.calls == 0 && self.queued.is_empty() && !self.is_after_large()
    }

    fn is_after_large(&self) -> bool {
        self.sizes.iter().any(|size| *size >= LARGE)
    }

    /// True if those in the outbox are to go now. Beside another request they go if they are few, which saves them a round trip, or more than
    /// fit into one request.
    fn is_worth_a_call(&self) -> bool {
        let enough = if self.is_after_large() { MOST_STEPS } else { self.under_way };
        self.calls == 0 || (self.calls < MOST_CALLS && self.queued.len() >= enough)
    }

    fn are_back(&self) -> bool {
        self.queued.len() >= self.expected
    }

    /// The next batch, in the order of arrival as far as the rules allow. `None` ends the call: the outbox is empty, or not worth a request
    /// beside the other call.
    fn next(&mut self) -> Option<Vec<QueuedStep>> {
        self.calls -= 1;
        if !self.is_worth_a_call() {
            return None;
        }
        self.calls += 1;
        let now = Timer::now();
        let (mut batch, mut later) = (Vec::new(), VecDeque::new());
        let mut joined = HashSet::new();
        let mut bytes = 0;
        while batch.len() < MOST_STEPS
            && let Some(queued) = self.queued.pop_front()
        {
            let second_in_queue = queued.step.joins_queue().is_some_and(|queue| joined.contains(queue));
            let too_large = !batch.is_empty() && bytes + queued.step.bytes() > MOST_BYTES;
            if queued.deadline <= now {
                let _ = queued.answer.send(Err(BackendError::new(Failure::NotSent, "not sent in time")));
            } else if second_in_queue || too_large {
                later.push_back(queued);
            } else {
                joined.extend(queued.step.joins_queue().map(<[u8]>::to_vec));
                bytes += queued.step.bytes();
                queued.taken.store(true, Ordering::Relaxed);
                batch.push(queued);
            }
        }
        later.append(&mut self.queued);
        self.queued = later;
        if batch.is_empty() {
            self.calls -= 1;
            return None;
        }
        self.under_way += batch.len();
        self.sizes = [self.sizes[1], batch.len()];
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::etcd::request::KeyRequest;
    use etcd_client::Txn;

    fn other(bytes: usize) -> Step {
        Step::Other { txn: Txn::new(), bytes }
    }

    fn line_of(locks: &[Option<&str>]) -> TxnOutboxState {
        let queued = locks.iter().map(|lock| {
            let step = lock.map_or_else(|| other(100), |lock| Step::MakeKey(KeyRequest::sample(lock)));
            let deadline = Timer::now() + Duration::from_secs(1);
            QueuedStep { step, deadline, taken: Arc::default(), answer: oneshot::channel().0 }
        });
        TxnOutboxState { queued: queued.collect(), calls: 1, ..TxnOutboxState::default() }
    }

    fn sizes(state: &mut TxnOutboxState) -> Vec<usize> {
        std::iter::from_fn(|| state.next()).map(|batch| batch.len()).collect()
    }

    #[tokio::test]
    async fn a_batch_makes_one_key_in_a_queue() {
        let mut state = line_of(&[Some("a"), None, Some("a"), Some("b"), Some("a")]);
        assert_eq!(sizes(&mut state), [3, 1, 1]);
        assert_eq!(state.calls, 0);
    }

    #[tokio::test]
    async fn a_batch_has_bounds() {
        let mut state = line_of(&[None; 250]);
        assert_eq!(sizes(&mut state), [100, 100, 50]);
        let mut state = line_of(&[None; 3]);
        state.queued[1].step = other(MOST_BYTES);
        assert_eq!(sizes(&mut state), [2, 1], "a large one goes alone, and delays no other");
    }

    /// True if `count` transactions that arrive while requests are under way are sent beside them.
    fn goes_beside(state: &mut TxnOutboxState, count: usize) -> bool {
        state.queued.extend(line_of(&vec![None; count]).queued);
        state.is_worth_a_call()
    }

    #[tokio::test]
    async fn small_batches_go_beside_each_other_and_large_ones_after_each_other() {
        let mut state = line_of(&[None; 3]);
        assert_eq!(state.next().map(|batch| batch.len()), Some(3));
        assert!(!goes_beside(&mut state, 2), "the third is not back yet");
        assert!(goes_beside(&mut state, 1));
        let mut state = line_of(&[None; LARGE]);
        assert_eq!(state.next().map(|batch| batch.len()), Some(LARGE));
        assert!(!goes_beside(&mut state, MOST_STEPS - 1));
        assert!(goes_beside(&mut state, 1), "a request is full");
        state.calls = MOST_CALLS;
        assert!(!state.is_worth_a_call());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_caller_back_from_a_large_batch_waits_for_most_of_the_others_but_not_for_long() {
        let outbox = TxnOutbox::default();
        let started = Timer::now();
        outbox.wait_for_callers(LARGE).await;
        let (nobody, started) = (started.elapsed(), Timer::now());
        assert!((LONGEST_WAIT..LONGEST_WAIT * 3).contains(&nobody), "{nobody:?}");
        // A caller that comes back counts with those in the outbox already. Calls are under way, so that none is sent here.
        outbox.state.lock().calls = MOST_CALLS;
        outbox.state.lock().queued = line_of(&[None; LARGE - 2]).queued;
        let outbox = Arc::new(outbox);
        let come = |outbox: &Arc<TxnOutbox>| {
            let step = other(1);
            drop(outbox.submit([step], Timer::now() + Duration::from_secs(1)));
        };
        let mut wait = Box::pin(outbox.wait_for_callers(4));
        assert!(futures_util::poll!(&mut wait).is_pending(), "14 of 18 are in the outbox, and most are 15");
        come(&outbox);
        wait.await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert_eq!(outbox.state.lock().expected, 0);
    }

    #[tokio::test]
    async fn those_that_come_during_a_lone_call_go_beside_it_and_after_it() {
        let outbox = Arc::<TxnOutbox>::default();
        let come = || outbox.submit([other(1)], Timer::now() + Duration::from_secs(1));
        assert!(outbox.begin_lone() && !outbox.begin_lone());
        let (_one, is_worth_a_call) = come();
        assert!(is_worth_a_call, "as many come as are under way");
        assert_eq!(outbox.next().map(|batch| batch.len()), Some(1));
        let (_two, is_worth_a_call) = come();
        assert!(!is_worth_a_call, "two calls are under way");
        assert!(outbox.end_lone(), "one waits");
        assert_eq!(outbox.next().map(|batch| batch.len()), Some(1));
        for _ in 0..2 {
            outbox.answered(1);
            assert!(outbox.next().is_none());
        }
        assert!(outbox.begin_lone() && !outbox.end_lone() && outbox.is_free_for_lone());
        outbox.state.lock().sizes = [LARGE, 1];
        assert!(!outbox.begin_lone(), "many are on their way back");
    }

    #[tokio::test]
    async fn a_transaction_past_its_deadline_is_not_sent() {
        let mut state = line_of(&[None, None]);
        state.queued[0].deadline = Timer::now();
        assert_eq!(sizes(&mut state), [1]);
    }
}
