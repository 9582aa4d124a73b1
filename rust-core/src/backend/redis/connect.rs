//! One connection for everything: made at first use, replaced when it is suspect.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::address::{Address, Place};
use super::batch::Line;
use super::dial::Wire;
use super::lookout::Lookout;
use super::pulse::Pulse;
use super::scripts::Call;
use super::sentinel::Named;
use super::server_clock::ServerClock;
use super::{LONGEST_TIMEOUT, failure, names, wakeup};
use crate::backend::{Context, Hint};
use crate::clock::Clock;
use crate::error::{BackendError, CLOSED, Failure};
use crate::observe::logs::target;

/// How many requests may wait to be written before the next one has to.
const WRITE_QUEUE: usize = 1024;

/// The pause after the first failure to connect; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Without a failure for this long, the next one counts as the first.
const PAUSE_MEMORY: Duration = Duration::from_secs(2);

/// The one policy under which a full memory costs no lock that is held.
const SAFE_POLICY: &str = "noeviction";
const MAY_DROP: &str = "the server may drop locks that are held";

/// A connection that is logged in and subscribed.
pub(super) struct Link {
    wire: Wire,
    /// The clock of the server at its other end.
    pub(super) server_clock: ServerClock,
    /// The engine's clock.
    pub(super) clock: Arc<dyn Clock>,
    /// The requests that wait for a batch.
    pub(super) line: Line,
    /// Where the connection lives.
    pub(super) runtime: Handle,
    usable: Arc<AtomicBool>,
    pulse: Pulse,
    /// Where sentinels named the master, it is looked whether they still do.
    master: Option<Named>,
    lookout: OnceLock<Lookout>,
    /// The hashes of the scripts that were brought along on it.
    brought: Mutex<HashSet<&'static str>>,
}

impl Link {
    /// Runs a script, bringing it along where the server does not know it.
    ///
    /// # Cancel safety
    /// A call that is dropped may still be executed.
    pub(super) async fn call(&self, call: &Call, deadline: Instant) -> Result<Value, BackendError> {
        self.answer(deadline, async {
            let answer = self.query(&call.by_hash()).await;
            if !is_unknown_script(&answer) {
                return answer;
            }
            // Many calls may find the script missing at once. The first one brings it, and the server serves a connection in order.
            if !self.brought.lock().insert(call.hash()) {
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
                self.pulse.beat();
                Ok(value)
            }
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => {
                self.suspect(asked.elapsed());
                Err(BackendError::new(Failure::Unknown, "no answer in time"))
            }
        }
    }

    /// Takes note of an error of the server or the connection.
    pub(super) fn failed(&self, error: RedisError) -> BackendError {
        if failure::is_of_the_connection(&error) {
            self.retire();
        }
        if let Some(lookout) = self.lookout.get().filter(|_| failure::is_of_the_server(&error)) {
            lookout.note_refusal();
        }
        failure::of_request(error)
    }

    /// Takes note of a request that had no answer in time.
    pub(super) fn suspect(&self, waited: Duration) {
        if self.pulse.is_lost(waited) {
            self.retire();
        }
    }

    pub(super) fn retire(&self) {
        self.usable.store(false, Ordering::Release);
        self.line.close();
    }

    fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Acquire)
    }
}

fn is_unknown_script(answer: &RedisResult<Value>) -> bool {
    answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
}

/// Makes links, one at a time.
pub(super) struct Connector {
    wiring: Arc<Wiring>,
    state: Mutex<State>,
}

/// What is needed to make a link.
struct Wiring {
    place: Place,
    context: Context,
    client_name: String,
    shown: Arc<str>,
    /// What the last server does when its memory is full; `None` where it does not say.
    policy: Mutex<Option<String>>,
}

/// Polled by whoever needs the link, so that it goes on when one of them gives up, and needs no task of its own.
type Attempt = Shared<BoxFuture<'static, Result<Arc<Link>, BackendError>>>;

#[derive(Default)]
struct State {
    attempt: Option<Attempt>,
    /// Which attempt it is; zero before the first.
    number: u64,
    /// When the last attempt failed, how long to pause after it, and why it failed.
    failed: Option<(Instant, Duration, BackendError)>,
    closed: bool,
}

impl Connector {
    pub(super) fn new(address: Address, context: Context) -> Self {
        let Address { place, client_name, shown } = address;
        let wiring = Wiring { place, context, client_name, shown, policy: Mutex::default() };
        Self { wiring: Arc::new(wiring), state: Mutex::default() }
    }

