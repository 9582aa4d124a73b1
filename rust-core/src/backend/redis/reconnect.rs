//! One link for everything: made at first use, and replaced when it seems broken.
//!
//! - All requests share one connection, but for lone ones (see [`direct`](super::direct)). Callers that need a link at the same time share one attempt to connect.
//! - An attempt that was begun goes on for the next caller when the first one gives up. It has no task: whoever needs the link polls it.
//! - After a failure the next attempt pauses first, longer with each further failure.
//! - A replaced link ends once the requests in flight are answered.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError, RedisResult};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::address::{RedisUrl, ServerAddress};
use super::link::RedisLink;
use super::lookout::Lookout;
use super::sentinel::NamedMaster;
use super::server_clock::ServerClock;
use super::{failure, names, wakeup};
use crate::backend::timers::deadline_after;
use crate::backend::{Context, Hint};
use crate::backoff::{Backoff, Pauses};
use crate::error::{BackendError, Failure, NO_ANSWER};
use crate::observe::logs::target;

/// How many requests may wait to be written before the next one has to.
const WRITE_QUEUE: usize = 1024;

/// The pauses between attempts to connect that fail.
const RECONNECT_BACKOFF: Backoff = Backoff::millis(25, 500);
/// After this long without a failure, the next one counts as the first.
const FAILURE_MEMORY: Duration = Duration::from_secs(2);

/// The one policy under which a server without memory drops no lock that is held.
const SAFE_POLICY: &str = "noeviction";
const MAY_DROP: &str = "the server may drop locks that are held";

/// Makes links, one at a time.
pub(super) struct Connector {
    factory: Arc<LinkFactory>,
    state: Mutex<ConnectorState>,
}

/// What is needed to make a link.
struct LinkFactory {
    address: ServerAddress,
    context: Context,
    client_name: Arc<str>,
    shown: Arc<str>,
    /// What the last server does when its memory is full; `None` where the server does not say.
    policy: Mutex<Option<String>>,
}

/// One attempt to make a link, which all callers that need it poll.
type LinkAttempt = Shared<BoxFuture<'static, Result<Arc<RedisLink>, BackendError>>>;

#[derive(Default)]
struct ConnectorState {
    attempt: Option<LinkAttempt>,
    /// The number of the attempt; zero before the first.
    number: u64,
    last_failure: Option<FailedAttempt>,
    closed: bool,
}

struct FailedAttempt {
    at: Instant,
    /// The next attempt begins at this time.
    pause_until: Instant,
    pauses: Pauses,
    error: BackendError,
}

impl Connector {
    pub(super) fn new(url: RedisUrl, context: Context) -> Self {
        let RedisUrl { address, client_name, shown } = url;
        let client_name = client_name.into();
        let factory = LinkFactory { address, context, client_name, shown, policy: Mutex::default() };
        Self { factory: Arc::new(factory), state: Mutex::default() }
    }

    /// The current link, or a new one.
    ///
    /// # Cancel safety
    /// An attempt that was begun goes on for the next caller.
    pub(super) async fn link(&self, deadline: Instant) -> Result<Arc<RedisLink>, BackendError> {
        let (number, attempt) = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(BackendError::closed());
            }
            match state.attempt.as_ref().map(|attempt| (attempt.peek(), attempt)) {
                Some((Some(Ok(link)), _)) if link.is_usable() => return Ok(link.clone()),
                Some((None, attempt)) => (state.number, attempt.clone()),
                _ => self.begin(&mut state),
            }
        };
        // Boxed so that the future of a request does not reserve space for this: in most cases there is a link already.
        match Box::pin(timeout_at(deadline, attempt)).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => {
                self.note_failure(number, &error);
                Err(error)
            }
            Err(_) => Err(self.known_trouble().unwrap_or_else(|| self.factory.late("not connected in time"))),
        }
    }

    /// The current link, if there is one that can be used.
    pub(super) fn current(&self) -> Option<Arc<RedisLink>> {
        let state = self.state.lock();
        let link = state.attempt.as_ref()?.peek()?.as_ref().ok()?;
        (!state.closed && link.is_usable()).then(|| link.clone())
    }

    /// Ends the link once the requests in flight are answered. Later calls fail.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.attempt = None;
    }

    /// What is wrong with the server's settings, as far as the server shows them.
    pub(super) fn warnings(&self) -> Vec<String> {
        let policy = self.factory.policy.lock().clone().filter(|policy| policy != SAFE_POLICY);
        policy.map(|policy| format!("maxmemory-policy is {policy}, not {SAFE_POLICY}: {MAY_DROP}")).into_iter().collect()
    }

    fn begin(&self, state: &mut ConnectorState) -> (u64, LinkAttempt) {
        let again = state.number > 0;
        let pause = state.last_failure.as_ref().map(|failed| failed.pause_until);
        let factory = self.factory.clone();
        let attempt = async move {
            if let Some(pause) = pause {
                sleep_until(pause).await;
            }
            factory.connect(again).await
        };
        let attempt = attempt.boxed().shared();
        state.number += 1;
        state.attempt = Some(attempt.clone());
        (state.number, attempt)
    }

    /// Notes the failure of an attempt, once: many callers see the same attempt fail.
    fn note_failure(&self, number: u64, error: &BackendError) {
        let mut state = self.state.lock();
        if state.number != number || state.attempt.take().is_none() {
            return;
        }
        let now = Instant::now();
        let mut pauses = match &state.last_failure {
            Some(failed) if now - failed.at < FAILURE_MEMORY => failed.pauses,
            _ => RECONNECT_BACKOFF.pauses(),
        };
        let pause_until = now + pauses.next();
        state.last_failure = Some(FailedAttempt { at: now, pause_until, pauses, error: error.clone() });
    }

    /// Why the last attempt failed, for callers whose time is up before the next one ends. A refusal is final, and so must come from the
    /// caller's own attempt.
    fn known_trouble(&self) -> Option<BackendError> {
        let state = self.state.lock();
        let FailedAttempt { at, error, .. } = state.last_failure.as_ref()?;
        (error.failure == Failure::NotSent && at.elapsed() < FAILURE_MEMORY).then(|| error.clone())
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("server", &self.factory.shown).finish_non_exhaustive()
    }
}

