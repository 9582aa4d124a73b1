//! Transactions go together where they would otherwise queue.
//!
//! Each request costs the cluster an entry in its log, written to disk by most of its servers; a transaction of many costs one as well. So
//! one that comes while the line is free goes at once, and those that come while others are under way go together, in one of the two shapes
//! that `step` has. Only where many were answered together a moment ago, the first one back waits for the others, a millisecond at most.
//!
//! What etcd makes of such a batch decides what may be in it. Compares see the store as it was before all of it, and everything in it
//! happens at one revision: two places made in one queue would have the same age, so a batch makes one place in a queue at most. No key may
//! be written twice: the attempts' turns see to that. Operations count on each level, and are limited. A lease that is over rejects the
//! whole batch: then each transaction is sent by itself.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{Client, ResponseHeader, Txn};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant as Timer, timeout_at};

use super::leases::remaining;
use super::request::{Answer, Said};
use super::servers::endpoints::Endpoints;
use super::shape::{self, Confidence, Step};
use crate::error::{BackendError, Failure};

/// How many go together. etcd allows 128 operations, of which each transaction inside has a few; and it limits the bytes of a request.
const LARGEST: usize = 100;
const MOST_BYTES: usize = 256 * 1024;

/// How many requests are under way at most: one is on its way while the cluster works on another.
const CALLS: usize = 2;

/// From so many in a batch on, one request after the other is better than two at a time. Each costs the server some 250 µs, and a lock taken
/// and released in it 25.
const CROWD: usize = 16;

/// How long those who were answered in a crowd are waited for at most. They come back one by one, and the first would go alone.
const LINGER: Duration = Duration::from_millis(1);

/// How many transactions may line up.
const LONGEST_LINE: usize = 4_096;

type Answered = Result<Answer, BackendError>;

struct Waiting {
    step: Step,
    deadline: Timer,
    /// It has left the line in time, and may have been executed.
    taken: Arc<AtomicBool>,
    answer: oneshot::Sender<Answered>,
}

/// The transactions of a session that wait for their batch.
pub(super) struct Line {
    endpoints: Arc<Endpoints>,
    state: Mutex<State>,
    /// Those who were lingered for are back.
    back: Notify,
    /// Nothing in it writes: a batch then costs no entry in the log either, and each answer knows all of its revision.
    reads: bool,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    calls: usize,
    /// How many transactions are in them.
    under_way: usize,
    /// The sizes of the last two batches. Of many who are answered at the same time the first one back goes alone, and the others after it.
    sizes: [usize; 2],
    /// How many are lingered for.
    expected: usize,
    confidence: Confidence,
}

/// The answer that comes.
pub(super) struct Coming {
    line: Arc<Line>,
    deadline: Timer,
    taken: Arc<AtomicBool>,
    answer: oneshot::Receiver<Answered>,
}

impl Coming {
    pub(super) async fn wait(self) -> Answered {
        match timeout_at(self.deadline, self.answer).await {
            Ok(Ok(answered)) => answered,
            // The sender was dropped unsent: the engine is shutting down.
            Ok(Err(_)) => Err(BackendError::new(Failure::Unknown, "given up")),
            Err(_) => {
                // Under the line's lock: a batch is taken as a whole, and nothing is taken after its deadline.
                let _nothing_leaves = self.line.state.lock();
                let failure = if self.taken.load(Ordering::Relaxed) { Failure::Unknown } else { Failure::NotSent };
                Err(BackendError::new(failure, "no answer in time"))
            }
        }
    }
}

impl Line {
    pub(super) fn new(endpoints: Arc<Endpoints>) -> Self {
        Self { endpoints, state: Mutex::default(), back: Notify::new(), reads: false }
    }

    /// A line for what only reads.
    pub(super) fn of_reads(endpoints: Arc<Endpoints>) -> Self {
        Self { reads: true, ..Self::new(endpoints) }
    }

    /// Lines up transactions, which go in this order and if possible in one request. They are sent whether or not anybody waits for their
    /// answers.
    pub(super) fn submit<const N: usize>(self: &Arc<Self>, steps: [Step; N], deadline: Timer) -> Result<[Coming; N], BackendError> {
        let mut state = self.state.lock();
        if state.waiting.len() + N > LONGEST_LINE {
            return Err(BackendError::new(Failure::NotSent, "too many requests before this one"));
        }
        let coming = steps.map(|step| {
            let (answer, coming) = oneshot::channel();
            let taken = Arc::new(AtomicBool::new(false));
            state.waiting.push_back(Waiting { step, deadline, taken: taken.clone(), answer });
            Coming { line: self.clone(), deadline, taken, answer: coming }
        });
        if state.expected > 0 && state.are_back() {
            self.back.notify_one();
        }
        if state.is_worth_a_call() {
            state.calls += 1;
            tokio::spawn(self.clone().call());
        }
        Ok(coming)
    }

