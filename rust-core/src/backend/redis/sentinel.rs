//! Which server is the master of a service: its sentinels know.
//!
//! They are asked at each connect, in turn, and what they say is checked: a sentinel that was cut off may name a master that was. A master
//! that loses its office while a connection leads to it says so at the next write, with READONLY, and then the connection is given up.

use std::sync::atomic::{AtomicUsize, Ordering};

use redis::{AsyncConnectionConfig, ConnectionAddr, RedisConnectionInfo, RedisResult, Value};
use tokio::time::{Instant, timeout_at};

use super::dial::{Target, Wire};
use super::failure;
use super::tls::Tls;
use crate::error::{BackendError, Failure};
use crate::shown::quoted;

/// A master and its replicas under one name.
pub(super) struct Service {
    pub(super) name: String,
    pub(super) sentinels: Vec<Sentinel>,
    /// How to log in at the master.
    pub(super) login: RedisConnectionInfo,
    tls: Option<Tls>,
    /// The sentinel that knew best last time is asked first.
    first: AtomicUsize,
}

/// One of those that watch over a service.
pub(super) struct Sentinel {
    /// What people may read.
    pub(super) shown: String,
    pub(super) target: Target,
}

impl Service {
    pub(super) fn new(name: String, sentinels: Vec<Sentinel>, login: RedisConnectionInfo, tls: Option<Tls>) -> Self {
        Self { name, sentinels, login, tls, first: AtomicUsize::new(0) }
    }

    /// What to say when the other side of a connection has not answered in time, where more is known than that.
    pub(super) fn late(&self) -> Option<BackendError> {
        self.tls.as_ref().and_then(Tls::late)
    }

    /// Connects to the master, by whichever sentinel leads there before the deadline.
    pub(super) async fn dial(&self, config: &AsyncConnectionConfig, deadline: Instant) -> Result<Wire, BackendError> {
        let count = self.sentinels.len();
        let first = self.first.load(Ordering::Relaxed);
        let (mut tried, mut failures) = (Vec::new(), Vec::new());
        for asked in 0..count {
            let number = (first + asked) % count;
            let sentinel = &self.sentinels[number];
            // One that is silent leaves time for the others, and for what comes after.
            let now = Instant::now();
            let shares = u32::try_from(count - asked + 1).unwrap_or(u32::MAX);
            let share = now + deadline.saturating_duration_since(now) / shares;
            let named = |error| failure::reworded(error, |words| format!("{}: {words}", sentinel.shown));
            let master = match self.in_time(share, self.ask(sentinel)).await {
                Ok(master) if tried.contains(&master) => continue,
                Ok(master) => master,
                Err(error) => {
                    failures.push(named(error));
                    continue;
                }
            };
            match self.in_time(share, self.dial_master(&master, config)).await {
                Ok(wire) => {
                    self.first.store(number, Ordering::Relaxed);
                    return Ok(wire);
                }
                Err(error) => {
                    let (host, port) = &master;
                    // Refused or not: what does not want us may be a stranger at an address that was the master's.
                    failures.push(named(failure::reworded(error, |words| format!("the master is {host}:{port}, {words}"))));
                    tried.push(master);
                }
            }
        }
        Err(all_of(failures))
    }

    async fn in_time<T>(&self, deadline: Instant, step: impl Future<Output = Result<T, BackendError>>) -> Result<T, BackendError> {
        let done = timeout_at(deadline, step).await;
        done.unwrap_or_else(|_| Err(self.late().unwrap_or_else(|| BackendError::new(Failure::NotSent, "no answer in time"))))
    }

    async fn ask(&self, sentinel: &Sentinel) -> Result<(String, u16), BackendError> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let wire = sentinel.target.dial(&config).await?;
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let answer: RedisResult<Option<(String, u16)>> = command.query_async(&mut wire.connection.clone()).await;
        // Without a password this is the first word that it is told.
        let answer = answer.map_err(|error| failure::of_login(error, self.tls.is_some()))?;
        answer.ok_or_else(|| BackendError::new(Failure::Refused, format!("it knows no service {}", quoted(&self.name))))
    }

    async fn dial_master(&self, (host, port): &(String, u16), config: &AsyncConnectionConfig) -> Result<Wire, BackendError> {
        let address = ConnectionAddr::Tcp(host.clone(), *port);
        let target = Target::new(address, self.login.clone(), self.tls.clone());
        let target = target.map_err(|expected| BackendError::new(Failure::NotSent, format!("which is not {expected}")))?;
        let wire = target.dial(config).await?;
        let answer = redis::cmd("ROLE").query_async(&mut wire.connection.clone()).await;
        let answer: Vec<Value> = answer.map_err(failure::of_connecting)?;
        match answer.first() {
            Some(Value::BulkString(role)) if role == b"master" => Ok(wire),
            Some(Value::BulkString(role)) => {
                let told = format!("which says that it is none, but a {}", String::from_utf8_lossy(role));
                Err(BackendError::new(Failure::NotSent, told))
            }
            _ => Err(BackendError::new(Failure::NotSent, "which does not say what it is")),
        }
    }
}

/// Trying again is worth it unless every sentinel says that it is not.
fn all_of(failures: Vec<BackendError>) -> BackendError {
    let refused = failures.iter().all(|error| error.failure == Failure::Refused);
    let definite = failures.iter().all(|error| error.definite || error.failure == Failure::Refused);
    let messages: Vec<_> = failures.iter().map(|error| &*error.message).collect();
    BackendError {
        failure: if refused { Failure::Refused } else { Failure::NotSent },
        message: messages.join("; ").into(),
        definite,
        cause: failures.into_iter().find_map(|error| error.cause),
    }
}
