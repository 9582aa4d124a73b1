//! How leases are extended: one keep-alive for all locks under an etcd lease, and a look at whether their keys still exist.

use std::collections::HashMap;
use std::sync::Arc;

use etcd_client::{GetOptions, Txn, TxnOp, TxnOpResponse};
use futures_util::future::{join_all, try_join, try_join_all};
use tokio::time::Instant as Timer;

use super::acquire::LeaseTerms;
use super::attempt::{AttemptState, EtcdAttempt};
use super::leases::{EtcdLease, KeptAlive};
use super::store::EtcdStore;
use crate::backend::{Renew, Renewed};
use crate::clock::Instant;
use crate::error::BackendError;

/// How many keys are read in one request: etcd allows 128 operations.
const MOST_READS: usize = 100;

/// A held key that can stay under its lease, if it still exists.
struct HeldInPlace {
    index: usize,
    queue_key: Vec<u8>,
    created: i64,
    lease: Arc<EtcdLease>,
}

impl EtcdStore {
    /// Extends leases. Meant for a task of its own: it may move keys to other leases.
    pub(super) async fn renew(
        self: Arc<Self>,
        batch: Vec<Renew>,
        since: Instant,
        deadline: Timer,
    ) -> Result<Vec<Renewed>, BackendError> {
        let mut answers = vec![Renewed::Gone; batch.len()];
        let (mut stay, mut move_on) = (Vec::new(), Vec::new());
        for (index, renew) in batch.iter().enumerate() {
            let Some(access) = self.attempts.find(renew.owner) else { continue };
            let attempt = access.wait(deadline).await?;
            match &attempt.state {
                AttemptState::Holding { key } if key.may_stay(renew) => {
                    let queue_key = self.queue(&renew.key).queue_key(renew.owner.session, attempt.key_number);
                    stay.push(HeldInPlace { index, queue_key, created: key.created, lease: key.lease.lease.clone() });
                    self.attempts.finish(renew.owner, attempt);
                }
                AttemptState::Holding { .. } => move_on.push((index, renew, attempt)),
                _ => self.attempts.finish(renew.owner, attempt),
            }
        }
        let store = &*self;
        let moved = try_join_all(move_on.into_iter().map(|(index, renew, mut attempt)| async move {
            let renewed = store.extend_elsewhere(renew, &mut attempt, since, deadline).await;
            store.attempts.finish(renew.owner, attempt);
            Ok::<_, BackendError>((index, renewed?))
        }));
        let (moved, stayed) = try_join(moved, self.extend_in_place(stay, since, deadline)).await?;
        for (index, renewed) in moved.into_iter().chain(stayed) {
            answers[index] = renewed;
        }
        Ok(answers)
    }

    /// Keeps the leases alive, and reads whether the keys still exist: a key can be deleted under a lease that lives on.
    async fn extend_in_place(
        &self,
        held: Vec<HeldInPlace>,
        since: Instant,
        deadline: Timer,
    ) -> Result<Vec<(usize, Renewed)>, BackendError> {
        let leases: HashMap<_, _> = held.iter().map(|held| (held.lease.id, held.lease.clone())).collect();
        let kept = join_all(leases.values().map(|lease| self.pool.keep_alive(lease, since, deadline)));
        let reads = try_join_all(held.chunks(MOST_READS).map(|part| self.read_existence(part, deadline)));
        let (kept, exist) = tokio::join!(kept, reads);
        let kept: HashMap<_, _> = leases.keys().zip(kept).collect();
        let exist = exist?.concat();
        let mut answers = Vec::with_capacity(held.len());
        for (held, exists) in held.iter().zip(exist) {
            let renewed = match kept.get(&held.lease.id) {
                _ if !exists => Renewed::Gone,
                Some(Ok(KeptAlive::Yes)) => Renewed::Extended(held.lease.remaining(since)),
                Some(Err(error)) => return Err(error.clone()),
                Some(Ok(KeptAlive::Over)) | None => Renewed::Gone,
            };
            answers.push((held.index, renewed));
        }
        Ok(answers)
    }

    async fn read_existence(&self, part: &[HeldInPlace], deadline: Timer) -> Result<Vec<bool>, BackendError> {
        let options = GetOptions::new().with_keys_only();
        let gets: Vec<_> = part.iter().map(|held| TxnOp::get(held.queue_key.clone(), Some(options.clone()))).collect();
        let answer = self.read(Txn::new().and_then(gets), deadline).await?;
        let exist = answer.op_responses().into_iter().zip(part).map(|(response, held)| match response {
            TxnOpResponse::Get(own) => own.kvs().first().is_some_and(|own| own.create_revision() == held.created),
            _ => false,
        });
        Ok(exist.collect())
    }

    /// Extends one lease to another TTL: its key goes under an etcd lease with that TTL.
    async fn extend_elsewhere(
        &self,
        renew: &Renew,
        attempt: &mut EtcdAttempt,
        since: Instant,
        deadline: Timer,
    ) -> Result<Renewed, BackendError> {
        self.stop_moves(attempt, deadline).await?;
        // A lock that is never renewed by the engine stays so, whatever TTL its holder sets.
        let is_exclusive = attempt.key().is_some_and(|key| key.lease.is_exclusive());
        let terms = LeaseTerms { ttl: renew.ttl, renew: !is_exclusive, note: None };
        if !self.move_key(&self.queue(&renew.key), renew.owner, attempt, &terms, deadline).await? {
            return Ok(Renewed::Gone);
        }
        let Some(key) = attempt.key() else { return Ok(Renewed::Gone) };
        let lease = &key.lease.lease;
        Ok(match self.pool.keep_alive(lease, since, deadline).await? {
            KeptAlive::Yes => Renewed::Extended(lease.remaining(since)),
            KeptAlive::Over => Renewed::Gone,
        })
    }
}
