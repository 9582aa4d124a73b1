//! All attempts of a session. One request at a time works on an attempt, and goes on when its caller has left.
//!
//! Each attempt has the lowest key number that no other attempt of the session has for the same lock. The number is a part of its queue
//! key's name. It is free again when the attempt is over, and not before: then nothing of the attempt is in the cluster, and nothing will
//! come.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio::task::unconstrained;
use tokio::time::{Instant as Timer, timeout_at};

use super::attempt::EtcdAttempt;
use crate::error::{BackendError, Failure};
use crate::owner::OwnerId;

/// Exclusive access to one attempt.
pub(super) type AttemptGuard = OwnedMutexGuard<EtcdAttempt>;

type SharedAttempt = Arc<tokio::sync::Mutex<EtcdAttempt>>;

/// All attempts of a session that are not over.
#[derive(Default)]
pub(super) struct Attempts {
    table: Mutex<AttemptTable>,
}

#[derive(Default)]
struct AttemptTable {
    attempts: HashMap<OwnerId, (Arc<str>, SharedAttempt)>,
    /// The key numbers in use, by lock.
    key_numbers: HashMap<Arc<str>, BTreeSet<u32>>,
}

/// Access to an attempt: now, or when earlier requests are done with it.
pub(super) enum AttemptAccess {
    Now(AttemptGuard),
    Later(BoxFuture<'static, AttemptGuard>),
}

impl AttemptAccess {
    pub(super) async fn wait(self, deadline: Timer) -> Result<AttemptGuard, BackendError> {
        match self {
            Self::Now(guard) => Ok(guard),
            Self::Later(guard) => timeout_at(deadline, guard)
                .await
                .map_err(|_| BackendError::new(Failure::NotSent, "an earlier request of the same attempt has no answer yet")),
        }
    }
}

impl Attempts {
    /// Access to an owner's attempt for the lock `key`, which begins with this if there is none.
    pub(super) fn begin(&self, key: &Arc<str>, owner: OwnerId) -> AttemptAccess {
        let mut table = self.table.lock();
        let AttemptTable { attempts, key_numbers } = &mut *table;
        let (_, attempt) = attempts.entry(owner).or_insert_with(|| {
            let attempt = EtcdAttempt::new(take_lowest(key_numbers.entry(key.clone()).or_default()));
            (key.clone(), Arc::new(tokio::sync::Mutex::new(attempt)))
        });
        access(attempt)
    }

    /// Access to an owner's attempt, if there is one.
    pub(super) fn find(&self, owner: OwnerId) -> Option<AttemptAccess> {
        self.table.lock().attempts.get(&owner).map(|(_, attempt)| access(attempt))
    }

    /// Ends the access. An attempt that is over is forgotten, unless another request waits for access.
    pub(super) fn finish(&self, owner: OwnerId, attempt: AttemptGuard) {
        let mut table = self.table.lock();
        // Two references are the table's and the guard's.
        if attempt.is_over() && Arc::strong_count(OwnedMutexGuard::mutex(&attempt)) == 2 {
            table.remove(owner, attempt.key_number);
        }
        drop(attempt);
    }
}

impl AttemptTable {
    fn remove(&mut self, owner: OwnerId, key_number: u32) {
        let Some((key, _)) = self.attempts.remove(&owner) else { return };
        let Some(used) = self.key_numbers.get_mut(&key) else { return };
        used.remove(&key_number);
        if used.is_empty() {
            self.key_numbers.remove(&key);
        }
    }
}

/// Takes the lowest number that is not used.
fn take_lowest(used: &mut BTreeSet<u32>) -> u32 {
    let mut number = 0;
    while !used.insert(number) {
        number += 1;
    }
    number
}

/// Requests get access in the order in which they were made, however their tasks are scheduled: an acquire that its withdrawal overtakes
/// would make a key for nobody. So the request joins the mutex's queue here, not in its task: by a first poll, exempt from tokio's budget.
fn access(attempt: &SharedAttempt) -> AttemptAccess {
    let mut guard = unconstrained(attempt.clone().lock_owned()).boxed();
    match (&mut guard).now_or_never() {
        Some(guard) => AttemptAccess::Now(guard),
        None => AttemptAccess::Later(guard),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::SessionId;
    use std::time::Duration;

    const OWNER: OwnerId = OwnerId { session: SessionId::from_u128(1), sequence: 1 };

    fn begin(attempts: &Attempts, key: &str, owner: OwnerId) -> AttemptGuard {
        match attempts.begin(&key.into(), owner) {
            AttemptAccess::Now(guard) => guard,
            AttemptAccess::Later(_) => panic!("nobody was before"),
        }
    }

    #[tokio::test]
    async fn requests_get_access_in_the_order_in_which_they_were_made() {
        let attempts = Attempts::default();
        let deadline = Timer::now() + Duration::from_secs(5);
        let first = begin(&attempts, "k", OWNER);
        let (acquire, leave) = (attempts.begin(&"k".into(), OWNER), attempts.find(OWNER).unwrap());
        // The task of the withdrawal runs first.
        let leave = tokio::spawn(async move { leave.wait(deadline).await.map(|attempt| attempt.is_over()) });
        tokio::task::yield_now().await;
        drop(first);
        let mut attempt = acquire.wait(deadline).await.unwrap();
        attempt.note_unanswered();
        drop(attempt);
        assert!(!leave.await.unwrap().unwrap());
    }

    #[tokio::test]
    async fn an_attempt_that_is_over_is_forgotten_unless_a_request_waits_for_it() {
        let attempts = Attempts::default();
        let deadline = Timer::now() + Duration::from_secs(5);
        let first = attempts.begin(&"k".into(), OWNER).wait(deadline).await.unwrap();
        let second = attempts.begin(&"k".into(), OWNER);
        attempts.finish(OWNER, first);
        assert!(attempts.find(OWNER).is_some());
        attempts.finish(OWNER, second.wait(deadline).await.unwrap());
        assert!(attempts.find(OWNER).is_none());
    }

    #[tokio::test]
    async fn a_key_number_is_free_again_when_its_attempt_is_over_and_not_before() {
        let attempts = Attempts::default();
        let owner = |sequence| OwnerId { sequence, ..OWNER };
        let begin = |key: &str, sequence| begin(&attempts, key, owner(sequence));
        let (first, mut second, third) = (begin("k", 1), begin("k", 2), begin("k", 3));
        let other = begin("other", 4).key_number;
        assert_eq!([first.key_number, second.key_number, third.key_number, other], [0, 1, 2, 0]);
        attempts.finish(owner(1), first);
        second.note_unanswered();
        attempts.finish(owner(2), second);
        let next = [begin("k", 5).key_number, begin("k", 6).key_number];
        assert_eq!(next, [0, 3], "a request of the second one may still be executed");
        let mut second = begin("k", 2);
        second.end();
        assert_eq!(second.key_number, 1);
        attempts.finish(owner(2), second);
        assert_eq!(begin("k", 7).key_number, 1);
        drop(third);
        for sequence in [3, 4, 5, 6, 7] {
            attempts.finish(owner(sequence), begin("k", sequence));
        }
        assert!(attempts.table.lock().key_numbers.is_empty());
    }
}
