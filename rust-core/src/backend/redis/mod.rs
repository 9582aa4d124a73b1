//! `redis://`: locks on one Redis or Valkey server, or on the master that sentinels name.
//!
//! A lock is a plain string with a TTL, as `SET key value NX PX` makes it, so that older lock libraries and this one exclude each other on
//! one key. Beside it, while somebody waits, there is a queue; `names` has the keys, the scripts have the steps.
//!
//! **Hand-over.** A release does not free a key for which somebody waits: it sets it to a *claim* of the first live waiter, for one
//! second, and tells that waiter's session, which confirms with an acquire. A claim that was not confirmed drops the whole session of its
//! waiter from the queue. Waiters say every two seconds that they are alive and count as dead after five, or at once when nobody listens
//! on their session's channel. Whoever sees a claim, by an acquire or a heartbeat, watches its end, so nobody needs to be told of it: dead
//! and frozen waiters, however many, cost the next live one at most those five seconds and one claim.
//!
//! **Late requests.** An acquire carries a not-after in the server's time: one whose bytes were stalled until its caller had long given
//! up, or got and released the lock on another connection, is refused instead of taking the key for nobody.
//!
//! **Failover.** A replica that becomes the master may lack what the last one acknowledged: then a key can be granted while somebody
//! believes to hold it, until that one's next renewal. Clients pass on the highest token they have seen, and the token is what protects.
//!
//! **Batches.** Acquires and releases that would queue behind others go together in one call, each with its own answer; see [`batch`].

mod address;
mod answers;
mod batch;
mod connect;
mod dial;
mod failure;
mod lookout;
mod names;
mod parameters;
mod pulse;
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

use self::address::Address;
use self::connect::{Connector, Link};
use self::names::Names;
use self::request::{Ask, Kind, Request};
use self::scripts::Call;
use super::{
    Acquire, Acquired, Backend, Capabilities, Context, Handover, Inspection, Outcome, Release, Renew, Renewed, Reply, Waiter, Whom,
};
use crate::clock;
use crate::error::{BackendError, Error, Failure};
use crate::fencing::MAX_TOKEN;
use crate::owner::OwnerId;

/// How often a waiter says that it is alive. A place lives `PLACE_US` of `queue.lua` without.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// How many keys one script call takes: a millisecond or so of the server's time.
const BATCH: usize = 500;

/// Longer timeouts are cut: the sum of an instant and a boundless duration overflows.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(86_400);

/// How many waiters `inspect` names, and how many locks `list` does.
const NAMED_WAITERS: usize = 1_000;
const LISTED_LOCKS: usize = 10_000;

/// Opens a backend on `url`; connects at first use.
///
/// # Errors
/// [`Error::InvalidOptions`] for a URL or namespace that cannot be used.
pub fn open(url: &Url, context: Context) -> Result<Arc<dyn Backend>, Error> {
    opened(address::parse(url)?, context)
}

/// Opens a backend on the master that sentinels name, `redis+sentinel://`; connects at first use.
///
/// # Errors
/// [`Error::InvalidOptions`] for a URL or namespace that cannot be used.
pub fn open_service(url: &str, context: Context) -> Result<Arc<dyn Backend>, Error> {
    opened(address::parse_service(url)?, context)
}

fn opened(address: Address, context: Context) -> Result<Arc<dyn Backend>, Error> {
    if context.namespace.starts_with(names::SIDE) {
        return Err(Error::invalid("namespace", &*context.namespace, "a namespace that does not begin with \"dlock:\""));
    }
    let server = address.shown.clone();
    let connector = Connector::new(address, context.clone());
    let capabilities = Capabilities {
        scheme: "redis",
        fair: true,
        crash_release: false,
        ttl_floor: Duration::from_millis(100),
        margin: Duration::from_millis(2),
        heartbeat: Some(HEARTBEAT),
        // Not-after is at most one `op_timeout` ahead, computed with a sample of the server's clock that is off by less than another.
        late_window: context.op_timeout * 2,
        batch: BATCH,
        reserved: context.namespace.is_empty().then_some(names::SIDE),
        counts_tokens: false,
    };
    Ok(Arc::new(Redis { connector, context, capabilities, server }))
}

/// Refuses keys that would be taken for side keys. Callers who ask [`Capabilities::reserved`] first never get here.
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

/// When a request's caller stops waiting.
#[derive(Clone, Copy)]
struct Deadline {
    /// For timers.
    at: Instant,
    /// For the server: not after.
    not_after: clock::Instant,
}

impl Redis {
    fn deadline(&self, timeout: Duration) -> Deadline {
        let not_after = self.context.clock.now() + timeout.min(self.context.op_timeout);
        Deadline { at: Instant::now() + timeout.min(LONGEST_TIMEOUT), not_after }
    }

