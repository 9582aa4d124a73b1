//! Asks sentinels which server is the master of a service.
//!
//! Each connect asks them in turn and checks their answers, since a sentinel that was cut off may name a former master. A master that loses
//! its office during a connection answers the next write with READONLY, and then the connection is given up. A master that is cut off from
//! its sentinels does not learn of it: for that case there is [`lookout`](super::lookout).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::{AsyncConnectionConfig, ConnectionAddr, RedisConnectionInfo, Value};
use tokio::time::{Instant, timeout_at};

use super::dial::{DialTarget, Wire};
use super::failure;
use super::tls::Tls;
use crate::error::{BackendError, Failure};
use crate::printable::quoted;

/// A master and its replicas under one name.
pub(super) struct Service {
    pub(super) name: String,
    pub(super) sentinels: Vec<Sentinel>,
    /// How to log in to the master.
    pub(super) login: RedisConnectionInfo,
    tls: Option<Tls>,
    /// The number of the sentinel to ask first: the one that named the master last time.
    first: AtomicUsize,
}

/// The master that a sentinel names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedMaster {
    pub(super) host: String,
    pub(super) port: u16,
    /// The failover that made it the master; of two answers, the one with the later epoch is right. Zero where the sentinel does not say.
    pub(super) epoch: u64,
}

impl NamedMaster {
    pub(super) fn is_at(&self, other: &Self) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }
}

/// One sentinel of a service.
pub(super) struct Sentinel {
    /// Its address, for errors.
    pub(super) shown: String,
    pub(super) target: DialTarget,
}

impl Service {
    pub(super) fn new(name: String, sentinels: Vec<Sentinel>, login: RedisConnectionInfo, tls: Option<Tls>) -> Self {
        Self { name, sentinels, login, tls, first: AtomicUsize::new(0) }
    }

    /// The error that the server has not answered in time, where more is known than that.
    pub(super) fn late(&self) -> Option<BackendError> {
        self.tls.as_ref().and_then(Tls::late)
    }

    /// Connects to the master that the first useful sentinel names before the deadline.
    pub(super) async fn dial(
        &self,
        config: &AsyncConnectionConfig,
        deadline: Instant,
    ) -> Result<(Wire, NamedMaster), BackendError> {
        let count = self.sentinels.len();
        let first = self.first.load(Ordering::Relaxed);
        let (mut tried, mut failures) = (Vec::<NamedMaster>::new(), Vec::new());
        for asked in 0..count {
            let number = (first + asked) % count;
            let sentinel = &self.sentinels[number];
            // Each sentinel gets a share of the time, so that a silent one leaves some for the others and for the log-in.
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
                    let NamedMaster { host, port, .. } = &master;
                    // A refusal does not end the search either: the server may be a stranger at an address that was the master's.
                    failures.push(named(failure::reworded(error, |words| format!("the master is {host}:{port}, {words}"))));
                    tried.push(master);
                }
            }
        }
        Err(all_of(failures))
    }

    async fn in_time<T>(&self, deadline: Instant, step: impl Future<Output = Result<T, BackendError>>) -> Result<T, BackendError> {
        let done = timeout_at(deadline, step).await;
        done.unwrap_or_else(|_| Err(self.late().unwrap_or_else(|| BackendError::no_answer(Failure::NotSent))))
    }

    /// Asks the sentinel of this number first from now on.
    pub(super) fn prefer(&self, number: usize) {
        self.first.store(number, Ordering::Relaxed);
    }

    async fn ask(&self, sentinel: &Sentinel) -> Result<NamedMaster, BackendError> {
        let wire = sentinel.target.dial(&unpushed()).await?;
        self.ask_over(&wire).await
    }

    /// Asks the sentinel at the other end.
    pub(super) async fn ask_over(&self, wire: &Wire) -> Result<NamedMaster, BackendError> {
        let (mut address, mut about) = (redis::cmd("SENTINEL"), redis::cmd("SENTINEL"));
        address.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        about.arg("MASTER").arg(&self.name);
        let (mut one, mut other) = (wire.connection.clone(), wire.connection.clone());
        let (answer, about) = tokio::join!(
            address.query_async::<Option<(String, u16)>>(&mut one),
            about.query_async::<HashMap<String, String>>(&mut other)
        );
        // Without a password this is the first command on the connection, so it may fail as a log-in does.
        let answer = answer.map_err(|error| failure::of_login(error, self.tls.is_some()))?;
        let unknown = || BackendError::new(Failure::Refused, format!("it knows no service {}", quoted(&self.name)));
        let (host, port) = answer.ok_or_else(unknown)?;
        let epoch = about.ok().and_then(|about| about.get("config-epoch")?.parse().ok()).unwrap_or(0);
        Ok(NamedMaster { host, port, epoch })
    }

    /// Connects to the named server; fails if it is not a master.
    pub(super) async fn dial_master(&self, master: &NamedMaster, config: &AsyncConnectionConfig) -> Result<Wire, BackendError> {
        let NamedMaster { host, port, .. } = master;
        let address = ConnectionAddr::Tcp(host.clone(), *port);
        let target = DialTarget::new(address, self.login.clone(), self.tls.clone());
        let target = target.map_err(|expected| BackendError::new(Failure::NotSent, format!("which is not {expected}")))?;
        let wire = target.dial(config).await?;
        let answer = redis::cmd("ROLE").query_async(&mut wire.connection.clone()).await;
        let answer: Vec<Value> = answer.map_err(failure::of_connecting)?;
        match answer.first() {
            Some(Value::BulkString(role)) if role == b"master" => Ok(wire),
            Some(Value::BulkString(role)) => {
                let message = format!("which says that it is none, but a {}", String::from_utf8_lossy(role));
                Err(BackendError::new(Failure::NotSent, message))
            }
            _ => Err(BackendError::new(Failure::NotSent, "which does not say what it is")),
        }
    }
}

/// For a connection on which nothing is pushed, and whose steps have deadlines of their own.
pub(super) fn unpushed() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None)
}

/// One error for all sentinels: another try is worthwhile unless every sentinel refused.
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
