//! `redis://`: locks on one Redis or Valkey server, or on the master that sentinels name.
//!
//! A lock is a plain string with a TTL, as `SET key value NX PX` makes it, so that older lock libraries and dlock exclude each other on the
//! same key. While somebody waits for the key, there is a queue beside it; [`names`] has the keys, and [`scripts`] the steps.
//!
//! **Hand-over.** The release of a key for which somebody waits does not free it. It sets the key to a *claim* of the first live waiter for
//! one second, and sends a hint to that waiter's session, which confirms the claim with an acquire. If a claim is not confirmed, the whole
//! session of its waiter is dropped from the queue. A waiter sends a heartbeat every two seconds. It counts as dead after five seconds
//! without one, or at once when nobody listens on its session's channel. Every waiter that sees a claim, by an acquire or a heartbeat, looks
//! again when the claim ends, so nobody has to notify it. Dead and frozen waiters, however many, delay the next live waiter by at most those
//! five seconds and one claim.
//!
//! **Late requests.** An acquire carries a not-after in the server's time. The server refuses a request that was delayed until its caller had
//! given up, or had acquired and released the lock on another connection. So a late request never takes the key for nobody.
//!
//! **Failover.** A replica that becomes the master may lack the last writes that the old master acknowledged. Then a key can be granted while
//! another holder believes to hold it, until that holder's next renewal. Clients pass on the highest token that they have seen, and the token
//! protects the data.
//!
//! **Lone requests.** A request with which nothing else is under way goes over a connection of its own, which its caller reads: see [`direct`].
//!
//! **Batches.** Acquires and releases that would queue for the connection share one call, each with its own answer: see [`batch`].
//!
//! | to find | look into |
//! |---|---|
//! | the URL | [`address`], [`parameters`] |
//! | a connection, from making it to giving it up | [`reconnect`], [`dial`], [`tls`], [`sentinel`], [`link`], [`liveness`], [`lookout`] |
//! | a request, from the contract to the script and back | [`request`], [`outbox`], [`batch`], [`direct`], [`scripts`], [`reply`] |
//! | what an error means | [`failure`], [`answers`] |
//! | hints, and the server's clock | [`wakeup`], [`server_clock`] |

mod address;
mod answers;
mod batch;
mod dial;
mod direct;
mod direct_connection;
mod failure;
mod link;
mod liveness;
mod lookout;
mod names;
mod outbox;
mod parameters;
mod reconnect;
mod reply;
mod request;
mod scripts;
mod sentinel;
mod server_clock;
mod tls;
mod wakeup;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready, try_join_all};
use tokio::time::Instant;
use url::Url;

use self::address::RedisUrl;
use self::link::RedisLink;
use self::names::Names;
use self::reconnect::Connector;
use self::request::{AcquireArguments, Request, RequestKind, granted_ttl, millis};
use self::scripts::ScriptCall;
use super::limits::LISTED_LOCKS;
use super::timers::deadline_after;
use super::{
    Acquire, Acquired, Backend, Capabilities, Context, Handover, Inspection, Outcome, Plan, Release, Renew, Renewed, Reply, Waiter,
    Whom,
};
use crate::clock;
use crate::driver::Reader;
use crate::error::{BackendError, Error, Failure};
use crate::fencing::MAX_TOKEN;
use crate::owner::OwnerId;

/// How often a waiter sends a heartbeat. Without one it counts as alive for `ALIVE_US` of `queue.lua`.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// The most keys of one script call: about a millisecond of the server's time.
const BATCH: usize = 500;

/// How many waiters `inspect` names.
const NAMED_WAITERS: usize = 1_000;

/// Opens a backend on `url`; connects at first use.
///
/// # Errors
/// [`Error::InvalidOptions`] for a URL or namespace that cannot be used.
pub fn open(url: &Url, context: Context) -> Result<Arc<dyn Backend>, Error> {
    Ok(parse(url, &context.namespace, context.op_timeout)?.open(context))
}

/// Opens a backend on the master that sentinels name, `redis+sentinel://`; connects at first use.
///
/// # Errors
/// [`Error::InvalidOptions`] for a URL or namespace that cannot be used.
pub fn open_service(url: &str, context: Context) -> Result<Arc<dyn Backend>, Error> {
    Ok(parse_service(url, &context.namespace, context.op_timeout)?.open(context))
}

