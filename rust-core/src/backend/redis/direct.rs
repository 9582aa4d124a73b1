//! Lone requests: their callers send them and read the answers, and no thread stands between a caller and its server.
//!
//! A request that finds nothing else under way on its link goes over a second connection, the *direct* one. Whoever polls the request writes it
//! and reads its answer: a caller that can wait for the socket ([`driver`](crate::driver)), else the engine. All others go over the link, where
//! they share calls (see [`batch`](super::batch)). [`crate::backend::direct`] has what is common to all backends.
//!
//! - There is at most one request on the connection. While its answer is open, others go over the link.
//! - A request that is dropped unanswered leaves its answer to the engine, which reads it.
//! - Two connections keep no order. So whatever else is asked about the same key waits for the answer
//!   ([`RedisLink::wait_for_lone_request`]): a withdrawal must not overtake its acquire, nor an acquire the release before it.
//! - The connection is made by the engine once a link has had a few lone requests, and ends with the link, or when it was not used for a while.

use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use redis::{Cmd, RedisError, RedisResult, Value};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::direct_connection::DirectConnection;
use super::failure;
use super::link::{RedisLink, is_unknown_script};
use super::outbox::RequestResult;
use super::reply;
use super::request::{self, Request};
use crate::backend::direct::{CallerConnection, EngineWait, keep_while_used};
use crate::backend::timers::deadline_after;
use crate::driver::{self, Reader, Socket};
use crate::error::{BackendError, Failure};
use crate::observe::logs::target;

/// How long making it may take.
const LONGEST_DIAL: Duration = Duration::from_secs(5);

impl RedisLink {
    /// Takes the direct connection for a request, if its caller polls it and nothing else is under way.
    pub(super) fn take_direct(self: &Arc<Self>, request: &Request, deadline: Instant) -> Option<DirectRequest> {
        let reader = driver::reader()?;
        let is_lone = request.hands_over().is_none() && self.outbox.state().is_idle();
        let begun = is_lone && self.direct.begin(request.names.lock(), reader, |_| ()).is_some();
        begun.then(|| DirectRequest {
            link: self.clone(),
            answers: Some(Answers { link: self.clone(), asked: Instant::now(), deadline, late: None }),
            is_open: false,
        })
    }

    /// Whether a lone request of a caller with this reader would go over the direct connection. A few that would are worth making one.
    pub(super) fn serves_callers(self: &Arc<Self>, reader: Reader) -> bool {
        if reader == Reader::Never || !self.outbox.state().is_idle() {
            return false;
        }
        let is_free = self.direct.is_free(reader);
        if !is_free && self.direct.is_worthwhile() {
            self.runtime.spawn(connect(Arc::downgrade(self)));
        }
        is_free
    }

    /// Waits until the lone request about this lock, if there is one under way, is answered or given up.
    pub(super) async fn wait_for_lone_request(&self, lock: &str, deadline: Instant) -> Result<(), BackendError> {
        let late = |_| BackendError::new(Failure::NotSent, "an earlier request about the key has no answer");
        timeout_at(deadline, self.direct.wait_for_request_about(lock)).await.map_err(late)
    }
}

/// Makes the direct connection of a link, and ends it when it is not used any more. It does not keep the link.
async fn connect(wanted_by: Weak<RedisLink>) {
    let Some((address, name)) = wanted_by.upgrade().map(|link| (link.target().clone(), link.client_name.clone())) else { return };
    let dialed = timeout_at(deadline_after(LONGEST_DIAL), address.dial_direct(&name)).await;
    let dialed = dialed.unwrap_or_else(|_| Err(BackendError::no_answer(Failure::NotSent)));
    if let Err(error) = &dialed {
        tracing::debug!(target: target::REDIS_CONNECT, %error, "no direct connection");
    }
    let Some(access) = wanted_by.upgrade().map(|link| Arc::downgrade(&link.direct)) else { return };
    keep_while_used(access, dialed.ok()).await;
}

/// A request on the direct connection. If it is dropped unanswered, the engine reads the answer.
pub(super) struct DirectRequest {
    link: Arc<RedisLink>,
    /// `None` once it is dropped.
    answers: Option<Answers>,
    /// A command was sent, and its answer has not come.
    is_open: bool,
}

