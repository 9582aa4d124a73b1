//! How an attempt gets a key: it asks for a place once, and looks at it when something has changed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant as Timer;

use super::Store;
use super::attempts::{Attempt, Leaving, Turned};
use super::guard::guard_too_fast;
use super::leases::{Kept, Lease, Seat, class};
use super::names::{self, Queue};
use super::request::{self, Ahead, Answer, Ask, Asked, Guarded, Looked, Rehung};
use super::shape::Step;
use crate::backend::{Acquire, Acquired, Grant, Waiting};
use crate::clock::Instant;
use crate::error::{BackendError, Failure};
use crate::fencing::{Token, is_token};
use crate::holder::Holder;

/// How often things may change under one request before it is given up.
pub(super) const ROUNDS: usize = 10;

/// One request for a key.
pub(super) struct Asking {
    pub(super) queue: Queue,
    pub(super) acquire: Acquire,
    /// When it was made: a grant's life counts from here.
    pub(super) since: Instant,
    pub(super) deadline: Timer,
}

/// What a request for a place was made with.
pub(super) struct Prepared {
    guard: Guarded,
    pub(super) lease: Arc<Lease>,
}

impl Store {
    /// Asks for a key. Meant for a task of its own: what was sent is followed to its answer.
    pub(super) async fn acquire(self: Arc<Self>, asking: Asking, turned: Turned) -> Result<Acquired, BackendError> {
        let mut turn = turned.wait(asking.deadline).await?;
        let acquired = self.get(&asking, &mut turn).await.map_err(|error| turn.judge(error));
        self.attempts.end(asking.acquire.owner, turn);
        acquired
    }

    pub(super) async fn get(&self, asking: &Asking, attempt: &mut Attempt) -> Result<Acquired, BackendError> {
        if attempt.leaving != Leaving::No {
            // A deletion that is executed late would find the place, and that may be granted by then: first the place is gone for sure.
            self.take_back(&asking.queue, asking.acquire.owner, attempt, asking.deadline).await?;
        }
        let mut rounds = ROUNDS;
        while rounds > 0 && Timer::now() < asking.deadline {
            let guard = self.guard.known();
            let step = match attempt.created {
                Some(created) => self.look(asking, attempt, created).await?,
                None => self.ask(asking, attempt).await?,
            };
            if let Some(acquired) = step {
                return Ok(acquired);
            }
            // A guard that others have moved meanwhile says nothing about the key.
            rounds -= usize::from(self.guard.known() == guard);
        }
        Err(BackendError::new(Failure::Unknown, "things changed faster than they could be looked at"))
    }

    /// Asks for a place. `None`: look at what has become of it, or ask again.
    async fn ask(&self, asking: &Asking, attempt: &mut Attempt) -> Result<Option<Acquired>, BackendError> {
        let Asking { queue, acquire, since, deadline } = asking;
        if !acquire.enqueue && !attempt.unanswered && self.seen.is_recent(&queue.prefix, self.context.clock.now()) {
            // A try that fails costs the cluster an entry in its log, a look does not.
            if let Some(holder) = request::peeked(&self.read(request::peek(queue).txn(), *deadline).await?)? {
                return Ok(Some(self.held(asking, Some(holder))));
            }
        }
        let (prepared, mut ask) = self.prepare(asking, attempt).await?;
        ask.hopeful = !self.wanted.is_recent(&queue.prefix, self.context.clock.now());
        let [coming] = self.line.submit([Step::Ask(ask)], *deadline)?;
        let (answer, kept) = tokio::join!(coming.wait(), self.pool.freshen(&prepared.lease, *since, *deadline));
        self.conclude(asking, attempt, prepared, answer, kept).await
    }

