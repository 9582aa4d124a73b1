//! How an attempt gets a lock: it makes its queue key once, and looks at it again when something has changed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant as Timer;

use super::answer::{Ahead, KeyAnswer, LookAnswer, MoveAnswer, TxnAnswer, first_holder, is_lease_gone};
use super::attempt::{EtcdAttempt, QueueKey};
use super::attempts::AttemptAccess;
use super::guard::{ROUNDS, guard_too_fast};
use super::leases::{KeptAlive, LeaseUse, lease_ttl};
use super::names::{self, GuardRevision, LockQueue};
use super::request::{self, KeyRequest, Step};
use super::store::EtcdStore;
use crate::backend::{Acquire, Acquired, Grant, Waiting};
use crate::clock::Instant;
use crate::error::{BackendError, Failure};
use crate::fencing::{Token, is_token};
use crate::holder::Holder;
use crate::owner::OwnerId;

/// One call for a lock.
pub(super) struct AcquireCall {
    pub(super) queue: LockQueue,
    pub(super) acquire: Acquire,
    /// When it was made: the life of a grant counts from here.
    pub(super) since: Instant,
    pub(super) deadline: Timer,
}

impl AcquireCall {
    pub(super) fn owner(&self) -> OwnerId {
        self.acquire.owner
    }

    fn queue_key(&self, attempt: &EtcdAttempt) -> Vec<u8> {
        self.queue.queue_key(self.acquire.owner.session, attempt.key_number)
    }
}

/// What a request for a queue key was made with.
pub(super) struct PreparedRequest {
    guard: GuardRevision,
    pub(super) lease: LeaseUse,
}

/// What a queue key is to be under, and to say.
pub(super) struct LeaseTerms {
    pub(super) ttl: Duration,
    /// False: the key gets an exclusive lease.
    pub(super) renew: bool,
    /// A new note for the key's value; `None` leaves the value as it is.
    pub(super) note: Option<Arc<str>>,
}

impl EtcdStore {
    /// Asks for a lock. Meant for a task of its own: every request is followed to its answer.
    pub(super) async fn acquire(self: Arc<Self>, call: AcquireCall, access: AttemptAccess) -> Result<Acquired, BackendError> {
        let mut attempt = access.wait(call.deadline).await?;
        let acquired = self.get(&call, &mut attempt).await.map_err(|error| attempt.judge(error));
        self.attempts.finish(call.owner(), attempt);
        acquired
    }

    pub(super) async fn get(&self, call: &AcquireCall, attempt: &mut EtcdAttempt) -> Result<Acquired, BackendError> {
        if attempt.is_withdrawing() {
            // A late deletion could remove the key we are about to be granted, so finish it first.
            self.withdraw(&call.queue, call.owner(), attempt, call.deadline).await?;
        }
        let mut rounds = ROUNDS;
        while rounds > 0 && Timer::now() < call.deadline {
            let guard = self.guard.known();
            let acquired = match attempt.key().map(|key| key.created) {
                Some(created) => self.look(call, attempt, created).await?,
                None => self.make_key(call, attempt).await?,
            };
            if let Some(acquired) = acquired {
                return Ok(acquired);
            }
            // A round that failed because other requests moved the guard says nothing about the key, and does not count.
            rounds -= usize::from(self.guard.known() == guard);
        }
        Err(BackendError::new(Failure::Unknown, "the queue kept changing while it was read"))
    }

    /// Makes the queue key. `None`: look at it, or make it again.
    async fn make_key(&self, call: &AcquireCall, attempt: &mut EtcdAttempt) -> Result<Option<Acquired>, BackendError> {
        let AcquireCall { queue, acquire, since, deadline } = call;
        if !acquire.enqueue && attempt.is_over() && self.recently_held.contains(&queue.prefix, self.context.clock.now()) {
            // A try that fails costs the cluster an entry in its log, a read does not.
            let read = self.read(request::first_in_queue(queue).txn(), *deadline).await?;
            if let Some(holder) = first_holder(&read)? {
                return Ok(Some(self.held(call, Some(holder))));
            }
        }
        let (prepared, mut request) = self.prepare(call, attempt).await?;
        request.optimistic = !self.recently_contended.contains(&queue.prefix, self.context.clock.now());
        let asked = self.writes.ask(Step::MakeKey(request), *deadline);
        let kept = self.pool.freshen(&prepared.lease.lease, *since, *deadline);
        let (answer, kept) = tokio::join!(asked, kept);
        self.conclude(call, attempt, prepared, answer, kept).await
    }

