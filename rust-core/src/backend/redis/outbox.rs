//! The requests of one link that queue up for a batch.
//!
//! This file knows no link: [`batch`](super::batch) sends what it takes from here.

use std::collections::VecDeque;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};

use super::request::{Request, RequestAnswer};
use crate::backend::limits::LONGEST_OUTBOX;
use crate::error::{BackendError, Failure};

/// The most requests of one batch: some 450 µs of the server's time.
const LARGEST: usize = 128;

/// The most calls in flight: one is on its way while the server works on another.
const CALLS: usize = 2;

pub(super) type RequestResult = Result<RequestAnswer, BackendError>;

/// The requests of one link that wait for a batch, in the order in which they came.
pub(super) struct RequestOutbox {
    state: Mutex<RequestOutboxState>,
    /// Locked from taking a batch until the connection has it.
    pub(super) sending: Mutex<()>,
    room: Semaphore,
}

#[derive(Default)]
pub(super) struct RequestOutboxState {
    waiting: VecDeque<WaitingRequest>,
    /// How many requests have left the outbox so far, sent or not.
    left: u64,
    /// How many calls are in flight.
    calls: usize,
    /// A batch has left the outbox, and the connection does not have it yet.
    sending: bool,
    /// The link was given up: no request may queue up any more.
    closed: bool,
}

/// A request in the outbox.
pub(super) struct WaitingRequest {
    pub(super) request: Box<Request>,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<RequestResult>,
}

impl RequestOutbox {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), sending: Mutex::default(), room: Semaphore::new(LONGEST_OUTBOX) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, RequestOutboxState> {
        self.state.lock()
    }

    /// Room for one more request, if there is any now.
    pub(super) fn try_room(&self) -> Option<SemaphorePermit<'_>> {
        self.room.try_acquire().ok()
    }

    /// Waits for room for one more request.
    pub(super) async fn room(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, BackendError> {
        match timeout_at(deadline, self.room.acquire()).await {
            Ok(Ok(room)) => Ok(room),
            _ => Err(BackendError::new(Failure::NotSent, "too many requests before this one")),
        }
    }

    /// Fails all requests in the outbox, and those that come.
    pub(super) fn close(&self) {
        let waiting = {
            let mut state = self.state();
            state.closed = true;
            state.clear()
        };
        self.fail(waiting);
    }

    /// Fails all requests in the outbox, and ends the call whose slot sent them.
    pub(super) fn end_call_and_fail_rest(&self) {
        let waiting = {
            let mut state = self.state();
            state.calls -= 1;
            state.clear()
        };
        self.fail(waiting);
    }

    fn fail(&self, waiting: VecDeque<WaitingRequest>) {
        self.room.add_permits(waiting.len());
        for request in waiting {
            let _ = request.answer.send(Err(link_given_up()));
        }
    }

    /// Takes the next batch; `None` when the outbox is empty, which ends the call.
    pub(super) fn next_batch(&self) -> Option<Vec<WaitingRequest>> {
        let mut state = self.state();
        let now = Instant::now();
        let mut batch = Vec::with_capacity(state.waiting.len().min(LARGEST));
        let before = state.left;
        while batch.len() < LARGEST
            && let Some(waiting) = state.waiting.pop_front()
        {
            state.left += 1;
            // A request past its deadline must not be sent: its caller may have learned that it was not, and relies on that.
            if waiting.deadline > now && !waiting.answer.is_closed() {
                batch.push(waiting);
            }
        }
        self.room.add_permits(usize::try_from(state.left - before).unwrap_or(0));
        if batch.is_empty() {
            state.calls -= 1;
            return None;
        }
        state.sending = true;
        Some(batch)
    }

    /// Whether the request with this number has left the outbox.
    pub(super) fn has_left(&self, number: u64) -> bool {
        self.state().left > number
    }

    /// Ends a call; false if there are requests in the outbox, which the caller has to send first.
    pub(super) fn end_call(&self) -> bool {
        let mut state = self.state();
        if state.waiting.is_empty() {
            state.calls -= 1;
            return true;
        }
        false
    }
}

impl RequestOutboxState {
    /// Begins a call for one request alone; false if all calls are in flight, or if earlier requests are still to be sent.
    pub(super) fn begin_call(&mut self) -> bool {
        if self.calls == CALLS || !self.waiting.is_empty() || self.sending {
            return false;
        }
        self.calls += 1;
        true
    }

    /// Whether nothing is in flight, and nothing waits to be.
    pub(super) fn is_idle(&self) -> bool {
        self.calls == 0 && self.waiting.is_empty() && !self.sending && !self.closed
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Puts a request at the end of the outbox; its number.
    pub(super) fn push(&mut self, waiting: WaitingRequest) -> u64 {
        let number = self.left + self.waiting.len() as u64;
        self.waiting.push_back(waiting);
        number
    }

    fn clear(&mut self) -> VecDeque<WaitingRequest> {
        let waiting = std::mem::take(&mut self.waiting);
        self.left += waiting.len() as u64;
        waiting
    }
}

/// Marks that a batch is on its way to the connection. Dropping it ends the mark.
pub(super) struct SendingMark<'a>(pub(super) &'a RequestOutbox);

impl Drop for SendingMark<'_> {
    fn drop(&mut self) {
        self.0.state().sending = false;
    }
}

pub(super) fn link_given_up() -> BackendError {
    BackendError::new(Failure::NotSent, "the connection was given up before the request was sent")
}