    /// What a request for a place needs: the guard's revision and a lease.
    pub(super) async fn prepare(&self, asking: &Asking, attempt: &mut Attempt) -> Result<(Prepared, Ask), BackendError> {
        let Asking { queue, acquire, deadline, .. } = asking;
        let guard = self.guard.current(*deadline).await?;
        let seat = match attempt.seat.take() {
            Some(seat) if seat.suits(acquire.ttl, acquire.renew) => seat,
            _ => self.seat(acquire, *deadline).await?,
        };
        let lease = seat.lease.clone();
        attempt.seat = Some(seat);
        attempt.note = acquire.note.clone();
        if !attempt.unanswered {
            attempt.floor = if is_token(acquire.floor) { acquire.floor } else { 0 };
        }
        let ask = Ask::new(queue, attempt.chair, acquire, lease.id, guard.clone());
        Ok((Prepared { guard, lease }, ask))
    }

    /// Takes the answer to a request for a place. `None`: look at what has become of it, or ask again.
    pub(super) async fn conclude(
        &self,
        asking: &Asking,
        attempt: &mut Attempt,
        Prepared { guard, lease }: Prepared,
        answer: Result<Answer, BackendError>,
        kept: Result<Kept, BackendError>,
    ) -> Result<Option<Acquired>, BackendError> {
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
        let asked = request::asked(&asking.acquire, &guard, &answer);
        attempt.unanswered |= asked.is_err();
        let mut asked = asked?;
        if asked == Asked::Refused {
            let [coming] =
                self.looks.submit([request::why_not(&asking.queue, attempt.chair, &asking.acquire, &guard)], asking.deadline)?;
            asked = request::why(&asking.acquire, &guard, &coming.wait().await?)?;
        }
        if let Asked::First(created) | Asked::Behind(created, _) | Asked::Exists(created) = asked {
            attempt.created = Some(created);
            self.check_token(asking, attempt, created).await?;
        }
        match asked {
            Asked::First(created) => self.grant(asking, attempt, created, kept),
            Asked::Behind(_, mut ahead) => {
                if ahead.holder.is_none() {
                    ahead.holder = self.holder(asking).await;
                }
                Ok(Some(self.wait(asking, attempt, &ahead)))
            }
            Asked::Exists(_) | Asked::Refused => Ok(None),
            Asked::Taken(created) => self.clear_chair(asking, attempt, created).await.map(|()| None),
            // Things have changed since they were read.
            Asked::Held(_) if asking.acquire.enqueue => Ok(None),
            Asked::Held(holder) => {
                // Nothing remains of a try: nor does what another server may still make of it.
                self.take_back(&asking.queue, asking.acquire.owner, attempt, asking.deadline).await?;
                Ok(Some(self.held(asking, holder)))
            }
            Asked::Unguarded => {
                self.guard.forget(&guard);
                Ok(None)
            }
        }
    }

    /// Who holds the key, for those who like to know: a place is one without that.
    async fn holder(&self, asking: &Asking) -> Option<Holder> {
        let [coming] = self.looks.submit([request::peek(&asking.queue)], asking.deadline).ok()?;
        request::peeked(&coming.wait().await.ok()?).ok()?
    }

    /// Refuses a place that is older than a token which this client has seen before it asked.
    ///
    /// Revisions only grow, so this is not the cluster that gave that token: it was restored from a snapshot, or another one answers by its
    /// name. Whoever guards the data would refuse this token, now and for as long as it takes the count to catch up; better to say so
    /// than to hand it out.
    async fn check_token(&self, asking: &Asking, attempt: &mut Attempt, created: i64) -> Result<(), BackendError> {
        let (token, floor) = (token(created), attempt.floor);
        if token > floor {
            return Ok(());
        }
        self.take_back(&asking.queue, asking.acquire.owner, attempt, asking.deadline).await?;
        let told = format!("its revisions went back, from {floor} to {token}: it was restored from a snapshot");
        Err(BackendError::new(Failure::Refused, told))
    }

    /// Deletes what sits where the attempt is to have its place. The chair is this attempt's alone, so nobody knows of that key any more: a
    /// cluster that was restored from a snapshot brought it back.
    async fn clear_chair(&self, asking: &Asking, attempt: &Attempt, created: i64) -> Result<(), BackendError> {
        let place = asking.queue.place(asking.acquire.owner.session, attempt.chair);
        let [coming] = self.line.submit([Step::Delete { place, created }], asking.deadline)?;
        coming.wait().await.map(drop)
    }