/// Reads the URL of one server.
pub(super) fn parse(url: &Url, namespace: &str, op_timeout: Duration) -> Result<Plan, Error> {
    planned(address::parse(url)?, namespace, op_timeout)
}

/// Reads the URL of a service that sentinels know.
pub(super) fn parse_service(url: &str, namespace: &str, op_timeout: Duration) -> Result<Plan, Error> {
    planned(address::parse_service(url)?, namespace, op_timeout)
}

fn planned(url: RedisUrl, namespace: &str, op_timeout: Duration) -> Result<Plan, Error> {
    if namespace.starts_with(names::SIDE) {
        return Err(Error::invalid("namespace", namespace, "a namespace that does not begin with \"dlock:\""));
    }
    let server = url.shown.clone();
    let capabilities = Capabilities {
        scheme: "redis",
        fair: true,
        crash_release: false,
        ttl_floor: Duration::from_millis(100),
        margin: Duration::from_millis(2),
        heartbeat: Some(HEARTBEAT),
        // Not-after is at most one `op_timeout` ahead, and the sample of the server's clock is off by less than another.
        late_window: op_timeout * 2,
        batch: BATCH,
        reserved: namespace.is_empty().then_some(names::SIDE),
        counts_tokens: false,
    };
    let (of_each, shown) = (capabilities.clone(), server.clone());
    let open = move |context: Context| -> Arc<dyn Backend> {
        let connector = Connector::new(url.clone(), context.clone());
        Arc::new(Redis { connector, context, capabilities: of_each.clone(), server: shown.clone() })
    };
    Ok(Plan::new(capabilities, server, open))
}

/// Refuses keys that would be taken for side keys. Callers that check [`Capabilities::reserved`] first are never refused here.
fn validate_key(namespace: &str, key: &str) -> Result<(), Error> {
    if names::lock(namespace, key).starts_with(names::SIDE) {
        return Err(Error::invalid("key", key, "with redis:// and no namespace, a key that does not begin with \"dlock:\""));
    }
    Ok(())
}

/// The backend of one client.
struct Redis {
    connector: Connector,
    context: Context,
    capabilities: Capabilities,
    server: Arc<str>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("server", &self.server).field("context", &self.context).finish_non_exhaustive()
    }
}

/// When the caller of a request stops waiting.
#[derive(Clone, Copy)]
struct Deadline {
    /// For timers here.
    at: Instant,
    /// For the server, which must not execute the request after it.
    not_after: clock::Instant,
}

impl Redis {
    fn deadline(&self, timeout: Duration) -> Deadline {
        let not_after = self.context.clock.now() + timeout.min(self.context.op_timeout);
        Deadline { at: deadline_after(timeout), not_after }
    }

    fn names(&self, key: &str) -> Result<Names, BackendError> {
        validate_key(&self.context.namespace, key).map_err(|error| BackendError::because(Failure::Refused, error))?;
        Ok(Names::of(&self.context.namespace, key))
    }

    /// Sends an acquire, and once more if the server's clock was stepped, so that it found the first one too late.
    async fn ask(&self, acquire: &Acquire, deadline: Deadline) -> Result<Acquired, BackendError> {
        for _ in 0..2 {
            let names = self.names(&acquire.key)?;
            let link = self.connector.link(deadline.at).await?;
            let ask = AcquireArguments::new(acquire, link.server_clock.at(deadline.not_after));
            let answer = link.ask(Request::new(names, RequestKind::Acquire(ask)), deadline.at).await?;
            if let Some(acquired) = answer.acquired(granted_ttl(acquire))? {
                return Ok(acquired);
            }
        }
        Err(too_late())
    }

    async fn release_key(&self, release: Release) -> Result<Handover, BackendError> {
        let deadline = self.deadline(release.timeout);
        let names = self.names(&release.key)?;
        let link = self.connector.link(deadline.at).await?;
        let next = release.next.as_ref().map(|next| AcquireArguments::new(next, link.server_clock.at(deadline.not_after)));
        let answer = link.ask(Request::new(names, RequestKind::Release(release.owner, next)), deadline.at).await?;
        let (released, next_answer) = answer.released()?;
        let outcome = if released { Outcome::Released } else { Outcome::NotHeld };
        // A `next` that came too late was certainly not executed. Its waiter asks itself, now that the server's time is known.
        let next = match (release.next, next_answer) {
            (Some(next), Some(answer)) => answer.acquired(granted_ttl(&next))?,
            _ => None,
        };
        Ok(Handover { outcome, next })
    }

