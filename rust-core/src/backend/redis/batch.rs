//! Requests go together where they would otherwise queue.
//!
//! A request that finds a call to spare on its link goes at once and alone. Those that come while all are under way line up, and whoever
//! is answered has the next batch sent. Requests leave the line in the order in which they came, and reach the connection in that order:
//! a leave never overtakes its acquire.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{self, Poll};

use futures_util::future::maybe_done;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::task::unconstrained;
use tokio::time::{Instant, timeout_at};

use super::connect::Link;
use super::request::{self, Answer, Request};
use super::{failure, reply};
use crate::error::{BackendError, Failure};

/// How many requests go together: some 450 µs of the server's time.
const LARGEST: usize = 128;

/// How many calls are under way at most: one is on its way while the server works on another.
const CALLS: usize = 2;

/// How many requests may line up before the next one has to wait.
const LONGEST_LINE: usize = 4_096;

type Answered = Result<Answer, BackendError>;

/// The requests of one link that wait for their batch.
pub(super) struct Line {
    state: Mutex<State>,
    /// Held from taking a batch until the connection has it.
    sending: Mutex<()>,
    room: Semaphore,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// How many requests have left the line so far, sent or not.
    left: u64,
    /// How many calls are under way. Whoever sent one goes on with the line.
    calls: usize,
    /// A batch has left the line and is not with the connection yet.
    sending: bool,
    /// The link was given up: nobody may line up any more.
    closed: bool,
}

struct Waiting {
    request: Box<Request>,
    deadline: Instant,
    answer: oneshot::Sender<Answered>,
}