    async fn seat(&self, acquire: &Acquire, deadline: Timer) -> Result<Seat, BackendError> {
        if acquire.renew { self.pool.join(acquire.ttl, deadline).await } else { self.pool.join_alone(acquire.ttl, deadline).await }
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
        let step = request::look(queue, queue.place(acquire.owner.session, attempt.chair), created);
        let [coming] = self.looks.submit([step], *deadline)?;
        let (answer, kept) = tokio::join!(coming.wait(), self.pool.freshen(&lease, *since, *deadline));
        let looked = request::looked(created, &answer?)?;
        if let Looked::First { lease } | Looked::Behind { lease, .. } = looked {
            attempt.is_under(lease);
        }
        match looked {
            Looked::First { lease: under } => {
                let suits = |seat: &Seat| seat.lease.id == under && seat.suits(acquire.ttl, acquire.renew);
                if lease.id == under && attempt.seat.as_ref().is_some_and(suits) && attempt.note == acquire.note {
                    return self.grant(asking, attempt, created, kept);
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
            Looked::Gone => {
                attempt.created = None;
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
    fn grant(
        &self,
        asking: &Asking,
        attempt: &mut Attempt,
        created: i64,
        kept: Result<Kept, BackendError>,
    ) -> Result<Option<Acquired>, BackendError> {
        let Asking { queue, acquire, since, .. } = asking;
        let Some(seat) = attempt.seat.as_mut() else { return Ok(None) };
        match kept {
            Ok(Kept::Over) => {
                attempt.created = None;
                attempt.seat = None;
                return Ok(None);
            }
            // It was kept alive a while ago, and that counts unless it was long ago.
            Err(error) if seat.lease.remaining(*since) < class(acquire.ttl) / 2 => return Err(error),
            Ok(Kept::Alive) | Err(_) => {}
        }
        let (ttl, age) = (seat.lease.class, seat.lease.age(*since));
        seat.hold();
        attempt.granted = true;
        attempt.watching = None;
        self.seen.forget(&queue.prefix);
        Ok(Some(Acquired::Granted(Grant { token: token(created), ttl, age })))
    }

    fn wait(&self, asking: &Asking, attempt: &mut Attempt, ahead: &Ahead) -> Acquired {
        let Asking { queue, acquire, .. } = asking;
        self.note_others(queue);
        let watched = attempt.watching.as_ref().is_some_and(|watching| watching.is_of(&ahead.next));
        if !watched {
            attempt.watching = Some(self.watches.watch(ahead, acquire.key.clone(), acquire.owner, class(acquire.ttl)));
        }
        Acquired::Waiting(ahead.waiting(look_again(acquire.ttl)))
    }

    fn held(&self, asking: &Asking, holder: Option<Holder>) -> Acquired {
        self.note_others(&asking.queue);
        Acquired::Waiting(Waiting { look_again: look_again(asking.acquire.ttl), position: None, holder })
    }

    fn note_others(&self, queue: &Queue) {
        let now = self.context.clock.now();
        self.seen.note(&queue.prefix, now);
        self.wanted.note(&queue.prefix, now);
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
            let value = note.then(|| names::value(terms.owner, &terms.note));
            let place = queue.place(terms.owner.session, attempt.chair);
            let step = request::rehang(place, created, seat.lease.id, value, &guard);
            let [coming] = self.line.submit([step], deadline)?;
            let answer = match coming.wait().await {
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
                    if note {
                        attempt.note = terms.note.clone();
                    }
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
        Err(guard_too_fast())
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

fn token(created: i64) -> Token {
    u64::try_from(created).unwrap_or(0)
}

/// The longest that a waiter goes without looking.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// When a waiter looks by itself: events have been known to get lost.
fn look_again(ttl: Duration) -> Duration {
    class(ttl).min(LONGEST_WAIT)
}
