//! The etcd leases that a session's keys live under.
//!
//! Granting and revoking a lease costs the cluster an entry in its log each, so locks share leases: one lease serves all locks with the
//! same TTL in whole seconds, and outlives their release. Only a lock that is never renewed has an exclusive lease, which ends when the
//! lock is to end, whatever becomes of this process (ADR 5).
//!
//! The renewals of the locks under a lease keep it alive. While somebody waits under it, or nobody uses it, [`LeasePool::run`] keeps it
//! alive instead. A lease with holders only is not kept by the pool: if the engine stops renewing, it ends. The life of a lease counts
//! from the moment when its last acknowledged keep-alive was *sent*.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use etcd_client::Error as ClientError;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant as Timer, timeout_at};

use super::servers::endpoints::Endpoints;
use crate::clock::{Clock, Instant};
use crate::error::{BackendError, Failure};
use crate::observe::logs::target;

/// The shortest TTL. Servers round shorter ones up to the length of their elections.
pub(super) const SHORTEST: Duration = Duration::from_secs(2);

/// This many keys share a lease at most. Its end deletes them one by one, and the whole cluster waits for that.
const MOST_KEYS: usize = 2_000;

/// How long a lease without keys is kept for later locks with its TTL.
const SPARE: Duration = Duration::from_secs(600);

/// A lock may be granted under a lease that has spent this share of its TTL: one in so many.
const FRESH_SHARE: u32 = 20;

/// The TTL of a lease for locks with `ttl`: whole seconds, rounded down.
pub(super) fn lease_ttl(ttl: Duration) -> Duration {
    Duration::from_secs(ttl.as_secs()).max(SHORTEST)
}

/// One lease in etcd.
pub(super) struct EtcdLease {
    pub(super) id: i64,
    pub(super) ttl: Duration,
    /// For one lock only.
    exclusive: bool,
    state: Mutex<EtcdLeaseState>,
    /// Held during a keep-alive: a caller that waited for it may find that the previous keep-alive was sent late enough.
    keeping: tokio::sync::Mutex<()>,
}

struct EtcdLeaseState {
    /// When the last acknowledged keep-alive was sent.
    kept: Instant,
    /// The TTL that the server gave.
    server_ttl: Duration,
    over: bool,
    holders: usize,
    waiters: usize,
    /// A task of the pool keeps it alive or ends it just now.
    in_care: bool,
    /// When the last key left.
    spare_since: Instant,
}

impl EtcdLeaseState {
    fn end(&self) -> Instant {
        self.kept + self.server_ttl
    }
}

/// The result of a keep-alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeptAlive {
    /// The lease lives for its TTL from the required moment, at least.
    Yes,
    /// The lease does not exist any more.
    Over,
}

/// The use of a lease by one key, counted until it is dropped.
pub(super) struct LeaseUse {
    pub(super) lease: Arc<EtcdLease>,
    by_waiter: bool,
    pool: Weak<LeasePool>,
}

impl LeaseUse {
    pub(super) fn id(&self) -> i64 {
        self.lease.id
    }

    /// From now on the holder's renewals keep the lease alive, as far as this key is concerned.
    pub(super) fn hold(&mut self) {
        if std::mem::take(&mut self.by_waiter) {
            let mut state = self.lease.state.lock();
            state.waiters -= 1;
            state.holders += 1;
        }
    }

    /// True if the key of a lock with this TTL may be under the lease.
    pub(super) fn suits(&self, ttl: Duration, renew: bool) -> bool {
        self.lease.ttl == lease_ttl(ttl) && self.lease.exclusive != renew && !self.lease.state.lock().over
    }

    /// True if no other key is under the lease.
    pub(super) fn is_exclusive(&self) -> bool {
        self.lease.exclusive
    }
}

impl Drop for LeaseUse {
    fn drop(&mut self) {
        let pool = self.pool.upgrade();
        let unused = {
            let mut state = self.lease.state.lock();
            if self.by_waiter {
                state.waiters -= 1;
            } else {
                state.holders -= 1;
            }
            if let Some(pool) = &pool {
                state.spare_since = pool.clock.now();
            }
            state.holders == 0 && state.waiters == 0
        };
        if let Some(pool) = pool
            && unused
            && self.lease.exclusive
        {
            // The pool ends it at once. Shared leases it looks at by itself.
            pool.changed.notify_one();
        }
    }
}

/// All leases of a session.
pub(super) struct LeasePool {
    endpoints: Arc<Endpoints>,
    clock: Arc<dyn Clock>,
    op_timeout: Duration,
    leases: Mutex<HashMap<i64, Arc<EtcdLease>>>,
    granting: tokio::sync::Mutex<()>,
    changed: Notify,
    /// Called when a lease ended under a waiter.
    on_end: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for LeasePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasePool").field("leases", &self.leases.lock().len()).finish_non_exhaustive()
    }
}