    /// Gets what a request for a queue key needs: the guard's revision and a lease.
    pub(super) async fn prepare(
        &self,
        call: &AcquireCall,
        attempt: &mut EtcdAttempt,
    ) -> Result<(PreparedRequest, KeyRequest), BackendError> {
        let AcquireCall { queue, acquire, deadline, .. } = call;
        let guard = self.guard.current(*deadline).await?;
        let lease = match attempt.take_lease() {
            Some(lease) if lease.suits(acquire.ttl, acquire.renew) => lease,
            _ => self.join_lease(acquire.ttl, acquire.renew, *deadline).await?,
        };
        if attempt.is_over() {
            attempt.floor = if is_token(acquire.floor) { acquire.floor } else { 0 };
        }
        let request = KeyRequest::new(queue, attempt.key_number, acquire, lease.id(), guard.clone());
        Ok((PreparedRequest { guard, lease }, request))
    }

    /// Takes the answer to a request for a queue key. `None`: look at the key, or make it again.
    pub(super) async fn conclude(
        &self,
        call: &AcquireCall,
        attempt: &mut EtcdAttempt,
        PreparedRequest { guard, lease }: PreparedRequest,
        answer: Result<TxnAnswer, BackendError>,
        kept: Result<KeptAlive, BackendError>,
    ) -> Result<Option<Acquired>, BackendError> {
        if let Err(error) = &answer
            && is_lease_gone(error)
        {
            self.pool.is_over(&lease.lease);
            return Ok(None);
        }
        let answer = match self.read_key_answer(call, attempt, &guard, answer).await {
            Ok(answer) => answer,
            Err(error) => {
                attempt.leave_lease(lease);
                return Err(error);
            }
        };
        if let KeyAnswer::First(created) | KeyAnswer::Behind(created, _) | KeyAnswer::Exists(created) = answer {
            attempt.has_key(created, lease, call.acquire.note.clone());
            self.check_token(call, attempt, created).await?;
        } else {
            attempt.leave_lease(lease);
        }
        match answer {
            KeyAnswer::First(_) => self.grant(call, attempt, kept),
            KeyAnswer::Behind(_, mut ahead) => {
                if ahead.holder.is_none() {
                    ahead.holder = self.holder(call).await;
                }
                Ok(Some(self.wait(call, attempt, &ahead)))
            }
            KeyAnswer::Exists(_) | KeyAnswer::Refused => Ok(None),
            KeyAnswer::Taken(created) => self.delete_restored_key(call, attempt, created).await.map(|()| None),
            // The queue has changed since the reasons were read.
            KeyAnswer::Held(_) if call.acquire.enqueue => Ok(None),
            KeyAnswer::Held(holder) => {
                // A try leaves nothing behind, not even a key that another server may still make.
                self.withdraw(&call.queue, call.owner(), attempt, call.deadline).await?;
                Ok(Some(self.held(call, holder)))
            }
            KeyAnswer::GuardMoved => {
                self.guard.forget(&guard);
                Ok(None)
            }
        }
    }

    /// Reads what became of a request for a queue key, and notes whether it may still be executed.
    async fn read_key_answer(
        &self,
        call: &AcquireCall,
        attempt: &mut EtcdAttempt,
        guard: &GuardRevision,
        answer: Result<TxnAnswer, BackendError>,
    ) -> Result<KeyAnswer, BackendError> {
        let read = answer.and_then(|answer| {
            if answer.may_run_again {
                attempt.note_unanswered();
            }
            KeyAnswer::read(call.owner(), guard, &answer)
        });
        if read.as_ref().is_err_and(|error| error.failure == Failure::Unknown) {
            attempt.note_unanswered();
        }
        let read = read?;
        if read != KeyAnswer::Refused {
            return Ok(read);
        }
        let step = request::refusal_reasons(&call.queue, call.queue_key(attempt), guard);
        let [pending] = self.reads.submit([step], call.deadline);
        KeyAnswer::read_reasons(call.owner(), guard, &pending.wait().await?)
    }

