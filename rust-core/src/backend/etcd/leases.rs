//! The etcd leases that a session's keys live under.
//!
//! Granting and revoking a lease costs the cluster an entry in its log each, so locks share leases: one lease serves all locks with the
//! same TTL in whole seconds, and lives on when they are released. Only a lock that is never renewed has a lease of its own, which ends
//! when the lock is to end whatever becomes of this process.
//!
//! A lease is kept alive by the renewals of the locks under it, and by this room's keeper while somebody waits under it or nobody uses
//! it. One with nothing but holders is not kept: if they are not renewed, it ends. Its life counts from when the last acknowledged
//! keep-alive was *sent*.

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

/// The shortest TTL: servers round shorter ones up, as their elections take that long.
pub(super) const SHORTEST: Duration = Duration::from_secs(2);

/// How many keys share a lease. Its end deletes them one by one, and the whole cluster waits for that.
const MOST_KEYS: usize = 2_000;

/// How long a spare lease without keys is kept: there may be locks with its TTL again.
const SPARE: Duration = Duration::from_secs(600);

/// The share of its TTL that a lease may have spent when a lock is granted under it.
const LITTLE: u32 = 20;

/// The TTL that a lease for `ttl` has: whole seconds, rounded down.
pub(super) fn class(ttl: Duration) -> Duration {
    Duration::from_secs(ttl.as_secs()).max(SHORTEST)
}

/// One lease of etcd's.
pub(super) struct Lease {
    pub(super) id: i64,
    pub(super) class: Duration,
    /// For one lock alone.
    sole: bool,
    state: Mutex<State>,
    /// One keep-alive at a time: whoever waits for its turn may find that the one before was sent late enough.
    keeping: tokio::sync::Mutex<()>,
}

struct State {
    /// When the last acknowledged keep-alive left.
    kept: Instant,
    /// What the server makes of the TTL.
    ttl: Duration,
    over: bool,
    holders: usize,
    waiters: usize,
    /// The keeper is at it.
    tended: bool,
    /// When the last key went.
    spare_since: Instant,
}

impl State {
    fn end(&self) -> Instant {
        self.kept + self.ttl
    }
}

/// What a keep-alive came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The lease lives its TTL from the asked moment, at least.
    Alive,
    /// There is no such lease any more.
    Over,
}

/// A key's place under a lease, counted while it lives.
pub(super) struct Seat {
    pub(super) lease: Arc<Lease>,
    waits: bool,
    pool: Weak<Pool>,
}

impl Seat {
    /// From now on the lease is kept by renewals as far as this key goes.
    pub(super) fn hold(&mut self) {
        if std::mem::take(&mut self.waits) {
            let mut state = self.lease.state.lock();
            state.waiters -= 1;
            state.holders += 1;
        }
    }

    /// True if a key with this TTL may be here.
    pub(super) fn suits(&self, ttl: Duration, renew: bool) -> bool {
        self.lease.class == class(ttl) && self.lease.sole != renew && !self.lease.state.lock().over
    }

