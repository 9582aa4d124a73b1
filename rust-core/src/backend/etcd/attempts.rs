//! What a session knows of each of its attempts: one at a time touches it, and a request goes on when its caller has left.

use std::collections::HashMap;
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
    /// Somebody sees to it that nothing of it is left.
    pub(super) swept: bool,
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

    /// What a failed request means for the attempt: only an unknown outcome has its owner leave.
    pub(super) fn judge(&self, error: BackendError) -> BackendError {
        if self.is_over() { error } else { BackendError { failure: Failure::Unknown, ..error } }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// One attempt, for whoever has its turn.
pub(super) type Turn = OwnedMutexGuard<Attempt>;

type Slot = Arc<tokio::sync::Mutex<Attempt>>;

/// All attempts of a session that are not over.
#[derive(Default)]
pub(super) struct Attempts {
    slots: Mutex<HashMap<OwnerId, Slot>>,
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
    /// The turn of an attempt, which may begin with this.
    pub(super) fn begin(&self, owner: OwnerId) -> Turned {
        turned(self.slots.lock().entry(owner).or_default())
    }

    /// The turn of an attempt, if there is one.
    pub(super) fn find(&self, owner: OwnerId) -> Option<Turned> {
        self.slots.lock().get(&owner).map(turned)
    }

    /// Forgets an attempt that is over, unless somebody is in line for its turn.
    pub(super) fn end(&self, owner: OwnerId, turn: Turn) {
        let mut slots = self.slots.lock();
        // The map's, and the turn's own.
        if turn.is_over() && Arc::strong_count(OwnedMutexGuard::mutex(&turn)) == 2 {
            slots.remove(&owner);
        }
        drop(turn);
    }
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
        let Turned::Now(first) = attempts.begin(OWNER) else { panic!("nobody was before") };
        let (acquire, leave) = (attempts.begin(OWNER), attempts.find(OWNER).unwrap());
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
        let first = attempts.begin(OWNER).wait(deadline).await.unwrap();
        let second = attempts.begin(OWNER);
        attempts.end(OWNER, first);
        assert!(attempts.find(OWNER).is_some());
        attempts.end(OWNER, second.wait(deadline).await.unwrap());
        assert!(attempts.find(OWNER).is_none());
    }
}
