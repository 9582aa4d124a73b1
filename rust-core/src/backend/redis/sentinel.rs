//! Which server is the master of a service: its sentinels know.
//!
//! They are asked at each connect, in turn, and what they say is checked: a sentinel that was cut off may name a master that was. A master
//! that loses its office while a connection leads to it says so at the next write, with READONLY, and then the connection is given up. One
//! that is cut off from its sentinels knows of nothing: that is what [`lookout`](super::lookout) is for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::{AsyncConnectionConfig, ConnectionAddr, RedisConnectionInfo, Value};
use tokio::time::{Instant, timeout_at};

use super::dial::{Target, Wire};
use super::failure;
use super::tls::Tls;
use crate::error::{BackendError, Failure};
use crate::printable::quoted;

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

/// Where the master is, as a sentinel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) host: String,
    pub(super) port: u16,
    /// Which failover made it the master: of two that are named, the one of the later epoch is. Zero where the sentinel does not say.
    pub(super) epoch: u64,
}

impl Named {
    pub(super) fn is_at(&self, other: &Self) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }
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
    pub(super) async fn dial(&self, config: &AsyncConnectionConfig, deadline: Instant) -> Result<(Wire, Named), BackendError> {
        let count = self.sentinels.len();
        let first = self.first.load(Ordering::Relaxed);
        let (mut tried, mut failures) = (Vec::<Named>::new(), Vec::new());
        for asked in 0..count {
            let number = (first + asked) % count;
            let sentinel = &self.sentinels[number];
            // One that is silent leaves time for the others, and for what comes after.
            let now = Instant::now();
            let shares = u32::try_from(count - asked + 1).unwrap_or(u32::MAX);
            let share = now + deadline.saturating_duration_since(now) / shares;
            let named = |error| failure::reworded(error, |words| format!("{}: {words}", sentinel.shown));
            let master = match self.in_time(share, self.ask(sentinel)).await {
                Ok(master) if tried.iter().any(|tried| tried.is_at(&master)) => continue,
                Ok(master) => master,
                Err(error) => {
                    failures.push(named(error));
                    continue;
                }
            };
            match self.in_time(share, self.dial_master(&master, config)).await {
                Ok(wire) => {
                    self.prefer(number);
                    return Ok((wire, master));
                }
                Err(error) => {
                    let Named { host, port, .. } = &master;
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

    /// Asks the sentinel of this number first from now on.
    pub(super) fn prefer(&self, number: usize) {
        self.first.store(number, Ordering::Relaxed);
    }

    async fn ask(&self, sentinel: &Sentinel) -> Result<Named, BackendError> {
        let wire = sentinel.target.dial(&plainly()).await?;
        self.ask_over(&wire).await
    }

    /// Asks the sentinel at the other end.
    pub(super) async fn ask_over(&self, wire: &Wire) -> Result<Named, BackendError> {
        let (mut address, mut about) = (redis::cmd("SENTINEL"), redis::cmd("SENTINEL"));
        address.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        about.arg("MASTER").arg(&self.name);
        let (mut one, mut other) = (wire.connection.clone(), wire.connection.clone());
        let (answer, about) = tokio::join!(
            address.query_async::<Option<(String, u16)>>(&mut one),
            about.query_async::<HashMap<String, String>>(&mut other)
        );
        // Without a password this is the first word that it is told.
        let answer = answer.map_err(|error| failure::of_login(error, self.tls.is_some()))?;
        let unknown = || BackendError::new(Failure::Refused, format!("it knows no service {}", quoted(&self.name)));
        let (host, port) = answer.ok_or_else(unknown)?;
        let epoch = about.ok().and_then(|about| about.get("config-epoch")?.parse().ok()).unwrap_or(0);
        Ok(Named { host, port, epoch })
    }

    /// Connects where the master is said to be; fails where none is.
    pub(super) async fn dial_master(&self, master: &Named, config: &AsyncConnectionConfig) -> Result<Wire, BackendError> {
        let Named { host, port, .. } = master;
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

/// For a connection on which nothing is pushed, and each step has a deadline of its own.
pub(super) fn plainly() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None)
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