    /// Reads who holds the lock. A waiter can do without the answer, so errors do not matter.
    async fn holder(&self, call: &AcquireCall) -> Option<Holder> {
        let [pending] = self.reads.submit([request::first_in_queue(&call.queue)], call.deadline);
        first_holder(&pending.wait().await.ok()?).ok()?
    }

    /// Refuses a key whose token is not above every token that this client has seen before it asked.
    ///
    /// A cluster's revisions only grow, so this is not the cluster that gave the earlier token: it was restored from a snapshot, or
    /// another one answers by its name. Storage that checks tokens would refuse this one until the revisions have caught up, so the caller
    /// gets an error instead.
    async fn check_token(&self, call: &AcquireCall, attempt: &mut EtcdAttempt, created: i64) -> Result<(), BackendError> {
        let (token, floor) = (token(created), attempt.floor);
        if token > floor {
            return Ok(());
        }
        self.withdraw(&call.queue, call.owner(), attempt, call.deadline).await?;
        let message = format!("its revisions went back, from {floor} to {token}: it was restored from a snapshot");
        Err(BackendError::new(Failure::Refused, message))
    }

    /// Deletes another owner's key in the place of this attempt's. No other attempt has this key number, so the key belongs to nobody: a
    /// cluster that was restored from a snapshot brought it back.
    async fn delete_restored_key(&self, call: &AcquireCall, attempt: &EtcdAttempt, created: i64) -> Result<(), BackendError> {
        let queue_key = call.queue_key(attempt);
        let [pending] = self.writes.submit([Step::Delete { queue_key, created }], call.deadline);
        pending.wait().await.map(drop)
    }

    async fn join_lease(&self, ttl: Duration, renew: bool, deadline: Timer) -> Result<LeaseUse, BackendError> {
        if renew { self.pool.join(ttl, deadline).await } else { self.pool.join_exclusive(ttl, deadline).await }
    }

    /// Looks at the key that was made at `created`. `None`: something has changed, look again or make the key again.
    ///
    /// The attempt holds only if the key exists *and* is first, and its lease was kept alive after the call was made.
    async fn look(&self, call: &AcquireCall, attempt: &mut EtcdAttempt, created: i64) -> Result<Option<Acquired>, BackendError> {
        let AcquireCall { queue, acquire, since, deadline } = call;
        self.stop_moves(attempt, *deadline).await?;
        let Some(lease) = attempt.key().map(|key| key.lease.lease.clone()) else { return Ok(None) };
        let [pending] = self.reads.submit([request::look(queue, call.queue_key(attempt), created)], *deadline);
        let (answer, kept) = tokio::join!(pending.wait(), self.pool.freshen(&lease, *since, *deadline));
        let answer = LookAnswer::read(created, &answer?)?;
        if let LookAnswer::First { lease } | LookAnswer::Behind { lease, .. } = answer
            && let Some(key) = attempt.key_mut()
        {
            key.is_under(lease);
        }
        match answer {
            LookAnswer::First { lease: under } => {
                let fits = |key: &QueueKey| key.lease.id() == under && key.lease.suits(acquire.ttl, acquire.renew);
                if lease.id == under && attempt.key().is_some_and(|key| fits(key) && key.note == acquire.note) {
                    return self.grant(call, attempt, kept);
                }
                // The key was made for another caller of this session, with another TTL or note; or a request without an answer has
                // moved it.
                let terms = LeaseTerms { ttl: acquire.ttl, renew: acquire.renew, note: Some(acquire.note.clone()) };
                self.move_key(queue, call.owner(), attempt, &terms, *deadline).await?;
                Ok(None)
            }
            LookAnswer::Behind { ahead, .. } if acquire.enqueue => Ok(Some(self.wait(call, attempt, &ahead))),
            LookAnswer::Behind { ahead, .. } => {
                self.withdraw(queue, call.owner(), attempt, *deadline).await?;
                Ok(Some(self.held(call, ahead.holder)))
            }
            LookAnswer::Gone => {
                attempt.lost_key(kept.is_ok_and(|kept| kept == KeptAlive::Over));
                Ok(None)
            }
        }
    }

