//! How an attempt gets a key: it asks for a place once, and looks at it when something has changed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant as Timer;

use super::Store;
use super::attempts::{Attempt, Turned};
use super::leases::{Kept, Seat, class};
use super::names::Queue;
use super::request::{self, Ahead, Asked, Looked, Rehung};
use crate::backend::{Acquire, Acquired, Grant, Waiting};
use crate::clock::Instant;
use crate::error::{BackendError, Failure};

/// How often things may change under one request before it is given up.
const ROUNDS: usize = 10;

/// One request for a key.
pub(super) struct Asking {
    pub(super) queue: Queue,
    pub(super) acquire: Acquire,
    /// When it was made: a grant's life counts from here.
    pub(super) since: Instant,
    pub(super) deadline: Timer,
}

impl Store {
    /// Asks for a key. Meant for a task of its own: what was sent is followed to its answer.
    pub(super) async fn acquire(self: Arc<Self>, asking: Asking, turned: Turned) -> Result<Acquired, BackendError> {
        let mut turn = turned.wait(asking.deadline).await?;
        let acquired = self.get(&asking, &mut turn).await;
        self.attempts.end(asking.acquire.owner, turn);
        acquired
    }

    async fn get(&self, asking: &Asking, attempt: &mut Attempt) -> Result<Acquired, BackendError> {
        for _ in 0..ROUNDS {
            if Timer::now() >= asking.deadline {
                break;
            }
            let step = match attempt.created {
                Some(created) => self.look(asking, attempt, created).await?,
                None => self.ask(asking, attempt).await?,
            };
            if let Some(acquired) = step {
                return Ok(acquired);
            }
        }
        Err(BackendError::new(Failure::Unknown, "things changed faster than they could be looked at"))
    }

