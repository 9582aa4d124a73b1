//! What a session knows of each of its attempts: one at a time touches it, and a request goes on when its caller has left.
//!
//! Each attempt has a chair among those of its session for the same lock, the lowest that is free: its number is a part of the attempt's
//! key. A chair is free again when the attempt is over, and not before: nothing of it is in the cluster then, and nothing will come.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio::task::unconstrained;
use tokio::time::{Instant as Timer, timeout_at};

use super::leases::Seat;
use super::watch::Watching;
use crate::error::{BackendError, Failure};
use crate::fencing::Token;
use crate::owner::OwnerId;

/// What is known of an attempt's key.
#[derive(Default)]
pub(super) struct Attempt {
    /// Its number among those of its session that want the same lock.
    pub(super) chair: u32,
    /// The create revision of its key, if it has one: its place, and its token once it is first.
    pub(super) created: Option<i64>,
    /// It was told that it holds.
    pub(super) granted: bool,
    /// A request that makes the key may still be executed.
    pub(super) unanswered: bool,
    /// Where the key is, as far as is known.
    pub(super) seat: Option<Seat>,
    /// Where else it may be or go: a request that puts it there may still be executed.
    pub(super) elsewhere: Vec<Seat>,
    /// The highest token that the client had seen when its first request was made.
    pub(super) floor: Token,
    /// The value of the key.
    pub(super) note: Arc<str>,
    pub(super) watching: Option<Watching>,
    pub(super) leaving: Leaving,
}

/// Whether an attempt's key is being deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Leaving {
    #[default]
    No,
    /// No answer has said that it is gone: a deletion may still be executed.
    Begun,
    /// And somebody sees to it that nothing is left in the end.
    Swept,
}

impl Attempt {
    /// Nothing of it is left in the cluster, and nothing will come.
    pub(super) fn is_over(&self) -> bool {
        self.created.is_none() && !self.unanswered
    }

    /// The key was seen under this lease, and nothing will move it any more.
    pub(super) fn is_under(&mut self, lease: i64) {
        if self.seat.as_ref().is_none_or(|seat| seat.lease.id != lease)
            && let Some(index) = self.elsewhere.iter().position(|seat| seat.lease.id == lease)
        {
            self.seat = Some(self.elsewhere.swap_remove(index));
        }
        self.elsewhere.clear();
    }

    /// From here on its key is to be deleted.
    pub(super) fn leave(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Begun;
        }
    }

    /// What a failed request means for the attempt: only an unknown outcome has its owner leave.
    pub(super) fn judge(&self, error: BackendError) -> BackendError {
        if self.is_over() { error } else { BackendError { failure: Failure::Unknown, ..error } }
    }

    pub(super) fn clear(&mut self) {
        *self = Self { chair: self.chair, ..Self::default() };
    }
}

/// One attempt, for whoever has its turn.
pub(super) type Turn = OwnedMutexGuard<Attempt>;

type Slot = Arc<tokio::sync::Mutex<Attempt>>;

/// All attempts of a session that are not over.
#[derive(Default)]
pub(super) struct Attempts {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    slots: HashMap<OwnerId, (Arc<str>, Slot)>,
    /// The chairs that are taken, by lock.
    taken: HashMap<Arc<str>, BTreeSet<u32>>,
}

/// A turn now, or a place in the line for it.
pub(super) enum Turned {
    Now(Turn),
    Later(BoxFuture<'static, Turn>),
}

impl Turned {
    pub(super) async fn wait(self, deadline: Timer) -> Result<Turn, BackendError> {
        match self {
            Self::Now(turn) => Ok(turn),
            Self::Later(turn) => timeout_at(deadline, turn)
                .await
                .map_err(|_| BackendError::new(Failure::NotSent, "an earlier request of the same attempt has no answer yet")),
        }
    }
}

impl Attempts {
    /// The turn of an attempt at the lock `key`, which may begin with this.
    pub(super) fn begin(&self, key: &Arc<str>, owner: OwnerId) -> Turned {
        let mut table = self.table.lock();
        let Table { slots, taken } = &mut *table;
        let (_, slot) = slots.entry(owner).or_insert_with(|| {
            let attempt = Attempt { chair: sit_down(taken.entry(key.clone()).or_default()), ..Attempt::default() };
            (key.clone(), Arc::new(tokio::sync::Mutex::new(attempt)))
        });
        turned(slot)
    }