    async fn renew_batch(&self, batch: &[Renew], deadline: Deadline) -> Result<Vec<Renewed>, BackendError> {
        // A late renewal does harm only if it may shorten a lease.
        let exact = batch.iter().any(|renew| renew.exact);
        for _ in 0..2 {
            let link = self.connector.link(deadline.at).await?;
            let mut call = ScriptCall::new(&scripts::RENEW);
            for renew in batch {
                call = call.key(names::lock(&self.context.namespace, &renew.key));
            }
            call = call.arg(if exact { link.server_clock.at(deadline.not_after) } else { 0 });
            for renew in batch {
                call = call.text(renew.owner).arg(millis(renew.ttl)).arg(u8::from(renew.exact));
            }
            let sent = self.context.clock.now();
            match reply::renewed(&link.call(&call, deadline.at).await?, batch.len())? {
                Ok(renewed) => return Ok(renewed),
                Err(server_us) => link.server_clock.relearn(sent, self.context.clock.now(), server_us),
            }
        }
        Err(too_late())
    }

    async fn keep_waiting_batch(&self, waiters: &[Waiter], deadline: Deadline) -> Result<Vec<Duration>, BackendError> {
        let link = self.connector.link(deadline.at).await?;
        let mut call = ScriptCall::new(&scripts::KEEP_WAITING);
        for waiter in waiters {
            let names = self.names(&waiter.key)?;
            call = call.key(names.lock()).key(names.queue()).key(names.heartbeats());
        }
        for waiter in waiters {
            call = call.text(waiter.owner);
        }
        reply::look_again(&link.call(&call, deadline.at).await?, waiters.len())
    }

    async fn read(&self, link: &RedisLink, key: String, deadline: Instant) -> Result<Inspection, BackendError> {
        let names = self.names(&key)?;
        let call = ScriptCall::new(&scripts::INSPECT).key(names.lock()).key(names.queue()).arg(NAMED_WAITERS);
        reply::inspected(key, &link.call(&call, deadline).await?)
    }

    /// Scans the server's keys. Every key that exists throughout is found, some perhaps twice.
    async fn scan(&self, prefix: &str, deadline: Instant) -> Result<Vec<Inspection>, BackendError> {
        let link = self.connector.link(deadline).await?;
        let pattern = format!("{}*", literal(&names::lock(&self.context.namespace, prefix)));
        let mut found = BTreeMap::new();
        let mut cursor = 0_u64;
        loop {
            let mut command = redis::cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1_000).arg("TYPE").arg("string");
            let (next, locks): (u64, Vec<Vec<u8>>) = link.command(&command, deadline).await?;
            let keys = locks.into_iter().filter_map(|lock| self.key_of(lock));
            for lock in try_join_all(keys.map(|key| self.read(&link, key, deadline))).await? {
                // Without a namespace the server may hold anything, so that only values which dlock wrote are locks.
                if lock.holder.as_ref().is_some_and(|holder| !self.context.namespace.is_empty() || reply::is_ours(holder)) {
                    found.insert(lock.key.clone(), lock);
                }
            }
            cursor = next;
            if cursor == 0 || found.len() >= LISTED_LOCKS {
                return Ok(found.into_values().collect());
            }
        }
    }

    /// The key of a lock without its namespace; `None` for side keys and for keys of another namespace.
    fn key_of(&self, lock: Vec<u8>) -> Option<String> {
        let lock = String::from_utf8(lock).ok().filter(|lock| !lock.starts_with(names::SIDE))?;
        Some(names::without_namespace(&self.context.namespace, &lock)?.to_string())
    }
}

impl Backend for Redis {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn server(&self) -> &Arc<str> {
        &self.server
    }

    fn serves_callers(&self, reader: Reader) -> bool {
        self.connector.current().is_some_and(|link| link.serves_callers(reader))
    }