    /// The current link, or a new one.
    ///
    /// # Cancel safety
    /// An attempt that was begun goes on for the next caller.
    pub(super) async fn link(&self, deadline: Instant) -> Result<Arc<Link>, BackendError> {
        let (number, attempt) = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(BackendError::new(Failure::Refused, CLOSED));
            }
            match state.attempt.as_ref().map(|attempt| (attempt.peek(), attempt)) {
                Some((Some(Ok(link)), _)) if link.is_usable() => return Ok(link.clone()),
                Some((None, attempt)) => (state.number, attempt.clone()),
                _ => self.begin(&mut state),
            }
        };
        // Boxed: as a rule there is a link already.
        match Box::pin(timeout_at(deadline, attempt)).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => {
                self.note_failure(number, &error);
                Err(error)
            }
            Err(_) => Err(self.known_trouble().unwrap_or_else(|| self.wiring.late("not connected in time"))),
        }
    }

    /// Ends the link once the requests in flight are answered; later calls fail.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.attempt = None;
    }

    /// What is wrong with the server, as far as it has said.
    pub(super) fn warnings(&self) -> Vec<String> {
        let policy = self.wiring.policy.lock().clone().filter(|policy| policy != SAFE_POLICY);
        policy.map(|policy| format!("maxmemory-policy is {policy}, not {SAFE_POLICY}: {MAY_DROP}")).into_iter().collect()
    }

    fn begin(&self, state: &mut State) -> (u64, Attempt) {
        let again = state.number > 0;
        let pause = state.failed.as_ref().map(|(at, pause, _)| *at + *pause);
        let wiring = self.wiring.clone();
        let attempt = async move {
            if let Some(pause) = pause {
                sleep_until(pause).await;
            }
            wiring.connect(again).await
        };
        let attempt = attempt.boxed().shared();
        state.number += 1;
        state.attempt = Some(attempt.clone());
        (state.number, attempt)
    }

    /// Many callers see the same attempt fail; the first one notes it.
    fn note_failure(&self, number: u64, error: &BackendError) {
        let mut state = self.state.lock();
        if state.number != number || state.attempt.take().is_none() {
            return;
        }
        let now = Instant::now();
        let pause = match &state.failed {
            Some((at, pause, _)) if now - *at < PAUSE_MEMORY => (*pause * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        state.failed = Some((now, pause, error.clone()));
    }

    /// Why the last attempt failed, for those whose time is up before the next one is made. A refusal is final, and has to be fresh.
    fn known_trouble(&self) -> Option<BackendError> {
        let state = self.state.lock();
        let (at, _, error) = state.failed.as_ref()?;
        (error.failure == Failure::NotSent && at.elapsed() < PAUSE_MEMORY).then(|| error.clone())
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("server", &self.wiring.shown).finish_non_exhaustive()
    }
}

impl Wiring {
    async fn connect(&self, again: bool) -> Result<Arc<Link>, BackendError> {
        let deadline = Instant::now() + self.context.connect_timeout.min(LONGEST_TIMEOUT);
        let link = timeout_at(deadline, self.log_in(again, deadline))
            .await
            .unwrap_or_else(|_| Err(self.late("not connected within connect_timeout")))?;
        let link = Arc::new(link);
        if let (Place::Service(service), Some(master)) = (&self.place, &link.master) {
            let _ = link.lookout.set(Lookout::of(service.clone(), Arc::downgrade(&link), master.clone()));
        }
        if again {
            // Whatever was published while nobody listened is lost.
            (self.context.on_hint)(Hint::All);
        }
        Ok(link)
    }

    fn late(&self, told: &str) -> BackendError {
        let late = match &self.place {
            Place::Server(target) => target.late(),
            Place::Service(service) => service.late(),
        };
        late.unwrap_or_else(|| BackendError::new(Failure::NotSent, told))
    }

    async fn log_in(&self, again: bool, deadline: Instant) -> Result<Link, BackendError> {
        let usable = Arc::new(AtomicBool::new(true));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WRITE_QUEUE)
            .set_push_sender(wakeup::listener(self.context.clone(), usable.clone()));
        let (wire, master) = match &self.place {
            Place::Server(target) => (target.dial(&config).await?, None),
            Place::Service(service) => {
                let (wire, master) = service.dial(&config, deadline).await?;
                (wire, Some(master))
            }
        };
        let connection = &wire.connection;
        // All four in one round trip. A sample of the server's clock is off by its round trip: hence the limit.
        let ready = timeout(self.context.op_timeout, async {
            tokio::join!(
                self.subscribe(connection),
                self.read_clock(connection),
                read_policy(connection),
                self.set_name(connection)
            )
        });
        let Ok((subscribed, clock, policy, ())) = ready.await else {
            return Err(BackendError::new(Failure::NotSent, "connected, but no answer in time"));
        };
        subscribed.map_err(failure::of_connecting)?;
        let server_clock = clock.map_err(failure::of_connecting)?;
        if let Some(policy) = policy.as_ref().filter(|policy| *policy != SAFE_POLICY && !again) {
            tracing::warn!(target: target::REDIS_CONNECT, server = %self.shown, %policy, "maxmemory-policy is not {SAFE_POLICY}: {MAY_DROP}");
        }
        *self.policy.lock() = policy;
        Ok(Link {
            wire,
            server_clock,
            clock: self.context.clock.clone(),
            line: Line::new(),
            runtime: Handle::current(),
            usable,
            pulse: Pulse::new(),
            master,
            lookout: OnceLock::new(),
            brought: Mutex::default(),
        })
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

    /// For CLIENT LIST alone: a server that forbids it is fine.
    async fn set_name(&self, connection: &MultiplexedConnection) {
        let mut command = redis::cmd("CLIENT");
        command.arg("SETNAME").arg(&self.client_name);
        let _: Result<(), RedisError> = command.query_async(&mut connection.clone()).await;
    }
}

/// `None` where CONFIG is forbidden, as managed servers do.
async fn read_policy(connection: &MultiplexedConnection) -> Option<String> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg("maxmemory-policy");
    let answer: Result<Vec<(String, String)>, RedisError> = command.query_async(&mut connection.clone()).await;
    answer.ok()?.into_iter().next().map(|(_, policy)| policy)
}