impl LeasePool {
    pub(super) fn new(
        endpoints: Arc<Endpoints>,
        clock: Arc<dyn Clock>,
        op_timeout: Duration,
        on_end: Box<dyn Fn() + Send + Sync>,
    ) -> Arc<Self> {
        let (leases, granting, changed) = (Mutex::default(), tokio::sync::Mutex::default(), Notify::new());
        Arc::new(Self { endpoints, clock, op_timeout, leases, granting, changed, on_end })
    }

    /// Joins a shared lease for `ttl` that has most of its life left; grants one if there is none.
    pub(super) async fn join(self: &Arc<Self>, ttl: Duration, deadline: Timer) -> Result<LeaseUse, BackendError> {
        let ttl = lease_ttl(ttl);
        if let Some(joined) = self.join_existing(ttl) {
            return Ok(joined);
        }
        let late = || BackendError::new(Failure::NotSent, "no lease was granted in time");
        let _one_for_all = timeout_at(deadline, self.granting.lock()).await.map_err(|_| late())?;
        match self.join_existing(ttl) {
            Some(joined) => Ok(joined),
            None => self.grant(ttl, false, deadline).await,
        }
    }

    /// Grants a lease for one lock.
    pub(super) async fn join_exclusive(self: &Arc<Self>, ttl: Duration, deadline: Timer) -> Result<LeaseUse, BackendError> {
        self.grant(lease_ttl(ttl), true, deadline).await
    }

    /// Joins an existing lease, unless less than half its life is left: it might expire before the key is written.
    fn join_existing(self: &Arc<Self>, ttl: Duration) -> Option<LeaseUse> {
        let now = self.clock.now();
        let leases = self.leases.lock();
        let lease = leases.values().filter(|lease| lease.ttl == ttl && !lease.exclusive).find(|lease| {
            let mut state = lease.state.lock();
            let suits = !state.over && state.end().since(now) >= ttl / 2 && state.holders + state.waiters < MOST_KEYS;
            // Counted at once, before the pool can find it unused.
            state.waiters += usize::from(suits);
            suits
        })?;
        Some(self.use_of(lease))
    }

    /// The use by a key that is counted already: as a waiter's until it is known to hold, since until then only the pool keeps its lease alive.
    fn use_of(self: &Arc<Self>, lease: &Arc<EtcdLease>) -> LeaseUse {
        LeaseUse { lease: lease.clone(), by_waiter: true, pool: Arc::downgrade(self) }
    }