    /// Sends batches until nobody waits.
    async fn call(self: Arc<Self>) {
        loop {
            let Some(batch) = self.state.lock().next() else { return };
            let answered = batch.len();
            self.send(batch).await;
            self.state.lock().under_way -= answered;
            if answered >= CROWD && !self.reads {
                self.linger(answered).await;
            }
        }
    }

    /// Waits until most of a crowd that was just answered are back in line, or do not seem to come.
    async fn linger(&self, answered: usize) {
        let end = Timer::now() + LINGER;
        {
            let mut state = self.state.lock();
            state.expected = ((answered + state.waiting.len()) * 7 / 8).min(LARGEST);
        }
        while !self.state.lock().are_back() && timeout_at(end, self.back.notified()).await.is_ok() {}
        self.state.lock().expected = 0;
    }

    async fn send(&self, batch: Vec<Waiting>) {
        let Some(deadline) = batch.iter().map(|waiting| waiting.deadline).max() else { return };
        if let [_] = &*batch {
            return self.send_alone(batch, false).await;
        }
        let (answered, ghosts) = self.send_together(&batch, deadline).await;
        let answers = answered.and_then(|answer| shape::each(&answer.haunted(ghosts), batch.len(), self.reads));
        match answers {
            Ok(answers) => {
                for (waiting, answer) in batch.into_iter().zip(answers) {
                    let _ = waiting.answer.send(Ok(answer));
                }
            }
            // One of them is to blame, and the others are not.
            Err(error) if error.failure == Failure::Refused => self.send_alone(batch, ghosts).await,
            Err(error) => {
                let error = haunted(error, ghosts);
                for waiting in batch {
                    let _ = waiting.answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// The answer to a batch, and whether one that was given up for it may still be executed.
    async fn send_together(&self, batch: &[Waiting], deadline: Timer) -> (Answered, bool) {
        let steps = batch.iter().map(|waiting| &waiting.step);
        let mut ghosts = false;
        if shape::are_hopeful(steps.clone()) && self.state.lock().confidence.next() {
            match self.execute(|| shape::flat(steps.clone()), deadline).await {
                Ok(answer) => {
                    self.state.lock().confidence.note(answer.succeeded());
                    if answer.succeeded() {
                        return (Ok(answer), false);
                    }
                    // This server did nothing. Another one may have been asked first, and may do it yet.
                    ghosts = answer.ghosts;
                }
                // Nothing was done: a lease is over, or the server takes fewer compares.
                Err(error) if error.failure == Failure::Refused => self.state.lock().confidence.note(false),
                Err(error) => return (Err(error), false),
            }
        }
        (self.execute(|| shape::nested(steps.clone()), deadline).await, ghosts)
    }

    async fn send_alone(&self, batch: Vec<Waiting>, ghosts: bool) {
        let sent = batch.into_iter().map(|waiting| async move {
            let answered = self.execute(|| waiting.step.txn(), waiting.deadline).await;
            let answered = answered.map(|answer| answer.haunted(ghosts)).map_err(|error| haunted(error, ghosts));
            let _ = waiting.answer.send(answered);
        });
        join_all(sent).await;
    }

    /// Has a transaction executed in a request of its own. It is made for each server that is asked.
    pub(super) async fn execute(&self, txn: impl Fn() -> Txn, deadline: Timer) -> Answered {
        let request = |mut client: Client| {
            let txn = txn();
            async move { client.txn(txn).await }
        };
        let answer = self.endpoints.run(remaining(deadline), request).await?;
        let revision = answer.value.header().map_or(0, ResponseHeader::revision);
        Ok(Answer { said: Said::Txn(answer.value), revision, unseen: revision + 1, ghosts: answer.ghosts })
    }
}

/// What an error means if the same was given to another server as well, which may do it yet.
pub(super) fn haunted(error: BackendError, ghosts: bool) -> BackendError {
    if ghosts { BackendError { failure: Failure::Unknown, ..error } } else { error }
}

impl State {
    /// True if those who wait are to go now. Beside another request they do if they are few, which saves them a round trip, or more than
    /// go into one.
    fn is_worth_a_call(&self) -> bool {
        let (waiting, crowd) = (self.waiting.len(), self.sizes.iter().any(|size| *size >= CROWD));
        self.calls == 0 || (self.calls < CALLS && waiting >= if crowd { LARGEST } else { self.under_way })
    }

    fn are_back(&self) -> bool {
        self.waiting.len() >= self.expected
    }

    /// The next batch, as far as the rules allow in the order of arrival; `None` when nobody waits or it is not worth a request, and then
    /// it is one call less.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        self.calls -= 1;
        if !self.is_worth_a_call() {
            return None;
        }
        self.calls += 1;
        let now = Timer::now();
        let (mut batch, mut later) = (Vec::new(), VecDeque::new());
        let mut places = HashSet::new();
        let mut bytes = 0;
        while batch.len() < LARGEST
            && let Some(waiting) = self.waiting.pop_front()
        {
            let second_place = waiting.step.place_in().is_some_and(|queue| places.contains(queue));
            let too_large = !batch.is_empty() && bytes + waiting.step.bytes() > MOST_BYTES;
            if waiting.deadline <= now {
                let _ = waiting.answer.send(Err(BackendError::new(Failure::NotSent, "not sent in time")));
            } else if second_place || too_large {
                later.push_back(waiting);
            } else {
                places.extend(waiting.step.place_in().map(<[u8]>::to_vec));
                bytes += waiting.step.bytes();
                waiting.taken.store(true, Ordering::Relaxed);
                batch.push(waiting);
            }
        }
        later.append(&mut self.waiting);
        self.waiting = later;
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
    use crate::backend::etcd::request::Ask;
    use crate::backend::etcd::servers::address::Address;

    fn other(bytes: usize) -> Step {
        Step::Other { txn: Txn::new(), bytes }
    }

    fn line_of(queues: &[Option<&str>]) -> State {
        let waiting = queues.iter().map(|queue| {
            let step = queue.map_or_else(|| other(100), |queue| Step::Ask(Ask::sample(queue)));
            let deadline = Timer::now() + Duration::from_secs(1);
            Waiting { step, deadline, taken: Arc::default(), answer: oneshot::channel().0 }
        });
        State { waiting: waiting.collect(), calls: 1, ..State::default() }
    }

    fn sizes(state: &mut State) -> Vec<usize> {
        std::iter::from_fn(|| state.next()).map(|batch| batch.len()).collect()
    }

    #[tokio::test]
    async fn a_batch_makes_one_place_in_a_queue() {
        let mut state = line_of(&[Some("a"), None, Some("a"), Some("b"), Some("a")]);
        assert_eq!(sizes(&mut state), [3, 1, 1]);
        assert_eq!(state.calls, 0);
    }

    #[tokio::test]
    async fn a_batch_has_bounds() {
        let mut state = line_of(&[None; 250]);
        assert_eq!(sizes(&mut state), [100, 100, 50]);
        let mut state = line_of(&[None; 3]);
        state.waiting[1].step = other(MOST_BYTES);
        assert_eq!(sizes(&mut state), [2, 1], "one that is large goes alone, and holds nobody up");
    }

    /// What comes while `state` has requests under way: is it sent beside them?
    fn goes_beside(state: &mut State, count: usize) -> bool {
        state.waiting.extend(line_of(&vec![None; count]).waiting);
        state.is_worth_a_call()
    }

    #[tokio::test]
    async fn few_go_beside_each_other_and_many_after_each_other() {
        let mut state = line_of(&[None; 3]);
        assert_eq!(state.next().map(|batch| batch.len()), Some(3));
        assert!(!goes_beside(&mut state, 2), "the third is not back yet");
        assert!(goes_beside(&mut state, 1));
        let mut state = line_of(&[None; CROWD]);
        assert_eq!(state.next().map(|batch| batch.len()), Some(CROWD));
        assert!(!goes_beside(&mut state, LARGEST - 1));
        assert!(goes_beside(&mut state, 1), "a request is full");
        state.calls = CALLS;
        assert!(!state.is_worth_a_call());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_back_of_a_crowd_waits_for_most_of_the_others_but_not_for_long() {
        let line = Line::new(Arc::new(Endpoints::new(Address::parse("etcd://127.0.0.1:1").unwrap(), LINGER)));
        let started = Timer::now();
        line.linger(CROWD).await;
        let (nobody, started) = (started.elapsed(), Timer::now());
        assert!((LINGER..LINGER * 3).contains(&nobody), "{nobody:?}");
        // One who comes is counted with those who wait already; calls are under way, so that none is sent here.
        line.state.lock().calls = CALLS;
        line.state.lock().waiting = line_of(&[None; CROWD - 2]).waiting;
        let line = Arc::new(line);
        let come = |line: &Arc<Line>| {
            let step = other(1);
            drop(line.submit([step], Timer::now() + Duration::from_secs(1)));
        };
        let mut linger = Box::pin(line.linger(4));
        assert!(futures_util::poll!(&mut linger).is_pending(), "14 of 18 are there, and most are 15");
        come(&line);
        linger.await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert_eq!(line.state.lock().expected, 0);
    }

    #[tokio::test]
    async fn what_is_late_is_not_sent() {
        let mut state = line_of(&[None, None]);
        state.waiting[0].deadline = Timer::now();
        assert_eq!(sizes(&mut state), [1]);
    }
}
