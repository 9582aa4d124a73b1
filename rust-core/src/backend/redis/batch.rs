//! Sends requests, several in one call where they would otherwise queue.
//!
//! A request that finds a free call on its link is sent alone and at once. Those that come while all calls are in flight queue up, and
//! the call that is answered next sends them as a batch. Requests leave the outbox in the order in which they came, and reach the connection
//! in that order: a leave never overtakes its acquire. A request on the direct connection is waited for where it is about the same key.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{self, Poll};

use futures_util::future::maybe_done;
use redis::Value;
use tokio::sync::oneshot;
use tokio::task::unconstrained;
use tokio::time::{self, timeout_at};

use super::link::RedisLink;
use super::outbox::{RequestOutboxState, RequestResult, SendingMark, WaitingRequest, link_given_up};
use super::request::{self, Request, RequestAnswer};
use super::{failure, reply};
use crate::clock::Instant;
use crate::error::{BackendError, Failure};

/// How a request gets its answer.
enum Admission {
    Alone(Box<Request>, CallSlot),
    /// With its number in the outbox.
    InLine(u64, oneshot::Receiver<RequestResult>),
}

impl RedisLink {
    /// Sends a request, alone or in a batch, and waits for its answer.
    ///
    /// # Cancel safety
    /// A request that is dropped may still be executed, if it is sent before its deadline.
    pub(super) async fn ask(self: &Arc<Self>, request: Box<Request>, deadline: time::Instant) -> RequestResult {
        if let Some(direct) = self.take_direct(&request, deadline) {
            return Box::pin(direct.ask(&request)).await;
        }
        if self.direct.is_busy() {
            Box::pin(self.wait_for_lone_request(request.names.lock(), deadline)).await?;
        }
        match self.admit(request, deadline).await? {
            Admission::Alone(request, _slot) => {
                let mut answers = Box::pin(self.send(std::iter::once(&*request), deadline)).await?;
                answers.pop().unwrap_or_else(|| Err(reply::unexpected()))
            }
            Admission::InLine(number, answer) => self.wait(number, answer, deadline).await,
        }
    }

    async fn admit(self: &Arc<Self>, request: Box<Request>, deadline: time::Instant) -> Result<Admission, BackendError> {
        if let Some(slot) = self.slot(&mut self.outbox.state()) {
            return Ok(Admission::Alone(request, slot));
        }
        let room = match self.outbox.try_room() {
            Some(room) => room,
            // Boxed so that the future of a request in the outbox does not reserve space for this rare branch.
            None => Box::pin(self.outbox.room(deadline)).await?,
        };
        let mut state = self.outbox.state();
        if let Some(slot) = self.slot(&mut state) {
            return Ok(Admission::Alone(request, slot));
        }
        if state.is_closed() {
            return Err(link_given_up());
        }
        room.forget();
        let (sender, answer) = oneshot::channel();
        let number = state.push(WaitingRequest { request, deadline, answer: sender });
        Ok(Admission::InLine(number, answer))
    }

    /// A free call, unless earlier requests are still to be sent.
    fn slot(self: &Arc<Self>, state: &mut RequestOutboxState) -> Option<CallSlot> {
        state.begin_call().then(|| CallSlot(self.clone()))
    }

    async fn wait(&self, number: u64, mut answer: oneshot::Receiver<RequestResult>, deadline: time::Instant) -> RequestResult {
        let asked = time::Instant::now();
        if let Ok(Ok(answered)) = timeout_at(deadline, &mut answer).await {
            return answered;
        }
        if let Ok(answered) = answer.try_recv() {
            return answered;
        }
        // A request that is still in the outbox will not be sent any more: `next_batch` skips those past their deadline.
        let was_sent = self.outbox.has_left(number);
        self.suspect(asked.elapsed());
        Err(BackendError::no_answer(if was_sent { Failure::Unknown } else { Failure::NotSent }))
    }

    /// Sends requests in one call.
    async fn send<'a>(
        &self,
        batch: impl ExactSizeIterator<Item = &'a Request> + Clone,
        deadline: time::Instant,
    ) -> Result<Vec<RequestResult>, BackendError> {
        let count = batch.len();
        let call = request::call(batch);
        let sent = self.clock.now();
        let answer = self.call(&call, deadline).await?;
        self.read_batch(answer, count, sent, self.clock.now())
    }

    /// Takes the answer to a call apart, and learns the server's time from it.
    pub(super) fn read_batch(
        &self,
        answer: Value,
        count: usize,
        sent: Instant,
        received: Instant,
    ) -> Result<Vec<RequestResult>, BackendError> {
        let (server_us, answers) = reply::batch(answer, count)?;
        let mut too_late = false;
        let answers = answers.map(|answer| {
            let answer = answer
                .map(RequestAnswer)
                .map_err(|text| reply::of_ours(&text).unwrap_or_else(|| self.failed(failure::of_text(&text))));
            too_late |= answer.as_ref().is_ok_and(RequestAnswer::is_too_late);
            answer
        });
        let answers = answers.collect();
        if too_late {
            self.server_clock.relearn(sent, received, server_us);
        } else if server_us > 0 {
            self.server_clock.learn(sent, received, server_us);
        }
        Ok(answers)
    }

    /// Takes the next batch and passes it to the connection, before another batch can be taken.
    fn begin_batch(self: &Arc<Self>, context: &mut task::Context<'_>) -> Option<impl Future<Output = ()> + Send + use<>> {
        let _one_at_a_time = self.outbox.sending.lock();
        let batch = self.outbox.next_batch()?;
        let _mark = SendingMark(&self.outbox);
        // The first poll puts the batch into the connection's own queue, which is first in, first out. Tokio's budget might prevent that.
        let mut call = Box::pin(maybe_done(unconstrained(self.clone().send_batch(batch))));
        let _ = call.as_mut().poll(context);
        Some(call)
    }

    async fn send_batch(self: Arc<Self>, batch: Vec<WaitingRequest>) {
        let deadline = batch.iter().map(|waiting| waiting.deadline).max().unwrap_or_else(time::Instant::now);
        match self.send(batch.iter().map(|waiting| &*waiting.request), deadline).await {
            Ok(answers) => {
                for (waiting, answer) in batch.into_iter().zip(answers) {
                    let _ = waiting.answer.send(answer);
                }
            }
            Err(error) => {
                for waiting in batch {
                    let _ = waiting.answer.send(Err(error.clone()));
                }
            }
        }
    }
}

/// One of the calls that a link may have in flight. When it is dropped, answered or not, the requests in the outbox are sent.
struct CallSlot(Arc<RedisLink>);

impl Drop for CallSlot {
    fn drop(&mut self) {
        if !self.0.outbox.end_call() {
            let sender = BatchSender { link: self.0.clone(), finished: false };
            self.0.runtime.spawn(sender.run());
        }
    }
}

/// Sends batches until the outbox is empty.
struct BatchSender {
    link: Arc<RedisLink>,
    /// False while requests may be in the outbox. The sender is dropped then only if the runtime shuts down.
    finished: bool,
}

impl BatchSender {
    async fn run(mut self) {
        let link = self.link.clone();
        while let Some(call) = poll_fn(|context| Poll::Ready(link.begin_batch(context))).await {
            call.await;
            // Callers that were answered may add requests to the next batch.
            tokio::task::yield_now().await;
        }
        self.finished = true;
    }
}

impl Drop for BatchSender {
    fn drop(&mut self) {
        if !self.finished {
            self.link.outbox.end_call_and_fail_rest();
        }
    }
}