    /// Grants the lock to the owner of the first key, for as long as its lease lives by the clock.
    fn grant(
        &self,
        call: &AcquireCall,
        attempt: &mut EtcdAttempt,
        kept: Result<KeptAlive, BackendError>,
    ) -> Result<Option<Acquired>, BackendError> {
        let Some(key) = attempt.key() else { return Ok(None) };
        let lease = &key.lease.lease;
        match kept {
            Ok(KeptAlive::Over) => {
                attempt.lost_key(true);
                return Ok(None);
            }
            // An earlier keep-alive counts as well, unless it was long ago.
            Err(error) if lease.remaining(call.since) < lease_ttl(call.acquire.ttl) / 2 => return Err(error),
            Ok(KeptAlive::Yes) | Err(_) => {}
        }
        let grant = Grant { token: token(key.created), ttl: lease.ttl, age: lease.age(call.since) };
        attempt.holds();
        self.recently_held.forget(&call.queue.prefix);
        Ok(Some(Acquired::Granted(grant)))
    }

    fn wait(&self, call: &AcquireCall, attempt: &mut EtcdAttempt, ahead: &Ahead) -> Acquired {
        let AcquireCall { queue, acquire, .. } = call;
        self.note_others(queue);
        attempt.waits(|watch| {
            let new = || self.watches.watch(ahead, acquire.key.clone(), acquire.owner, lease_ttl(acquire.ttl));
            watch.filter(|watch| watch.is_on(&ahead.next)).unwrap_or_else(new)
        });
        Acquired::Waiting(ahead.waiting(look_again(acquire.ttl)))
    }

    fn held(&self, call: &AcquireCall, holder: Option<Holder>) -> Acquired {
        self.note_others(&call.queue);
        Acquired::Waiting(Waiting { look_again: look_again(call.acquire.ttl), position: None, holder })
    }

    fn note_others(&self, queue: &LockQueue) {
        let now = self.context.clock.now();
        self.recently_held.note(&queue.prefix, now);
        self.recently_contended.note(&queue.prefix, now);
    }

    /// Puts the attempt's key under a lease for other terms. False if the key is gone.
    pub(super) async fn move_key(
        &self,
        queue: &LockQueue,
        owner: OwnerId,
        attempt: &mut EtcdAttempt,
        terms: &LeaseTerms,
        deadline: Timer,
    ) -> Result<bool, BackendError> {
        for _ in 0..ROUNDS {
            let guard = self.guard.current(deadline).await?;
            let mut lease = self.join_lease(terms.ttl, terms.renew, deadline).await?;
            if attempt.is_holding() {
                lease.hold();
            }
            let queue_key = queue.queue_key(owner.session, attempt.key_number);
            let Some(key) = attempt.key_mut() else { return Ok(false) };
            let value = terms.note.as_ref().map(|note| names::value(owner, note));
            let step = request::move_key(queue_key, key.created, lease.id(), value, &guard);
            let [pending] = self.writes.submit([step], deadline);
            let answer = match pending.wait().await {
                Ok(answer) => answer,
                Err(error) if is_lease_gone(&error) => {
                    self.pool.is_over(&lease.lease);
                    continue;
                }
                Err(error) => {
                    if error.failure == Failure::Unknown {
                        key.other_leases.push(lease);
                    }
                    return Err(error);
                }
            };
            match MoveAnswer::read(&guard, &answer)? {
                MoveAnswer::Done => {
                    let before = key.put_under(lease, terms.note.clone());
                    // The request may be executed once more, after another one has moved the key on.
                    key.other_leases.extend(answer.may_run_again.then_some(before));
                    return Ok(true);
                }
                MoveAnswer::Gone => return Ok(false),
                MoveAnswer::GuardMoved => self.guard.forget(&guard),
            }
        }
        Err(guard_too_fast())
    }

    /// Makes sure that no earlier request still moves the key to another lease: each was executed by now, or never will be.
    pub(super) async fn stop_moves(&self, attempt: &EtcdAttempt, deadline: Timer) -> Result<(), BackendError> {
        if attempt.key().is_none_or(|key| key.other_leases.is_empty()) {
            return Ok(());
        }
        // The next look shows which lease the key is under. Until then all of them are kept.
        self.guard.move_on(deadline).await
    }
}

fn token(created: i64) -> Token {
    u64::try_from(created).unwrap_or(0)
}

/// The longest that a waiter goes without looking.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// When a waiter looks again without a hint, which can be lost.
fn look_again(ttl: Duration) -> Duration {
    lease_ttl(ttl).min(LONGEST_WAIT)
}