    async fn grant(self: &Arc<Self>, ttl: Duration, exclusive: bool, deadline: Timer) -> Result<LeaseUse, BackendError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let kept = self.clock.now();
        // If the answer is lost the lease ends by itself: nothing is ever put under it.
        let granted = self
            .endpoints
            .run(remaining(deadline), move |mut client| async move { client.lease_grant(seconds, None).await })
            .await?
            .value;
        let server_ttl = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0));
        let state = EtcdLeaseState { kept, server_ttl, over: false, holders: 0, waiters: 1, in_care: false, spare_since: kept };
        let keeping = tokio::sync::Mutex::default();
        let lease = Arc::new(EtcdLease { id: granted.id(), ttl, exclusive, state: Mutex::new(state), keeping });
        let joined = self.use_of(&lease);
        self.leases.lock().insert(lease.id, lease);
        self.changed.notify_one();
        Ok(joined)
    }

    /// Makes sure that the life of the lease began at `since` or a little before: a keep-alive for each acquire would cost too much.
    pub(super) async fn freshen(&self, lease: &EtcdLease, since: Instant, deadline: Timer) -> Result<KeptAlive, BackendError> {
        self.keep_alive(lease, since - lease.ttl / FRESH_SHARE, deadline).await
    }

    /// Makes sure that the lease lives for its TTL from `since` on. Callers at the same time share a keep-alive.
    pub(super) async fn keep_alive(&self, lease: &EtcdLease, since: Instant, deadline: Timer) -> Result<KeptAlive, BackendError> {
        let late = || BackendError::new(Failure::Unknown, "the lease was not kept in time");
        let _one_at_a_time = timeout_at(deadline, lease.keeping.lock()).await.map_err(|_| late())?;
        {
            let state = lease.state.lock();
            if state.over {
                return Ok(KeptAlive::Over);
            }
            if state.kept >= since {
                return Ok(KeptAlive::Yes);
            }
        }
        // Read before the request leaves, so that the life counted here is never longer than the server's.
        let sent = self.clock.now();
        let id = lease.id;
        let alive = self
            .endpoints
            .run(remaining(deadline), move |mut client| async move {
                match client.lease_keep_alive(id).await {
                    Ok(_) => Ok(true),
                    // The client library says this for an answer with a TTL of zero, which is definite.
                    Err(ClientError::LeaseKeepAliveError(message)) if message == "lease not found" => Ok(false),
                    Err(error) => Err(error),
                }
            })
            .await?
            .value;
        if !alive {
            self.is_over(lease);
            return Ok(KeptAlive::Over);
        }
        let mut state = lease.state.lock();
        state.kept = state.kept.max(sent);
        Ok(KeptAlive::Yes)
    }

    /// Notes that the server does not know this lease any more.
    pub(super) fn is_over(&self, lease: &EtcdLease) {
        let waiters = {
            let mut state = lease.state.lock();
            state.over = true;
            state.waiters
        };
        if self.leases.lock().remove(&lease.id).is_some() && waiters > 0 {
            (self.on_end)();
        }
    }

    /// Keeps the leases that nobody else keeps, and ends those that nobody needs. Runs until it is dropped.
    ///
    /// # Cancel safety
    /// When it is dropped, leases live as long as renewals keep them.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let now = self.clock.now();
            let leases: Vec<_> = self.leases.lock().values().cloned().collect();
            let mut next = now + SPARE;
            for lease in leases {
                let (upkeep, at) = lease.upkeep(now);
                next = next.min(at);
                if upkeep != Upkeep::None {
                    let pool = self.clone();
                    tokio::spawn(async move { pool.take_care(&lease, upkeep).await });
                }
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = self.clock.sleep_until(next) => {}
            }
        }
    }

    async fn take_care(&self, lease: &EtcdLease, upkeep: Upkeep) {
        let deadline = Timer::now() + self.op_timeout;
        if upkeep == Upkeep::End {
            self.leases.lock().remove(&lease.id);
            if let Err(error) = self.revoke(lease.id, deadline).await {
                tracing::debug!(target: target::ETCD_LEASES, lease = lease.id, %error, "could not revoke an unused lease, it will expire");
            }
            return;
        }
        let since = self.clock.now() - lease.ttl / 4;
        if let Err(error) = self.keep_alive(lease, since, deadline).await {
            tracing::warn!(target: target::ETCD_LEASES, lease = lease.id, %error, "could not keep a lease alive, will try again");
            self.clock.sleep_until(self.clock.now() + lease.ttl / 20).await;
        }
        lease.state.lock().in_care = false;
        self.changed.notify_one();
    }

    async fn revoke(&self, id: i64, deadline: Timer) -> Result<(), BackendError> {
        let revoke = move |mut client: etcd_client::Client| async move { client.lease_revoke(id).await };
        self.endpoints.run(remaining(deadline), revoke).await.map(drop)
    }

    /// Revokes all leases, which deletes the keys that are still under them.
    pub(super) async fn close(&self, deadline: Timer) {
        let leases: Vec<_> = self.leases.lock().drain().map(|(id, _)| id).collect();
        let revoked = leases.into_iter().map(|id| self.revoke(id, deadline));
        for answer in futures_util::future::join_all(revoked).await {
            if let Err(error) = answer {
                tracing::warn!(target: target::ETCD_LEASES, %error, "could not revoke a lease, its keys will expire");
            }
        }
    }
}

/// What the pool has to do for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upkeep {
    None,
    KeepAlive,
    End,
}

impl EtcdLease {
    /// How long before `since` its life began, as far as this session knows.
    pub(super) fn age(&self, since: Instant) -> Duration {
        since.since(self.state.lock().kept)
    }

    /// How long it lives from `since` on, as far as this session knows; at most its TTL.
    pub(super) fn remaining(&self, since: Instant) -> Duration {
        self.state.lock().end().since(since).min(self.ttl)
    }

    /// What the pool has to do for it now, and when to look again.
    fn upkeep(&self, now: Instant) -> (Upkeep, Instant) {
        let mut state = self.state.lock();
        let unused = state.holders == 0 && state.waiters == 0;
        if state.in_care {
            return (Upkeep::None, now + SPARE);
        }
        if unused && (self.exclusive || now.since(state.spare_since) >= SPARE) {
            (state.in_care, state.over) = (true, true);
            return (Upkeep::End, now + SPARE);
        }
        let due = state.kept + self.ttl / 3;
        if state.waiters == 0 && !unused {
            // Its holders' renewals keep it. Nobody tells the pool when the last holder leaves, as that would wake the engine for each release.
            let at = if self.exclusive { now + SPARE } else { due.max(now + self.ttl / 20) };
            return (Upkeep::None, at);
        }
        if due > now {
            return (Upkeep::None, due);
        }
        state.in_care = true;
        (Upkeep::KeepAlive, now + SPARE)
    }
}

/// The time left until `deadline`.
pub(super) fn remaining(deadline: Timer) -> Duration {
    deadline.saturating_duration_since(Timer::now())
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