impl LinkFactory {
    async fn connect(&self, again: bool) -> Result<Arc<RedisLink>, BackendError> {
        let deadline = deadline_after(self.context.connect_timeout);
        let (link, master) = timeout_at(deadline, self.log_in(again, deadline))
            .await
            .unwrap_or_else(|_| Err(self.late("not connected within connect_timeout")))?;
        let link = Arc::new(link);
        if let (ServerAddress::Service(service), Some(master)) = (&self.address, master) {
            let watched = Arc::downgrade(&link);
            link.keep(Lookout::start(service.clone(), master, move || {
                if let Some(link) = watched.upgrade() {
                    link.retire();
                }
            }));
        }
        if again {
            // Hints that were published while no link was subscribed are lost.
            (self.context.on_hint)(Hint::All);
        }
        Ok(link)
    }

    /// The error that the server has not answered in time.
    fn late(&self, message: &str) -> BackendError {
        let late = match &self.address {
            ServerAddress::Fixed(target) => target.late(),
            ServerAddress::Service(service) => service.late(),
        };
        late.unwrap_or_else(|| BackendError::new(Failure::NotSent, message))
    }

    async fn log_in(&self, again: bool, deadline: Instant) -> Result<(RedisLink, Option<NamedMaster>), BackendError> {
        let usable = Arc::new(AtomicBool::new(true));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WRITE_QUEUE)
            .set_push_sender(wakeup::listener(self.context.clone(), usable.clone()));
        let (wire, master) = match &self.address {
            ServerAddress::Fixed(target) => (target.dial(&config).await?, None),
            ServerAddress::Service(service) => {
                let (wire, master) = service.dial(&config, deadline).await?;
                (wire, Some(master))
            }
        };
        let connection = &wire.connection;
        // All four take one round trip. A sample of the server's clock is off by its round trip, which is why it is bounded.
        let ready = timeout(self.context.op_timeout, async {
            tokio::join!(
                self.subscribe(connection),
                self.read_clock(connection),
                read_policy(connection),
                self.set_name(connection)
            )
        });
        let Ok((subscribed, clock, policy, ())) = ready.await else {
            return Err(BackendError::new(Failure::NotSent, format!("connected, but {NO_ANSWER}")));
        };
        subscribed.map_err(failure::of_connecting)?;
        let server_clock = clock.map_err(failure::of_connecting)?;
        if let Some(policy) = policy.as_ref().filter(|policy| *policy != SAFE_POLICY && !again) {
            tracing::warn!(
                target: target::REDIS_CONNECT,
                server = %self.shown,
                %policy,
                "maxmemory-policy is not {SAFE_POLICY}: {MAY_DROP}"
            );
        }
        *self.policy.lock() = policy;
        Ok((RedisLink::new(wire, self.client_name.clone(), server_clock, self.context.clock.clone(), usable), master))
    }

    async fn subscribe(&self, connection: &MultiplexedConnection) -> RedisResult<()> {
        connection.clone().subscribe(names::channel(self.context.session)).await
    }

    async fn read_clock(&self, connection: &MultiplexedConnection) -> RedisResult<ServerClock> {
        let sent = self.context.clock.now();
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut connection.clone()).await?;
        let server_us = seconds.saturating_mul(1_000_000).saturating_add(micros);
        Ok(ServerClock::new(sent, self.context.clock.now(), server_us))
    }

    /// Sets the name that CLIENT LIST shows. An error is ignored, since a server that forbids it serves locks all the same.
    async fn set_name(&self, connection: &MultiplexedConnection) {
        let mut command = redis::cmd("CLIENT");
        command.arg("SETNAME").arg(&*self.client_name);
        let _: Result<(), RedisError> = command.query_async(&mut connection.clone()).await;
    }
}

/// The server's maxmemory-policy; `None` where CONFIG is forbidden, as on managed servers.
async fn read_policy(connection: &MultiplexedConnection) -> Option<String> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg("maxmemory-policy");
    let answer: Result<Vec<(String, String)>, RedisError> = command.query_async(&mut connection.clone()).await;
    answer.ok()?.into_iter().next().map(|(_, policy)| policy)
}
