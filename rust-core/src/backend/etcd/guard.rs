//! The guard against requests that are executed late.
//!
//! A request can be stuck in a paused server and be executed long after its client gave it up: for example when its lock was granted and
//! released through another server. It would then make a queue key that nobody wants, under a lease that is kept alive. So every request
//! that makes a key compares the revision of the session's guard key. After a request without an answer, one transaction deletes the queue
//! key and moves the guard on, which makes all older requests void. That transaction compares the guard as well, so a late copy of it
//! deletes nothing.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, PutOptions, ResponseHeader, Txn, TxnOp};
use parking_lot::Mutex;
use tokio::time::{Instant as Timer, timeout_at};

use super::answer::names_a_lease_that_is_gone;
use super::leases::{LeasePool, LeaseUse, remaining};
use super::names::GuardRevision;
use super::servers::endpoints::Endpoints;
use crate::error::{BackendError, Failure};

/// The TTL of the lease that the guard's key is under.
const TTL: Duration = Duration::from_secs(60);

/// A request is given up after it met a changed state this many times.
pub(super) const ROUNDS: usize = 10;

/// A session's guard.
pub(super) struct Guard {
    key: Arc<[u8]>,
    endpoints: Arc<Endpoints>,
    pool: Arc<LeasePool>,
    state: Mutex<GuardState>,
    making: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct GuardState {
    /// The revision to compare; `None` if it is not known.
    revision: Option<i64>,
    lease: Option<LeaseUse>,
}

impl Guard {
    pub(super) fn new(key: Vec<u8>, endpoints: Arc<Endpoints>, pool: Arc<LeasePool>) -> Self {
        Self { key: key.into(), endpoints, pool, state: Mutex::default(), making: tokio::sync::Mutex::default() }
    }

    /// The guard as this session knows it. The first use makes its key.
    pub(super) async fn current(&self, deadline: Timer) -> Result<GuardRevision, BackendError> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let late = || BackendError::new(Failure::NotSent, "the session's guard was not made in time");
        let _one_for_all = timeout_at(deadline, self.making.lock()).await.map_err(|_| late())?;
        match self.known() {
            Some(known) => Ok(known),
            None => self.make(deadline).await,
        }
    }

    /// The guard, if its key was made and no request has found another revision since.
    pub(super) fn known(&self) -> Option<GuardRevision> {
        let revision = self.state.lock().revision?;
        Some(GuardRevision { key: self.key.clone(), revision })
    }

    async fn make(&self, deadline: Timer) -> Result<GuardRevision, BackendError> {
        // A second time if the lease has ended.
        let mut again = true;
        loop {
            let (put, lease) = self.put(deadline).await?;
            let txn = Txn::new().and_then(vec![put]);
            let request = |mut client: Client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            };
            match self.endpoints.run(remaining(deadline), request).await {
                Ok(answer) => return Ok(self.moved_to(answer.value.header().map_or(0, ResponseHeader::revision))),
                // Even with an unknown outcome: the guard cannot be put under this lease again.
                Err(error) if again && names_a_lease_that_is_gone(&error) => {
                    again = false;
                    self.lease_is_over(lease);
                }
                // The caller's own request was not sent.
                Err(error) if error.failure == Failure::Unknown => return Err(BackendError { failure: Failure::NotSent, ..error }),
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves the guard on: older requests that were not executed yet never will be.
    pub(super) async fn move_on(&self, deadline: Timer) -> Result<(), BackendError> {
        self.make(deadline).await.map(drop)
    }

    /// An operation that puts the guard's key, and the id of the lease it is put under. A transaction with it moves the guard on: see
    /// [`Self::moved_to`].
    pub(super) async fn put(&self, deadline: Timer) -> Result<(TxnOp, i64), BackendError> {
        let lease = self.state.lock().lease.as_ref().map(LeaseUse::id);
        let lease = if let Some(lease) = lease {
            lease
        } else {
            let lease = self.pool.join(TTL, deadline).await?;
            self.state.lock().lease.insert(lease).id()
        };
        Ok((TxnOp::put(&*self.key, "", Some(PutOptions::new().with_lease(lease))), lease))
    }

    /// Notes that a transaction with [`Self::put`] was executed at this revision.
    pub(super) fn moved_to(&self, revision: i64) -> GuardRevision {
        let mut state = self.state.lock();
        // Answers can overtake each other; the later revision counts.
        let revision = state.revision.map_or(revision, |known| known.max(revision));
        state.revision = Some(revision);
        GuardRevision { key: self.key.clone(), revision }
    }

    /// Notes that the server knows another revision than this one, or none: a request of ours was executed late, or the guard's lease has
    /// ended.
    pub(super) fn forget(&self, guard: &GuardRevision) {
        let mut state = self.state.lock();
        if state.revision == Some(guard.revision) {
            state.revision = None;
        }
    }

    /// Notes that the lease of this id has ended, unless the guard's key was put under another one meanwhile.
    pub(super) fn lease_is_over(&self, lease: i64) {
        let mut state = self.state.lock();
        if let Some(ended) = state.lease.take_if(|used| used.id() == lease) {
            self.pool.is_over(&ended.lease);
            state.revision = None;
        }
    }
}

/// The error of a request that found the guard moved in each of its rounds.
pub(super) fn guard_too_fast() -> BackendError {
    BackendError::new(Failure::Unknown, "the session's guard changed faster than it could be read")
}
