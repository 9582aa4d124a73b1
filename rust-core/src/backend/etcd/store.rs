//! What the requests of one client share: its servers, batches, leases and attempts.
//!
//! `acquire`, `release`, `renew` and `inspect` each add the requests of their name to [`EtcdStore`].

use std::sync::Arc;

use etcd_client::Txn;
use tokio::time::Instant as Timer;
use tokio_util::sync::CancellationToken;

use super::answer::TxnAnswer;
use super::attempts::Attempts;
use super::batch::Batches;
use super::guard::Guard;
use super::guarded_deletions::GuardedDeletions;
use super::leases::LeasePool;
use super::names::{self, LockQueue};
use super::recent::RecentLocks;
use super::servers::address::EtcdAddress;
use super::servers::endpoints::Endpoints;
use super::watch::Watches;
use crate::backend::{Context, Hint};
use crate::error::BackendError;

/// The shared parts of one client.
pub(super) struct EtcdStore {
    pub(super) context: Context,
    pub(super) root: String,
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) pool: Arc<LeasePool>,
    pub(super) guard: Arc<Guard>,
    pub(super) watches: Arc<Watches>,
    pub(super) writes: Arc<Batches>,
    pub(super) reads: Arc<Batches>,
    pub(super) guarded_deletions: Arc<GuardedDeletions>,
    pub(super) attempts: Attempts,
    /// Locks that others held. A grant removes its lock.
    pub(super) recently_held: RecentLocks,
    /// Locks that others held or waited for. A grant does not remove its lock, as others may be waiting for it.
    pub(super) recently_contended: RecentLocks,
    pub(super) closed: CancellationToken,
}

impl EtcdStore {
    /// Connects to nothing.
    pub(super) fn new(address: EtcdAddress, context: Context) -> Self {
        let root = names::root(address.prefix(), &context.namespace);
        let endpoints = Arc::new(Endpoints::new(address, context.connect_timeout));
        let on_end = {
            let on_hint = context.on_hint.clone();
            Box::new(move || on_hint(Hint::All))
        };
        let pool = LeasePool::new(endpoints.clone(), context.clock.clone(), context.op_timeout, on_end);
        let guard = Arc::new(Guard::new(names::guard(&root, context.session), endpoints.clone(), pool.clone()));
        let writes = Arc::new(Batches::new(endpoints.clone()));
        Self {
            reads: Arc::new(Batches::of_reads(endpoints.clone())),
            guarded_deletions: Arc::new(GuardedDeletions::new(writes.clone(), guard.clone())),
            watches: Watches::new(endpoints.clone(), context.clone()),
            attempts: Attempts::default(),
            recently_held: RecentLocks::default(),
            recently_contended: RecentLocks::default(),
            closed: CancellationToken::new(),
            context,
            root,
            endpoints,
            pool,
            guard,
            writes,
        }
    }

    /// The queue of the lock `key`.
    pub(super) fn queue(&self, key: &str) -> LockQueue {
        LockQueue::of(&self.root, key)
    }

    /// Executes a transaction that only reads: it sees the latest commit, and costs the cluster no entry in its log.
    pub(super) async fn read(&self, txn: Txn, deadline: Timer) -> Result<TxnAnswer, BackendError> {
        self.reads.execute(|| txn.clone(), deadline).await
    }
}