    /// The turn of an attempt, if there is one.
    pub(super) fn find(&self, owner: OwnerId) -> Option<Turned> {
        self.table.lock().slots.get(&owner).map(|(_, slot)| turned(slot))
    }

    /// Forgets an attempt that is over, unless somebody is in line for its turn.
    pub(super) fn end(&self, owner: OwnerId, turn: Turn) {
        let mut table = self.table.lock();
        // The table's, and the turn's own.
        if turn.is_over() && Arc::strong_count(OwnedMutexGuard::mutex(&turn)) == 2 {
            table.remove(owner, turn.chair);
        }
        drop(turn);
    }
}

impl Table {
    fn remove(&mut self, owner: OwnerId, chair: u32) {
        let Some((key, _)) = self.slots.remove(&owner) else { return };
        let Some(taken) = self.taken.get_mut(&key) else { return };
        taken.remove(&chair);
        if taken.is_empty() {
            self.taken.remove(&key);
        }
    }
}

/// Takes the lowest chair that is free.
fn sit_down(taken: &mut BTreeSet<u32>) -> u32 {
    let mut chair = 0;
    while !taken.insert(chair) {
        chair += 1;
    }
    chair
}

/// Of two requests the one that was made first goes first, whatever their tasks do: an acquire that is overtaken by its leave would make a
/// place for nobody. So the place in the line is taken here, by a first poll that no budget keeps from it, and not in the task.
fn turned(slot: &Slot) -> Turned {
    let mut turn = unconstrained(slot.clone().lock_owned()).boxed();
    match (&mut turn).now_or_never() {
        Some(turn) => Turned::Now(turn),
        None => Turned::Later(turn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::SessionId;
    use std::time::Duration;

    const OWNER: OwnerId = OwnerId { session: SessionId::from_u128(1), sequence: 1 };

    #[tokio::test]
    async fn requests_have_their_turns_in_the_order_in_which_they_were_made() {
        let attempts = Attempts::default();
        let deadline = Timer::now() + Duration::from_secs(5);
        let Turned::Now(first) = attempts.begin(&"k".into(), OWNER) else { panic!("nobody was before") };
        let (acquire, leave) = (attempts.begin(&"k".into(), OWNER), attempts.find(OWNER).unwrap());
        // The leave's task runs first.
        let leave = tokio::spawn(async move { leave.wait(deadline).await.map(|turn| turn.created) });
        tokio::task::yield_now().await;
        drop(first);
        let mut turn = acquire.wait(deadline).await.unwrap();
        turn.created = Some(7);
        drop(turn);
        assert_eq!(leave.await.unwrap().unwrap(), Some(7));
    }

    #[tokio::test]
    async fn an_attempt_that_is_over_is_forgotten_unless_somebody_is_in_line() {
        let attempts = Attempts::default();
        let deadline = Timer::now() + Duration::from_secs(5);
        let first = attempts.begin(&"k".into(), OWNER).wait(deadline).await.unwrap();
        let second = attempts.begin(&"k".into(), OWNER);
        attempts.end(OWNER, first);
        assert!(attempts.find(OWNER).is_some());
        attempts.end(OWNER, second.wait(deadline).await.unwrap());
        assert!(attempts.find(OWNER).is_none());
    }

    #[tokio::test]
    async fn a_chair_is_free_again_when_its_attempt_is_over_and_not_before() {
        let attempts = Attempts::default();
        let owner = |sequence| OwnerId { sequence, ..OWNER };
        let begin = |key: &str, sequence| match attempts.begin(&key.into(), owner(sequence)) {
            Turned::Now(turn) => turn,
            Turned::Later(_) => panic!("nobody was before"),
        };
        let (first, mut second, third) = (begin("k", 1), begin("k", 2), begin("k", 3));
        assert_eq!([first.chair, second.chair, third.chair, begin("other", 4).chair], [0, 1, 2, 0]);
        attempts.end(owner(1), first);
        second.unanswered = true;
        attempts.end(owner(2), second);
        assert_eq!([begin("k", 5).chair, begin("k", 6).chair], [0, 3], "what may still be executed would sit down there");
        let mut second = begin("k", 2);
        second.clear();
        assert_eq!(second.chair, 1);
        attempts.end(owner(2), second);
        assert_eq!(begin("k", 7).chair, 1);
        drop(third);
        for sequence in [3, 4, 5, 6, 7] {
            attempts.end(owner(sequence), begin("k", sequence));
        }
        assert!(attempts.table.lock().taken.is_empty());
    }
}