impl Line {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), sending: Mutex::default(), room: Semaphore::new(LONGEST_LINE) }
    }

    /// Waits for a place to line up.
    async fn room(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, BackendError> {
        match timeout_at(deadline, self.room.acquire()).await {
            Ok(Ok(room)) => Ok(room),
            _ => Err(BackendError::new(Failure::NotSent, "too many requests before this one")),
        }
    }

    /// Turns away whoever waits and whoever comes.
    pub(super) fn close(&self) {
        let turned_away = {
            let mut state = self.state.lock();
            state.closed = true;
            state.clear()
        };
        self.turn_away(turned_away);
    }

    fn turn_away(&self, turned_away: VecDeque<Waiting>) {
        self.room.add_permits(turned_away.len());
        for waiting in turned_away {
            let _ = waiting.answer.send(Err(given_up()));
        }
    }

    /// The next batch; `None` when nobody waits, and then it is one call less.
    fn next(&self) -> Option<Vec<Waiting>> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let mut batch = Vec::with_capacity(state.waiting.len().min(LARGEST));
        let before = state.left;
        while batch.len() < LARGEST
            && let Some(waiting) = state.waiting.pop_front()
        {
            state.left += 1;
            // Whoever was told in time that it was not sent relies on that.
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
}

impl State {
    fn clear(&mut self) -> VecDeque<Waiting> {
        let waiting = std::mem::take(&mut self.waiting);
        self.left += waiting.len() as u64;
        waiting
    }
}

fn given_up() -> BackendError {
    BackendError::new(Failure::NotSent, "the connection was given up before the request was sent")
}

/// How a request gets its answer.
enum Way {
    Alone(Box<Request>, Turn),
    /// With the number of its place.
    InLine(u64, oneshot::Receiver<Answered>),
}

impl Link {
    /// Has a request answered, alone or in a batch.
    ///
    /// # Cancel safety
    /// A request that is dropped may still be executed, if it is sent before its deadline.
    pub(super) async fn ask(self: &Arc<Self>, request: Box<Request>, deadline: Instant) -> Answered {
        match self.way(request, deadline).await? {
            Way::Alone(request, _turn) => {
                let mut answers = Box::pin(self.send(std::iter::once(&*request), deadline)).await?;
                answers.pop().unwrap_or_else(|| Err(reply::unexpected()))
            }
            Way::InLine(number, answer) => self.wait(number, answer, deadline).await,
        }
    }

    async fn way(self: &Arc<Self>, request: Box<Request>, deadline: Instant) -> Result<Way, BackendError> {
        if let Some(turn) = self.turn(&mut self.line.state.lock()) {
            return Ok(Way::Alone(request, turn));
        }
        let room = match self.line.room.try_acquire() {
            Ok(room) => room,
            // Boxed, as everything that few requests need: each one in line would carry the room for it.
            Err(_) => Box::pin(self.line.room(deadline)).await?,
        };
        let mut state = self.line.state.lock();
        if let Some(turn) = self.turn(&mut state) {
            return Ok(Way::Alone(request, turn));
        }
        if state.closed {
            return Err(given_up());
        }
        room.forget();
        let (sender, answer) = oneshot::channel();
        let number = state.left + state.waiting.len() as u64;
        state.waiting.push_back(Waiting { request, deadline, answer: sender });
        Ok(Way::InLine(number, answer))
    }

    /// A call to spare, unless something that came before is still to be sent.
    fn turn(self: &Arc<Self>, state: &mut State) -> Option<Turn> {
        if state.calls == CALLS || !state.waiting.is_empty() || state.sending {
            return None;
        }
        state.calls += 1;
        Some(Turn(self.clone()))
    }

    async fn wait(&self, number: u64, mut answer: oneshot::Receiver<Answered>, deadline: Instant) -> Answered {
        let asked = Instant::now();
        if let Ok(Ok(answered)) = timeout_at(deadline, &mut answer).await {
            return answered;
        }
        if let Ok(answered) = answer.try_recv() {
            return answered;
        }
        // `Line::next` does not send what is past its deadline.
        let was_sent = self.line.state.lock().left > number;
        self.suspect(asked.elapsed());
        Err(BackendError::new(if was_sent { Failure::Unknown } else { Failure::NotSent }, "no answer in time"))
    }

    /// Sends requests in one call and learns the server's time from the answer.
    async fn send<'a>(
        &self,
        batch: impl ExactSizeIterator<Item = &'a Request> + Clone,
        deadline: Instant,
    ) -> Result<Vec<Answered>, BackendError> {
        let count = batch.len();
        let call = request::call(batch);
        let sent = self.clock.now();
        let answer = self.call(&call, deadline).await?;
        let received = self.clock.now();
        let (server_us, answers) = reply::batch(answer, count)?;
        let mut too_late = false;
        let answers = answers.map(|answer| {
            let answer =
                answer.map(Answer).map_err(|text| reply::of_ours(&text).unwrap_or_else(|| self.failed(failure::of_text(&text))));
            too_late |= answer.as_ref().is_ok_and(Answer::is_too_late);
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

    /// Takes the next batch and gives it to the connection, before another one can be taken.
    fn begin(self: &Arc<Self>, context: &mut task::Context<'_>) -> Option<impl Future<Output = ()> + Send + use<>> {
        let _one_at_a_time = self.line.sending.lock();
        let batch = self.line.next()?;
        let _sending = Sending(&self.line);
        // Its first poll puts it in the connection's own queue, which is first in, first out. A budget might keep it from that.
        let mut call = Box::pin(maybe_done(unconstrained(self.clone().send_batch(batch))));
        let _ = call.as_mut().poll(context);
        Some(call)
    }

    async fn send_batch(self: Arc<Self>, batch: Vec<Waiting>) {
        let deadline = batch.iter().map(|waiting| waiting.deadline).max().unwrap_or_else(Instant::now);
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

/// A batch on its way to the connection.
struct Sending<'a>(&'a Line);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.state.lock().sending = false;
    }
}

/// The turn of whoever has a request under way: dropping it, answered or not, has the rest of the line sent.
struct Turn(Arc<Link>);

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.0.line.state.lock();
            if state.waiting.is_empty() {
                state.calls -= 1;
                return;
            }
        }
        let rest = Rest { link: self.0.clone(), sent: false };
        self.0.runtime.spawn(rest.send());
    }
}

/// The rest of the line.
struct Rest {
    link: Arc<Link>,
    /// Nobody is left; else the runtime is shutting down.
    sent: bool,
}

impl Rest {
    async fn send(mut self) {
        let link = self.link.clone();
        while let Some(call) = poll_fn(|context| Poll::Ready(link.begin(context))).await {
            call.await;
            // Lets those who were answered ask for more.
            tokio::task::yield_now().await;
        }
        self.sent = true;
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if self.sent {
            return;
        }
        let turned_away = {
            let mut state = self.link.line.state.lock();
            state.calls -= 1;
            state.clear()
        };
        self.link.line.turn_away(turned_away);
    }
}