    fn names(&self, key: &str) -> Result<Names, BackendError> {
        validate_key(&self.context.namespace, key).map_err(|error| BackendError::because(Failure::Refused, error))?;
        Ok(Names::of(&self.context.namespace, key))
    }

    /// Asks until the server accepts our idea of its time: once, as a rule, and once more after its clock was stepped.
    async fn ask(&self, acquire: &Acquire, deadline: Deadline) -> Result<Acquired, BackendError> {
        for _ in 0..2 {
            let names = self.names(&acquire.key)?;
            let link = self.connector.link(deadline.at).await?;
            let ask = Ask::new(acquire, link.server_clock.at(deadline.not_after));
            let answer = link.ask(Request::new(names, Kind::Acquire(ask)), deadline.at).await?;
            if let Some(acquired) = answer.asked(granted_ttl(acquire))? {
                return Ok(acquired);
            }
        }
        Err(too_late())
    }

    async fn give_back(&self, release: Release) -> Result<Handover, BackendError> {
        let deadline = self.deadline(release.timeout);
        let names = self.names(&release.key)?;
        let link = self.connector.link(deadline.at).await?;
        let next = release.next.as_ref().map(|next| Ask::new(next, link.server_clock.at(deadline.not_after)));
        let answer = link.ask(Request::new(names, Kind::Release(release.owner, next)), deadline.at).await?;
        let (released, asked) = answer.released()?;
        let outcome = if released { Outcome::Released } else { Outcome::NotHeld };
        // A `next` that came too late was certainly not executed: it asks for itself, now that the server's time is known.
        let next = match (release.next, asked) {
            (Some(next), Some(asked)) => asked.asked(granted_ttl(&next))?,
            _ => None,
        };
        Ok(Handover { outcome, next })
    }

    async fn renew_batch(&self, batch: &[Renew], deadline: Deadline) -> Result<Vec<Renewed>, BackendError> {
        // Only a renewal that may shorten is harmful when it is late.
        let exact = batch.iter().any(|renew| renew.exact);
        for _ in 0..2 {
            let link = self.connector.link(deadline.at).await?;
            let mut call = Call::new(&scripts::RENEW);
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

    async fn keep_batch(&self, waiters: &[Waiter], deadline: Deadline) -> Result<Vec<Duration>, BackendError> {
        let link = self.connector.link(deadline.at).await?;
        let mut call = Call::new(&scripts::KEEP_PLACES);
        for waiter in waiters {
            let names = self.names(&waiter.key)?;
            call = call.key(names.lock()).key(names.queue()).key(names.beats());
        }
        for waiter in waiters {
            call = call.text(waiter.owner);
        }
        reply::kept(&link.call(&call, deadline.at).await?, waiters.len())
    }

    async fn read(&self, link: &Link, key: String, deadline: Instant) -> Result<Inspection, BackendError> {
        let names = self.names(&key)?;
        let call = Call::new(&scripts::INSPECT).key(names.lock()).key(names.queue()).arg(NAMED_WAITERS);
        reply::inspected(key, &link.call(&call, deadline).await?)
    }

    /// Walks through the server's keys; every key that exists throughout is seen, some perhaps twice.
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

    /// The lock's key, unless it is a side key. Without a namespace the server may hold anything: then only our own values are locks.
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
            let call = Call::new(&scripts::PROBE).key(names.lock()).key(names.token()).key(names.queue()).key(names.beats());
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
        self.give_back(release).boxed()
    }

    fn leave(&self, key: Arc<str>, owner: OwnerId, timeout: Duration) -> Reply<'_, ()> {
        self.give_back(Release { key, owner, next: None, timeout }).map(|answer| answer.map(drop)).boxed()
    }

    fn keep_waiting(&self, waiters: Vec<Waiter>, timeout: Duration) -> Reply<'_, Vec<Duration>> {
        let deadline = self.deadline(timeout);
        async move {
            let parts = waiters.chunks(BATCH).map(|part| self.keep_batch(part, deadline));
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
            let call =
                Call::new(&scripts::FORCE_RELEASE).key(names.lock()).key(names.queue()).key(names.beats()).arg(kind).arg(text);
            reply::yes(&self.connector.link(deadline).await?.call(&call, deadline).await?)
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

/// Whole milliseconds, at least one: `PX 0` is an error.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The TTL of a grant, as the server counts it.
fn granted_ttl(acquire: &Acquire) -> Duration {
    Duration::from_millis(millis(acquire.ttl))
}

/// Takes the meaning off the special characters of a pattern.
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