    /// True if no other key is under the lease.
    pub(super) fn is_sole(&self) -> bool {
        self.lease.sole
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let pool = self.pool.upgrade();
        let unused = {
            let mut state = self.lease.state.lock();
            if self.waits {
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
        {
            // The keeper takes it over, or ends it.
            pool.changed.notify_one();
        }
    }
}

/// All leases of a session.
pub(super) struct Pool {
    endpoints: Arc<Endpoints>,
    clock: Arc<dyn Clock>,
    op_timeout: Duration,
    leases: Mutex<HashMap<i64, Arc<Lease>>>,
    granting: tokio::sync::Mutex<()>,
    changed: Notify,
    /// Told when a lease ended under somebody who waits.
    on_end: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("leases", &self.leases.lock().len()).finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(
        endpoints: Arc<Endpoints>,
        clock: Arc<dyn Clock>,
        op_timeout: Duration,
        on_end: Box<dyn Fn() + Send + Sync>,
    ) -> Arc<Self> {
        let (leases, granting, changed) = (Mutex::default(), tokio::sync::Mutex::default(), Notify::new());
        Arc::new(Self { endpoints, clock, op_timeout, leases, granting, changed, on_end })
    }

    /// A seat under a lease for `ttl` that has most of its life before it; granted now if there is none.
    pub(super) async fn join(self: &Arc<Self>, ttl: Duration, deadline: Timer) -> Result<Seat, BackendError> {
        let class = class(ttl);
        if let Some(seat) = self.sit(class) {
            return Ok(seat);
        }
        let late = || BackendError::new(Failure::NotSent, "no lease was granted in time");
        let _one_for_all = timeout_at(deadline, self.granting.lock()).await.map_err(|_| late())?;
        match self.sit(class) {
            Some(seat) => Ok(seat),
            None => self.grant(class, false, deadline).await,
        }
    }

    /// A seat under a lease of its own.
    pub(super) async fn join_alone(self: &Arc<Self>, ttl: Duration, deadline: Timer) -> Result<Seat, BackendError> {
        self.grant(class(ttl), true, deadline).await
    }

    /// A seat under a lease that there is. One that is close to its end is left alone: it might not live until the key is there.
    fn sit(self: &Arc<Self>, class: Duration) -> Option<Seat> {
        let now = self.clock.now();
        let leases = self.leases.lock();
        let lease = leases.values().filter(|lease| lease.class == class && !lease.sole).find(|lease| {
            let state = lease.state.lock();
            !state.over && state.end().since(now) >= class / 2 && state.holders + state.waiters < MOST_KEYS
        })?;
        Some(self.seat(lease))
    }

    /// Counted as one who waits until it is known to hold: until then nobody else keeps the lease.
    fn seat(self: &Arc<Self>, lease: &Arc<Lease>) -> Seat {
        let first = {
            let mut state = lease.state.lock();
            state.waiters += 1;
            state.waiters == 1
        };
        if first {
            self.changed.notify_one();
        }
        Seat { lease: lease.clone(), waits: true, pool: Arc::downgrade(self) }
    }

    async fn grant(self: &Arc<Self>, class: Duration, sole: bool, deadline: Timer) -> Result<Seat, BackendError> {
        let seconds = i64::try_from(class.as_secs()).unwrap_or(i64::MAX);
        let kept = self.clock.now();
        // A lease whose answer was lost ends by itself: nothing is ever put under it.
        let granted = self
            .endpoints
            .run(remaining(deadline), move |mut client| async move { client.lease_grant(seconds, None).await })
            .await?
            .value;
        let ttl = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0));
        let state = State { kept, ttl, over: false, holders: 0, waiters: 0, tended: false, spare_since: kept };
        let keeping = tokio::sync::Mutex::default();
        let lease = Arc::new(Lease { id: granted.id(), class, sole, state: Mutex::new(state), keeping });
        let seat = self.seat(&lease);
        self.leases.lock().insert(lease.id, lease);
        Ok(seat)
    }

    /// Sees to it that the life of the lease began at `since` or a little before: not every lock that is taken is worth a keep-alive.
    pub(super) async fn freshen(&self, lease: &Lease, since: Instant, deadline: Timer) -> Result<Kept, BackendError> {
        self.keep(lease, since - lease.class / LITTLE, deadline).await
    }

    /// Sees to it that the lease lives its TTL from `since` on. Those who ask at the same time share a keep-alive.
    pub(super) async fn keep(&self, lease: &Lease, since: Instant, deadline: Timer) -> Result<Kept, BackendError> {
        let late = || BackendError::new(Failure::Unknown, "the lease was not kept in time");
        let _one_at_a_time = timeout_at(deadline, lease.keeping.lock()).await.map_err(|_| late())?;
        {
            let state = lease.state.lock();
            if state.over {
                return Ok(Kept::Over);
            }
            if state.kept >= since {
                return Ok(Kept::Alive);
            }
        }
        // Before the request leaves: whatever the answer takes, no life is counted on that the server does not give.
        let sent = self.clock.now();
        let id = lease.id;
        let alive = self
            .endpoints
            .run(remaining(deadline), move |mut client| async move {
                match client.lease_keep_alive(id).await {
                    Ok(_) => Ok(true),
                    // The answer had a TTL of nothing: definite.
                    Err(ClientError::LeaseKeepAliveError(told)) if told == "lease not found" => Ok(false),
                    Err(error) => Err(error),
                }
            })
            .await?
            .value;
        if !alive {
            self.is_over(lease);
            return Ok(Kept::Over);
        }
        let mut state = lease.state.lock();
        state.kept = state.kept.max(sent);
        Ok(Kept::Alive)
    }

