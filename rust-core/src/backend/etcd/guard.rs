//! The guard against requests that are executed late.
//!
//! A request can be stuck in a server that was paused, and be executed when everybody has forgotten it: after its lock was granted and
//! released by way of another server, say. It would then make a key that nobody wants under a lease that is kept alive. So every request
//! that makes a key compares the revision of the session's guard key, and after a request without an answer the guard is moved on in the
//! same transaction that deletes the key: what is older than that can delete nothing and make nothing any more. That one compares the
//! guard as well, so a copy of it that is executed late meets a guard that has moved on, and deletes nothing.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, PutOptions, ResponseHeader, Txn, TxnOp};
use parking_lot::Mutex;
use tokio::time::{Instant as Timer, timeout_at};

use super::leases::{Pool, Seat, remaining};
use super::request::{self, Guarded};
use super::servers::endpoints::Endpoints;
use crate::error::{BackendError, Failure};

/// The TTL of the lease that the guard's key is under.
const TTL: Duration = Duration::from_secs(60);

/// A session's guard.
pub(super) struct Guard {
    key: Arc<[u8]>,
    endpoints: Arc<Endpoints>,
    pool: Arc<Pool>,
    state: Mutex<State>,
    making: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// The revision that counts; `None` if it is not known.
    revision: Option<i64>,
    seat: Option<Seat>,
}

impl Guard {
    pub(super) fn new(key: Vec<u8>, endpoints: Arc<Endpoints>, pool: Arc<Pool>) -> Self {
        Self { key: key.into(), endpoints, pool, state: Mutex::default(), making: tokio::sync::Mutex::default() }
    }

    /// The guard as far as this session knows. Made at first use.
    pub(super) async fn current(&self, deadline: Timer) -> Result<Guarded, BackendError> {
        if let Some(guarded) = self.known() {
            return Ok(guarded);
        }
        let late = || BackendError::new(Failure::NotSent, "the session's guard was not made in time");
        let _one_for_all = timeout_at(deadline, self.making.lock()).await.map_err(|_| late())?;
        match self.known() {
            Some(guarded) => Ok(guarded),
            None => self.make(deadline).await,
        }
    }

    /// The guard, if it was made and nobody has found another one since.
    pub(super) fn known(&self) -> Option<Guarded> {
        let revision = self.state.lock().revision?;
        Some(Guarded { key: self.key.clone(), revision })
    }

    async fn make(&self, deadline: Timer) -> Result<Guarded, BackendError> {
        // Twice at most: the lease may have ended.
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
                // Whatever another server makes of it: no later one may be put under that lease.
                Err(error) if again && request::names_a_lease_that_is_gone(&error) => {
                    again = false;
                    self.unseat(lease);
                }
                // Nothing of the caller's own was sent.
                Err(error) if error.failure == Failure::Unknown => return Err(BackendError { failure: Failure::NotSent, ..error }),
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves the guard on: what was asked before this and is not executed yet will never be.
    pub(super) async fn bump(&self, deadline: Timer) -> Result<(), BackendError> {
        self.make(deadline).await.map(drop)
    }

    /// Puts the guard's key, under the lease of this id. In a transaction it moves the guard on: see [`Self::moved_to`].
    pub(super) async fn put(&self, deadline: Timer) -> Result<(TxnOp, i64), BackendError> {
        let lease = self.state.lock().seat.as_ref().map(|seat| seat.lease.id);
        let lease = if let Some(lease) = lease {
            lease
        } else {
            let seat = self.pool.join(TTL, deadline).await?;
            self.state.lock().seat.insert(seat).lease.id
        };
        Ok((TxnOp::put(&*self.key, "", Some(PutOptions::new().with_lease(lease))), lease))
    }

    /// A transaction with [`Self::put`] in it was executed at this revision.
    pub(super) fn moved_to(&self, revision: i64) -> Guarded {
        let mut state = self.state.lock();
        // Of two, the later one counts, in whatever order their answers come.
        let revision = state.revision.map_or(revision, |known| known.max(revision));
        state.revision = Some(revision);
        Guarded { key: self.key.clone(), revision }
    }

    /// The server knows another revision than this one, or none: a request of ours was executed late, or the guard's lease has ended.
    pub(super) fn forget(&self, guarded: &Guarded) {
        let mut state = self.state.lock();
        if state.revision == Some(guarded.revision) {
            state.revision = None;
        }
    }

    /// This lease, which the guard's key was put under, has ended. Another one may have been found meanwhile.
    pub(super) fn unseat(&self, lease: i64) {
        let mut state = self.state.lock();
        if let Some(seat) = state.seat.take_if(|seat| seat.lease.id == lease) {
            self.pool.is_over(&seat.lease);
            state.revision = None;
        }
    }
}

/// What compares the guard was tried again and again, and others moved it each time.
pub(super) fn guard_too_fast() -> BackendError {
    BackendError::new(Failure::Unknown, "the session's guard changed faster than it could be read")
}