    /// Asks for a place. `None`: look at what has become of it, or ask again.
    async fn ask(&self, asking: &Asking, attempt: &mut Attempt) -> Result<Option<Acquired>, BackendError> {
        let Asking { queue, acquire, since, deadline } = asking;
        if !acquire.enqueue && !attempt.unanswered && self.seen.is_recent(&queue.prefix, self.context.clock.now()) {
            // A try that fails costs the cluster an entry in its log, a look does not.
            if let Some(holder) = request::peeked(queue, &self.read(request::peek(queue), *deadline).await?)? {
                return Ok(Some(self.held(asking, Some(holder))));
            }
        }
        let guard = self.guard.current(*deadline).await?;
        let seat = match attempt.seat.take() {
            Some(seat) if seat.suits(acquire.ttl, acquire.renew) => seat,
            _ => self.seat(acquire, *deadline).await?,
        };
        let lease = seat.lease.clone();
        attempt.seat = Some(seat);
        attempt.note = acquire.note.clone();
        let txn = request::ask(queue, acquire, lease.id, &guard);
        let (answer, kept) = tokio::join!(self.commit(queue, txn, *deadline), self.pool.keep(&lease, *since, *deadline));
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if request::is_lease_gone(&error) => {
                self.pool.is_over(&lease);
                attempt.seat = None;
                return Ok(None);
            }
            Err(error) => {
                attempt.unanswered |= error.failure == Failure::Unknown;
                return Err(error);
            }
        };
        attempt.unanswered |= answer.ghosts;
        let asked = request::asked(queue, &guard, &answer);
        attempt.unanswered |= asked.is_err();
        match asked? {
            Asked::First(created) => {
                attempt.created = Some(created);
                self.grant(asking, attempt, created, kept).await
            }
            Asked::Behind(created, ahead) => {
                attempt.created = Some(created);
                Ok(Some(self.wait(asking, attempt, &ahead)))
            }
            Asked::Exists(created) => {
                attempt.created = Some(created);
                Ok(None)
            }
            Asked::Held(holder) => Ok(Some(self.held(asking, holder))),
            Asked::Unguarded => {
                self.guard.forget(&guard);
                Ok(None)
            }
        }
    }

    async fn seat(&self, acquire: &Acquire, deadline: Timer) -> Result<Seat, BackendError> {
        match acquire.renew {
            true => self.pool.join(acquire.ttl, deadline).await,
            false => self.pool.join_alone(acquire.ttl, deadline).await,
        }
    }

    /// Looks at the place that was made at `created`. `None`: things have changed, look or ask again.
    ///
    /// It holds only if the key is there *and* first, and its lease was kept alive after the request was made.
    async fn look(&self, asking: &Asking, attempt: &mut Attempt, created: i64) -> Result<Option<Acquired>, BackendError> {
        let Asking { queue, acquire, since, deadline } = asking;
        self.settle(attempt, *deadline).await?;
        let Some(lease) = attempt.seat.as_ref().map(|seat| seat.lease.clone()) else {
            attempt.seat = Some(self.seat(acquire, *deadline).await?);
            return Ok(None);
        };
        let txn = request::look(queue, acquire.owner, created);
        let (answer, kept) = tokio::join!(self.read(txn, *deadline), self.pool.keep(&lease, *since, *deadline));
        let looked = request::looked(queue, created, &answer?)?;
        if let Looked::First { lease } | Looked::Behind { lease, .. } = looked {
            attempt.is_under(lease);
        }
        match looked {
            Looked::First { lease: under } => {
                let suits = |seat: &Seat| seat.lease.id == under && seat.suits(acquire.ttl, acquire.renew);
                if lease.id == under && attempt.seat.as_ref().is_some_and(suits) && attempt.note == acquire.note {
                    return self.grant(asking, attempt, created, kept).await;
                }
                // The place was made for somebody else of this session, with another TTL or note; or a request without an answer had
                // moved it.
                self.rehang(queue, attempt, acquire, created, true, *deadline).await?;
                Ok(None)
            }
            Looked::Behind { ahead, .. } if acquire.enqueue => Ok(Some(self.wait(asking, attempt, &ahead))),
            Looked::Behind { ahead, .. } => {
                self.take_back(queue, acquire.owner, attempt, *deadline).await?;
                Ok(Some(self.held(asking, ahead.holder)))
            }
            Looked::Gone(created) => {
                attempt.created = created;
                attempt.watching = None;
                attempt.granted = false;
                if kept.is_ok_and(|kept| kept == Kept::Over) {
                    attempt.seat = None;
                }
                Ok(None)
            }
        }
    }

    /// The key is ours: for how long says the lease, by the clock.
    async fn grant(
        &self,
        asking: &Asking,
        attempt: &mut Attempt,
        created: i64,
        kept: Result<Kept, BackendError>,
    ) -> Result<Option<Acquired>, BackendError> {
        let Asking { queue, acquire, since, deadline } = asking;
        let token = u64::try_from(created).unwrap_or(0);
        if token <= acquire.floor {
            // Revisions only grow, so this is not the cluster that gave the token which this client has seen: it was restored from a
            // snapshot, or another one answers by its name. Whoever guards the data would refuse this token, now and for as long as it
            // takes the count to catch up; better to say so than to hand it out.
            self.take_back(queue, acquire.owner, attempt, *deadline).await?;
            let told = format!("its revisions went back, from {} to {token}: it was restored from a snapshot", acquire.floor);
            return Err(BackendError::new(Failure::Refused, told));
        }
        let Some(seat) = attempt.seat.as_mut() else { return Ok(None) };
        let ttl = seat.lease.remaining(*since);
        match kept {
            Ok(Kept::Alive) => {}
            Ok(Kept::Over) => {
                attempt.created = None;
                attempt.seat = None;
                return Ok(None);
            }
            // It was kept alive a while ago, and that still counts.
            Err(error) if ttl < class(acquire.ttl) / 2 => return Err(error),
            Err(_) => {}
        }
        seat.hold();
        attempt.granted = true;
        attempt.watching = None;
        self.seen.forget(&queue.prefix);
        Ok(Some(Acquired::Granted(Grant { token, ttl })))
    }

    fn wait(&self, asking: &Asking, attempt: &mut Attempt, ahead: &Ahead) -> Acquired {
        let Asking { queue, acquire, .. } = asking;
        self.seen.note(&queue.prefix, self.context.clock.now());
        let watched = attempt.watching.as_ref().is_some_and(|watching| watching.is_of(&ahead.next));
        if !watched {
            attempt.watching = Some(self.watches.watch(ahead, acquire.key.clone(), acquire.owner, class(acquire.ttl)));
        }
        Acquired::Waiting(ahead.waiting(look_again(acquire.ttl)))
    }

    fn held(&self, asking: &Asking, holder: Option<crate::holder::Holder>) -> Acquired {
        self.seen.note(&asking.queue.prefix, self.context.clock.now());
        Acquired::Waiting(Waiting { look_again: look_again(asking.acquire.ttl), position: None, holder })
    }

    /// Puts a grant's key under a lease for other terms, and with `note` another value in it.
    pub(super) async fn rehang(
        &self,
        queue: &Queue,
        attempt: &mut Attempt,
        terms: &Acquire,
        created: i64,
        note: bool,
        deadline: Timer,
    ) -> Result<bool, BackendError> {
        for _ in 0..ROUNDS {
            let guard = self.guard.current(deadline).await?;
            let mut seat = self.seat(terms, deadline).await?;
            if attempt.granted {
                seat.hold();
            }
            let note_of = note.then(|| terms.note.clone());
            let txn = request::rehang(queue, terms.owner, created, seat.lease.id, note_of.as_deref(), &guard);
            let answer = match self.commit(queue, txn, deadline).await {
                Ok(answer) => answer,
                Err(error) if request::is_lease_gone(&error) => {
                    self.pool.is_over(&seat.lease);
                    continue;
                }
                Err(error) => {
                    if error.failure == Failure::Unknown {
                        attempt.elsewhere.push(seat);
                    }
                    return Err(error);
                }
            };
            match request::rehung(&guard, &answer)? {
                Rehung::Done => {
                    attempt.note = note_of.unwrap_or_else(|| attempt.note.clone());
                    let before = attempt.seat.replace(seat);
                    attempt.elsewhere.clear();
                    if answer.ghosts {
                        // It may be put here once more, after it was put elsewhere.
                        attempt.elsewhere.extend(before);
                    }
                    return Ok(true);
                }
                Rehung::Gone => return Ok(false),
                Rehung::Unguarded => self.guard.forget(&guard),
            }
        }
        Err(BackendError::new(Failure::Unknown, "the session's guard changed faster than it could be read"))
    }

    /// Sees to it that requests which would put the key elsewhere have been executed by now, or never will be.
    pub(super) async fn settle(&self, attempt: &mut Attempt, deadline: Timer) -> Result<(), BackendError> {
        if attempt.elsewhere.is_empty() {
            return Ok(());
        }
        // Where the key is shows the next look at it, and until then all of its leases are kept.
        self.guard.bump(deadline).await
    }
}

/// When a waiter looks by itself: events have been known to get lost.
fn look_again(ttl: Duration) -> Duration {
    class(ttl)
}