    /// The server does not know this lease any more.
    pub(super) fn is_over(&self, lease: &Lease) {
        let waiters = {
            let mut state = lease.state.lock();
            state.over = true;
            state.waiters
        };
        if self.leases.lock().remove(&lease.id).is_some() && waiters > 0 {
            (self.on_end)();
        }
    }

    /// Keeps the leases that nobody else keeps, and ends those that nobody needs. Never ends by itself.
    ///
    /// # Cancel safety
    /// Dropping it leaves leases to their renewals and to their end.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let now = self.clock.now();
            let leases: Vec<_> = self.leases.lock().values().cloned().collect();
            let mut next = now + SPARE;
            for lease in leases {
                let (care, at) = lease.care(now);
                next = next.min(at);
                if care != Care::None {
                    let pool = self.clone();
                    tokio::spawn(async move { pool.look_after(&lease, care).await });
                }
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = self.clock.sleep_until(next) => {}
            }
        }
    }

    async fn look_after(&self, lease: &Lease, care: Care) {
        let deadline = Timer::now() + self.op_timeout;
        if care == Care::End {
            self.leases.lock().remove(&lease.id);
            if let Err(error) = self.revoke(lease.id, deadline).await {
                tracing::debug!(target: target::ETCD_LEASES, lease = lease.id, %error, "a lease that is not needed any more is left to expire");
            }
            return;
        }
        let since = self.clock.now() - lease.class / 4;
        if let Err(error) = self.keep(lease, since, deadline).await {
            tracing::warn!(target: target::ETCD_LEASES, lease = lease.id, %error, "keeping a lease alive failed, will be tried again");
            self.clock.sleep_until(self.clock.now() + lease.class / 20).await;
        }
        lease.state.lock().tended = false;
        self.changed.notify_one();
    }

    async fn revoke(&self, id: i64, deadline: Timer) -> Result<(), BackendError> {
        let revoke = move |mut client: etcd_client::Client| async move { client.lease_revoke(id).await };
        self.endpoints.run(remaining(deadline), revoke).await.map(drop)
    }

    /// Ends all leases, and with them whatever is still under them.
    pub(super) async fn close(&self, deadline: Timer) {
        let leases: Vec<_> = self.leases.lock().drain().map(|(id, _)| id).collect();
        let revoked = leases.into_iter().map(|id| self.revoke(id, deadline));
        for answer in futures_util::future::join_all(revoked).await {
            if let Err(error) = answer {
                tracing::warn!(target: target::ETCD_LEASES, %error, "a lease could not be revoked, its keys are left to expire");
            }
        }
    }
}

/// What a lease needs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    None,
    Keep,
    End,
}

impl Lease {
    /// How long before `since` its life began, as far as is known here.
    pub(super) fn age(&self, since: Instant) -> Duration {
        since.since(self.state.lock().kept)
    }

    /// What is left of it from `since` on, as far as is known here, up to its TTL.
    pub(super) fn remaining(&self, since: Instant) -> Duration {
        self.state.lock().end().since(since).min(self.class)
    }

    /// What it needs now, and when to look again.
    fn care(&self, now: Instant) -> (Care, Instant) {
        let mut state = self.state.lock();
        let unused = state.holders == 0 && state.waiters == 0;
        if state.tended {
            return (Care::None, now + SPARE);
        }
        if unused && (self.sole || now.since(state.spare_since) >= SPARE) {
            state.tended = true;
            return (Care::End, now + SPARE);
        }
        if state.waiters == 0 && !unused {
            return (Care::None, now + SPARE);
        }
        let due = state.kept + self.class / 3;
        if due > now {
            return (Care::None, due);
        }
        state.tended = true;
        (Care::Keep, now + SPARE)
    }
}

/// What is left until `deadline`.
pub(super) fn remaining(deadline: Timer) -> Duration {
    deadline.saturating_duration_since(Timer::now())
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
