//! One connection to the server: how requests travel on it, and when it is given up.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::dial::{DialTarget, Wire};
use super::direct_connection::DirectConnection;
use super::failure;
use super::liveness::Liveness;
use super::lookout::Lookout;
use super::outbox::RequestOutbox;
use super::scripts::ScriptCall;
use super::server_clock::ServerClock;
use crate::backend::direct::DirectAccess;
use crate::clock::Clock;
use crate::error::{BackendError, Failure};

/// A connection that is logged in and subscribed.
pub(super) struct RedisLink {
    wire: Wire,
    /// The clock of the server at its other end.
    pub(super) server_clock: ServerClock,
    /// The engine's clock.
    pub(super) clock: Arc<dyn Clock>,
    /// The requests that wait for a batch.
    pub(super) outbox: RequestOutbox,
    /// For requests that nothing else is under way with.
    pub(super) direct: Arc<DirectAccess<DirectConnection>>,
    /// The name that CLIENT LIST shows.
    pub(super) client_name: Arc<str>,
    /// Where the connection lives.
    pub(super) runtime: Handle,
    /// False once the link is given up, or the connection has ended.
    usable: Arc<AtomicBool>,
    liveness: Liveness,
    /// Where sentinels named the master: checks that they still do.
    lookout: OnceLock<Lookout>,
    /// The hashes of the scripts whose text was sent on this connection.
    sent_scripts: Mutex<HashSet<&'static str>>,
}

impl RedisLink {
    /// `usable` turns false when the connection ends. Called on the runtime on which the connection lives.
    pub(super) fn new(
        wire: Wire,
        client_name: Arc<str>,
        server_clock: ServerClock,
        clock: Arc<dyn Clock>,
        usable: Arc<AtomicBool>,
    ) -> Self {
        Self {
            wire,
            server_clock,
            clock,
            outbox: RequestOutbox::new(),
            direct: Arc::default(),
            client_name,
            runtime: Handle::current(),
            usable,
            liveness: Liveness::new(),
            lookout: OnceLock::new(),
            sent_scripts: Mutex::default(),
        }
    }

    /// Where its connection leads.
    pub(super) fn target(&self) -> &DialTarget {
        &self.wire.target
    }

    /// Keeps a lookout for as long as the link lives.
    pub(super) fn keep(&self, lookout: Lookout) {
        let _ = self.lookout.set(lookout);
    }

    /// Runs a script, and sends its text where the server does not know it.
    ///
    /// # Cancel safety
    /// A call that is dropped may still be executed.
    pub(super) async fn call(&self, call: &ScriptCall, deadline: Instant) -> Result<Value, BackendError> {
        self.answer(deadline, async {
            let answer = self.query(&call.by_hash()).await;
            if !is_unknown_script(&answer) {
                return answer;
            }
            // Many calls may find the script missing at once. The first one sends the text; the others repeat their call, since the server
            // serves a connection in order.
            if !self.sent_scripts.lock().insert(call.hash()) {
                let answer = self.query(&call.by_hash()).await;
                if !is_unknown_script(&answer) {
                    return answer;
                }
            }
            self.query(&call.by_text()).await
        })
        .await
    }

    /// Sends a plain command.
    pub(super) async fn command<T: FromRedisValue>(&self, command: &Cmd, deadline: Instant) -> Result<T, BackendError> {
        self.answer(deadline, self.query(command)).await
    }

    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        command.query_async(&mut self.wire.connection.clone()).await
    }

    /// Waits for an answer until the deadline.
    async fn answer<T>(&self, deadline: Instant, answer: impl Future<Output = RedisResult<T>>) -> Result<T, BackendError> {
        let asked = Instant::now();
        match timeout_at(deadline, answer).await {
            Ok(Ok(value)) => {
                self.liveness.note_answer();
                Ok(value)
            }
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => {
                self.suspect(asked.elapsed());
                Err(BackendError::no_answer(Failure::Unknown))
            }
        }
    }

    /// Notes an error of the server or of the connection, and retires the link where another one may do better.
    pub(super) fn failed(&self, error: RedisError) -> BackendError {
        if failure::is_of_the_connection(&error) {
            self.retire();
        }
        if let Some(lookout) = self.lookout.get().filter(|_| failure::is_of_the_server(&error)) {
            lookout.note_refusal();
        }
        failure::of_request(error)
    }

    /// Notes a request that was not answered in time, and retires the link if the connection seems broken.
    pub(super) fn suspect(&self, waited: Duration) {
        if self.liveness.is_lost(waited) {
            self.retire();
        }
    }

    /// Gives the link up: the next request makes another one.
    pub(super) fn retire(&self) {
        self.usable.store(false, Ordering::Release);
        self.outbox.close();
        self.direct.close();
    }

    pub(super) fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Acquire)
    }
}

pub(super) fn is_unknown_script(answer: &RedisResult<Value>) -> bool {
    answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
}