/// The answers that come on the direct connection of a link, and how long to wait for one.
struct Answers {
    link: Arc<RedisLink>,
    asked: Instant,
    deadline: Instant,
    /// What the engine waits for, once it reads them.
    late: Option<(EngineWait, BoxFuture<'static, ()>)>,
}

impl DirectRequest {
    /// Sends the request and reads its answer.
    ///
    /// # Cancel safety
    /// A request that is dropped may still be executed.
    pub(super) async fn ask(mut self, request: &Request) -> RequestResult {
        let call = request::call(std::iter::once(request));
        let sent = self.link.clock.now();
        let mut answer = self.exchange(&call.by_hash()).await?;
        if is_unknown_script(&answer) {
            answer = self.exchange(&call.by_text()).await?;
        }
        let received = self.link.clock.now();
        let value = answer.map_err(|error| self.link.failed(error))?;
        let mut answers = self.link.read_batch(value, 1, sent, received)?;
        answers.pop().unwrap_or_else(|| Err(reply::unexpected()))
    }

    /// Sends a command; its answer, which may be an error of the server.
    async fn exchange(&mut self, command: &Cmd) -> Result<RedisResult<Value>, BackendError> {
        self.is_open = true;
        let begin = |connection: &mut DirectConnection| connection.send(command).map(|()| connection.socket().clone());
        let sent = self.link.direct.with(begin).ok_or_else(|| BackendError::because(Failure::NotSent, hung_up()))?;
        let socket = sent.map_err(|error| failure::of_request(error.into()))?;
        // A first look would be in vain: no server answers that fast.
        let mut looked = false;
        let answer = poll_fn(|context| match &mut self.answers {
            Some(_) if !std::mem::replace(&mut looked, true) && driver::wait_for(&socket) => Poll::Pending,
            Some(answers) => answers.poll(context),
            None => Poll::Ready(Err(failure::of_request(hung_up()))),
        });
        let answer = answer.await?;
        self.is_open = false;
        Ok(answer.extract_error())
    }
}

impl Answers {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Value, BackendError>> {
        loop {
            let receive = |connection: &mut DirectConnection| Ok((connection.receive()?, connection.socket().clone()));
            let socket = match self.link.direct.with(receive).unwrap_or_else(|| Err(hung_up())) {
                Ok((Some(answer), _)) => return Poll::Ready(Ok(answer)),
                Ok((None, socket)) => socket,
                Err(error) => return Poll::Ready(Err(failure::of_request(error))),
            };
            if driver::wait_for(&socket) {
                return Poll::Pending;
            }
            ready!(self.poll_on_engine(context, &socket))?;
        }
    }

    /// Ready when the socket may have an answer.
    fn poll_on_engine(&mut self, context: &mut Context<'_>, socket: &Arc<Socket>) -> Poll<Result<(), BackendError>> {
        let deadline = self.deadline;
        let (wait, time) = self.late.get_or_insert_with(|| (EngineWait::default(), sleep_until(deadline).boxed()));
        if time.poll_unpin(context).is_ready() {
            if socket.is_read_by_loop() {
                // The loop has stood still all the time: what has come is still in the socket. `poll` looks once more, and comes back here.
                socket.let_engine_read();
                return Poll::Ready(Ok(()));
            }
            if !socket.is_handed_back() {
                self.link.suspect(self.asked.elapsed());
            }
            return Poll::Ready(Err(BackendError::no_answer(Failure::Unknown)));
        }
        wait.poll(context, socket).map_err(|error| BackendError::because(Failure::Unknown, error))
    }
}

/// The error of a connection that is gone.
fn hung_up() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into()
}

impl Drop for DirectRequest {
    fn drop(&mut self) {
        let Some(mut answers) = self.answers.take() else { return };
        if !self.is_open {
            self.link.direct.end(true);
            return;
        }
        // What comes next on the connection must not be taken for the answer to another request.
        let left = self.link.clone();
        self.link.runtime.spawn(async move {
            let answered = poll_fn(|context| answers.poll(context)).await.is_ok();
            left.direct.end(answered);
        });
    }
}
