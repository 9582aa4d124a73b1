//! How leases are extended: one keep-alive for all locks under a lease of etcd's, and a look at whether their keys are still there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{GetOptions, Txn, TxnOp, TxnOpResponse};
use futures_util::future::{join_all, try_join, try_join_all};
use tokio::time::Instant as Timer;

use super::Store;
use super::attempts::Attempt;
use super::leases::{Kept, Lease, Seat, class};
use super::names::Queue;
use crate::backend::{Acquire, Renew, Renewed};
use crate::clock::Instant;
use crate::error::BackendError;

/// How many keys are looked at in one request: etcd allows 128 operations.
const LOOKS: usize = 100;

/// A lease whose key may be where it is, as long as it is there.
struct Stays {
    index: usize,
    place: Vec<u8>,
    created: i64,
    lease: Arc<Lease>,
}

impl Store {
    /// Extends leases. Meant for a task of its own: keys may move to other leases in it.
    pub(super) async fn renew(
        self: Arc<Self>,
        batch: Vec<Renew>,
        since: Instant,
        deadline: Timer,
    ) -> Result<Vec<Renewed>, BackendError> {
        let mut answers = vec![Renewed::Gone; batch.len()];
        let (mut stay, mut move_on) = (Vec::new(), Vec::new());
        for (index, renew) in batch.iter().enumerate() {
            let Some(turned) = self.attempts.find(renew.owner) else { continue };
            let turn = turned.wait(deadline).await?;
            match (turn.created.filter(|_| turn.granted), turn.seat.as_ref().filter(|_| may_stay(&turn, renew))) {
                (Some(created), Some(seat)) => {
                    let place = Queue::of(&self.root, &renew.key).place(renew.owner.session, turn.chair);
                    stay.push(Stays { index, place, created, lease: seat.lease.clone() });
                    self.attempts.end(renew.owner, turn);
                }
                (Some(created), None) => move_on.push((index, renew, created, turn)),
                (None, _) => self.attempts.end(renew.owner, turn),
            }
        }
        let store = &*self;
        let moved = try_join_all(move_on.into_iter().map(|(index, renew, created, mut turn)| async move {
            let renewed = store.extend(renew, created, &mut turn, since, deadline).await;
            store.attempts.end(renew.owner, turn);
            Ok::<_, BackendError>((index, renewed?))
        }));
        let (moved, stayed) = try_join(moved, self.keep_all(stay, since, deadline)).await?;
        for (index, renewed) in moved.into_iter().chain(stayed) {
            answers[index] = renewed;
        }
        Ok(answers)
    }

    /// Keeps leases alive, and looks at whether the keys are still there: they may have been taken away under a lease that lives on.
    async fn keep_all(&self, stay: Vec<Stays>, since: Instant, deadline: Timer) -> Result<Vec<(usize, Renewed)>, BackendError> {
        let leases: HashMap<_, _> = stay.iter().map(|stays| (stays.lease.id, stays.lease.clone())).collect();
        let kept = join_all(leases.values().map(|lease| self.pool.keep(lease, since, deadline)));
        let looks = try_join_all(stay.chunks(LOOKS).map(|part| self.are_there(part, deadline)));
        let (kept, there) = tokio::join!(kept, looks);
        let kept: HashMap<_, _> = leases.keys().zip(kept).collect();
        let there = there?.concat();
        let mut answers = Vec::with_capacity(stay.len());
        for (stays, there) in stay.iter().zip(there) {
            let renewed = match kept.get(&stays.lease.id) {
                _ if !there => Renewed::Gone,
                Some(Ok(Kept::Alive)) => Renewed::Extended(stays.lease.remaining(since)),
                Some(Err(error)) => return Err(error.clone()),
                Some(Ok(Kept::Over)) | None => Renewed::Gone,
            };
            answers.push((stays.index, renewed));
        }
        Ok(answers)
    }

    async fn are_there(&self, part: &[Stays], deadline: Timer) -> Result<Vec<bool>, BackendError> {
        let options = GetOptions::new().with_keys_only();
        let gets: Vec<_> = part.iter().map(|stays| TxnOp::get(stays.place.clone(), Some(options.clone()))).collect();
        let answer = self.read(Txn::new().and_then(gets), deadline).await?;
        let there = answer.op_responses().into_iter().zip(part).map(|(response, stays)| match response {
            TxnOpResponse::Get(own) => own.kvs().first().is_some_and(|own| own.create_revision() == stays.created),
            _ => false,
        });
        Ok(there.collect())
    }

    /// Gives one lease another TTL: its key goes under a lease that has it.
    async fn extend(
        &self,
        renew: &Renew,
        created: i64,
        attempt: &mut Attempt,
        since: Instant,
        deadline: Timer,
    ) -> Result<Renewed, BackendError> {
        let queue = Queue::of(&self.root, &renew.key);
        self.settle(attempt, deadline).await?;
        let sole = attempt.seat.as_ref().is_some_and(Seat::is_sole);
        let terms = Acquire {
            key: renew.key.clone(),
            owner: renew.owner,
            ttl: renew.ttl,
            renew: !sole,
            fair: true,
            enqueue: true,
            note: attempt.note.clone(),
            floor: 0,
            timeout: Duration::ZERO,
        };
        if !self.rehang(&queue, attempt, &terms, created, false, deadline).await? {
            return Ok(Renewed::Gone);
        }
        let Some(seat) = &attempt.seat else { return Ok(Renewed::Gone) };
        Ok(match self.pool.keep(&seat.lease, since, deadline).await? {
            Kept::Alive => Renewed::Extended(seat.lease.remaining(since)),
            Kept::Over => Renewed::Gone,
        })
    }
}

/// True if the key need not go elsewhere: a plain renewal shortens nothing.
fn may_stay(attempt: &Attempt, renew: &Renew) -> bool {
    let fits = |seat: &Seat| {
        let (has, wants) = (seat.lease.class, class(renew.ttl));
        has == wants || (has > wants && !renew.exact)
    };
    attempt.elsewhere.is_empty() && attempt.seat.as_ref().is_some_and(fits)
}