    fn ping(&self, timeout: Duration) -> Reply<'_, ()> {
        let deadline = self.deadline(timeout).at;
        async move { self.connector.link(deadline).await?.command(&redis::cmd("PING"), deadline).await }.boxed()
    }

    fn warnings(&self) -> Vec<String> {
        self.connector.warnings()
    }

    fn probe(&self, timeout: Duration) -> Reply<'_, ()> {
        let deadline = self.deadline(timeout).at;
        async move {
            let link = self.connector.link(deadline).await?;
            let session = self.context.session;
            let names = names::of_probe(&self.context.namespace, session);
            let call =
                ScriptCall::new(&scripts::PROBE).key(names.lock()).key(names.token()).key(names.queue()).key(names.heartbeats());
            reply::probed(&link.call(&call.text(names::channel(session)).arg(MAX_TOKEN), deadline).await?)
        }
        .boxed()
    }

    fn acquire(&self, request: Acquire) -> Reply<'_, Acquired> {
        let deadline = self.deadline(request.timeout);
        async move { self.ask(&request, deadline).await }.boxed()
    }

    fn renew(&self, batch: Vec<Renew>, timeout: Duration) -> Reply<'_, Vec<Renewed>> {
        let deadline = self.deadline(timeout);
        async move {
            let parts = batch.chunks(BATCH).map(|part| self.renew_batch(part, deadline));
            Ok(try_join_all(parts).await?.concat())
        }
        .boxed()
    }

    fn release(&self, release: Release) -> Reply<'_, Handover> {
        self.release_key(release).boxed()
    }

    fn leave(&self, key: Arc<str>, owner: OwnerId, timeout: Duration) -> Reply<'_, ()> {
        self.release_key(Release { key, owner, next: None, timeout }).map(|answer| answer.map(drop)).boxed()
    }

    fn keep_waiting(&self, waiters: Vec<Waiter>, timeout: Duration) -> Reply<'_, Vec<Duration>> {
        let deadline = self.deadline(timeout);
        async move {
            let parts = waiters.chunks(BATCH).map(|part| self.keep_waiting_batch(part, deadline));
            Ok(try_join_all(parts).await?.concat())
        }
        .boxed()
    }

    fn inspect(&self, key: Arc<str>, timeout: Duration) -> Reply<'_, Inspection> {
        let deadline = self.deadline(timeout).at;
        async move { self.read(&*self.connector.link(deadline).await?, key.to_string(), deadline).await }.boxed()
    }

    fn list(&self, prefix: Arc<str>, timeout: Duration) -> Reply<'_, Vec<Inspection>> {
        let deadline = self.deadline(timeout).at;
        async move { self.scan(&prefix, deadline).await }.boxed()
    }

    fn force_release(&self, key: Arc<str>, whom: Whom, timeout: Duration) -> Reply<'_, bool> {
        let deadline = self.deadline(timeout).at;
        async move {
            let (kind, text) = match whom {
                Whom::Token(token) => ("token", token.to_string()),
                Whom::Owner(owner) => ("owner", owner),
            };
            let names = self.names(&key)?;
            let call = ScriptCall::new(&scripts::FORCE_RELEASE)
                .key(names.lock())
                .key(names.queue())
                .key(names.heartbeats())
                .arg(kind)
                .arg(text);
            reply::is_one(&self.connector.link(deadline).await?.call(&call, deadline).await?)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.connector.close();
        ready(()).boxed()
    }
}

fn too_late() -> BackendError {
    BackendError::new(Failure::NotSent, "the request reached the server too late, or the server's clock was stepped")
}

/// Escapes the special characters of a pattern.
fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for each in text.chars() {
        if matches!(each, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(each);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_look_like_side_keys_are_refused() {
        assert!(matches!(validate_key("", "dlock:q:{1}:x"), Err(Error::InvalidOptions { .. })));
        assert!(matches!(validate_key("dlock:", "x"), Err(Error::InvalidOptions { .. })));
        assert!(validate_key("", "dlock").is_ok());
        assert!(validate_key("dlock", "dlock:x").is_ok());
    }

    #[test]
    fn a_prefix_is_taken_literally() {
        assert_eq!(literal("a*[b]?\\"), "a\\*\\[b\\]\\?\\\\");
    }
}
