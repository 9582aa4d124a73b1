//! What a session knows of one attempt: whether it has a queue key, and what may still be executed for it.
//!
//! ```text
//!          request sent, no answer
//!   Idle ──────────────────────────▶ Unanswered      a key may exist, or may appear later
//!    │  ▲                               │
//!    │  └── key deleted, lease ended    │
//!    │      (never while a request of   │
//!    │      it can still be executed)   │
//!    ▼                                  ▼
//!   Waiting ──────── first ─────────▶ Holding        its key exists; the create revision is the token
//!    │                                  │
//!    └────────▶ Withdrawing ◀───────────┘            a deletion was sent and not confirmed; also from Unanswered
//!                    │
//!                    └── confirmed ──▶ Idle
//! ```
//!
//! An idle attempt is over: nothing of it is in the cluster, and nothing will come. Only then its key number is free for another attempt.

use std::sync::Arc;

use super::leases::{LeaseUse, lease_ttl};
use super::watch::WatchHandle;
use crate::backend::Renew;
use crate::error::{BackendError, Failure};
use crate::fencing::Token;

/// One attempt of this session.
pub(super) struct EtcdAttempt {
    /// Tells it apart from the session's other attempts for the same lock.
    pub(super) key_number: u32,
    /// The highest token that the client had seen before the first request that may have made the key.
    pub(super) floor: Token,
    pub(super) state: AttemptState,
}

pub(super) enum AttemptState {
    /// Nothing of it is in the cluster, and none of its requests can still be executed. Its next request may use the lease.
    Idle { lease: Option<LeaseUse> },
    /// No key of it is known, but a request that makes one may still be executed.
    Unanswered { lease: Option<LeaseUse> },
    /// Its key is in the queue. The watch is on the key ahead.
    Waiting { key: QueueKey, watch: Option<WatchHandle> },
    /// It was granted the lock.
    Holding { key: QueueKey },
    /// A deletion of its key was sent, or will be, and was not confirmed.
    Withdrawing(Withdrawal),
}

/// An attempt's key in the queue of its lock.
pub(super) struct QueueKey {
    /// Its create revision.
    pub(super) created: i64,
    /// The lease it is under, as far as this session knows.
    pub(super) lease: LeaseUse,
    /// Leases under which a request without an answer may have put it, or may still put it.
    pub(super) other_leases: Vec<LeaseUse>,
    /// The note in its value.
    pub(super) note: Arc<str>,
    /// A request that makes it may be executed once more.
    may_appear_again: bool,
}

/// A deletion that was not confirmed yet.
pub(super) struct Withdrawal {
    pub(super) deletion: Deletion,
    /// The leases that the key may be under. They are kept alive until the key is gone, as they were before.
    _leases: Vec<LeaseUse>,
    /// A task in the background repeats the deletion.
    pub(super) is_repeated: bool,
}

/// What has to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deletion {
    /// The key with this create revision. Nothing else of the attempt can appear.
    Key { created: i64, held: bool },
    /// Whatever requests have made, or may still make. `held` is the create revision of the key if the attempt was granted the lock.
    Anything { held: Option<i64> },
}

impl EtcdAttempt {
    pub(super) fn new(key_number: u32) -> Self {
        Self { key_number, floor: 0, state: AttemptState::Idle { lease: None } }
    }

    /// True if nothing of it is in the cluster, and nothing will come.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, AttemptState::Idle { .. })
    }

    pub(super) fn is_withdrawing(&self) -> bool {
        matches!(self.state, AttemptState::Withdrawing(_))
    }

    pub(super) fn is_holding(&self) -> bool {
        matches!(self.state, AttemptState::Holding { .. })
    }

    /// Its key, while it waits or holds.
    pub(super) fn key(&self) -> Option<&QueueKey> {
        match &self.state {
            AttemptState::Waiting { key, .. } | AttemptState::Holding { key } => Some(key),
            _ => None,
        }
    }

    pub(super) fn key_mut(&mut self) -> Option<&mut QueueKey> {
        match &mut self.state {
            AttemptState::Waiting { key, .. } | AttemptState::Holding { key } => Some(key),
            _ => None,
        }
    }

    /// Takes the lease that was left for its next request.
    pub(super) fn take_lease(&mut self) -> Option<LeaseUse> {
        match &mut self.state {
            AttemptState::Idle { lease } | AttemptState::Unanswered { lease } => lease.take(),
            _ => None,
        }
    }

    /// Leaves a lease for its next request.
    pub(super) fn leave_lease(&mut self, used: LeaseUse) {
        if let AttemptState::Idle { lease } | AttemptState::Unanswered { lease } = &mut self.state {
            *lease = Some(used);
        }
    }

    /// Notes that a request which makes its key may still be executed.
    pub(super) fn note_unanswered(&mut self) {
        match &mut self.state {
            AttemptState::Idle { lease } => self.state = AttemptState::Unanswered { lease: lease.take() },
            AttemptState::Waiting { key, .. } | AttemptState::Holding { key } => key.may_appear_again = true,
            AttemptState::Unanswered { .. } | AttemptState::Withdrawing(_) => {}
        }
    }

    /// Notes that its key exists. It waits until it is known to be first.
    pub(super) fn has_key(&mut self, created: i64, lease: LeaseUse, note: Arc<str>) {
        let may_appear_again = !self.is_over();
        let key = QueueKey { created, lease, other_leases: Vec::new(), note, may_appear_again };
        self.state = AttemptState::Waiting { key, watch: None };
    }

    /// Notes that its key is first. The watch ends.
    pub(super) fn holds(&mut self) {
        self.state = match self.take_state() {
            AttemptState::Waiting { mut key, .. } | AttemptState::Holding { mut key } => {
                key.lease.hold();
                AttemptState::Holding { key }
            }
            other => other,
        };
    }

    /// Notes that others are ahead of its key, and which watch is on the next of them.
    pub(super) fn waits(&mut self, watch: impl FnOnce(Option<WatchHandle>) -> WatchHandle) {
        self.state = match self.take_state() {
            AttemptState::Waiting { key, watch: before } => AttemptState::Waiting { key, watch: Some(watch(before)) },
            AttemptState::Holding { key } => AttemptState::Waiting { key, watch: Some(watch(None)) },
            other => other,
        };
    }

    /// Notes that its key is gone. The lease is left for its next request, unless it has ended.
    pub(super) fn lost_key(&mut self, lease_is_over: bool) {
        self.state = match self.take_state() {
            AttemptState::Waiting { key, .. } | AttemptState::Holding { key } => {
                let QueueKey { lease, may_appear_again, .. } = key;
                let lease = (!lease_is_over).then_some(lease);
                if may_appear_again { AttemptState::Unanswered { lease } } else { AttemptState::Idle { lease } }
            }
            other => other,
        };
    }

    /// What has to be deleted from here on; `None` if the attempt is over. No key of the attempt is used again before the deletion is
    /// confirmed.
    pub(super) fn withdraw(&mut self) -> Option<Deletion> {
        let (deletion, leases) = match self.take_state() {
            AttemptState::Idle { .. } => return None,
            AttemptState::Withdrawing(withdrawal) => {
                let deletion = withdrawal.deletion;
                self.state = AttemptState::Withdrawing(withdrawal);
                return Some(deletion);
            }
            AttemptState::Unanswered { lease } => (Deletion::Anything { held: None }, lease.into_iter().collect()),
            AttemptState::Waiting { key, .. } => (key.deletion(false), key.into_leases()),
            AttemptState::Holding { key } => (key.deletion(true), key.into_leases()),
        };
        self.state = AttemptState::Withdrawing(Withdrawal { deletion, _leases: leases, is_repeated: false });
        Some(deletion)
    }

    /// Notes that nothing of it is left, and nothing will come.
    pub(super) fn end(&mut self) {
        *self = Self::new(self.key_number);
    }

    /// What the failure of a request means for the attempt's owner, who withdraws after an unknown outcome only.
    pub(super) fn judge(&self, error: BackendError) -> BackendError {
        if self.is_over() { error } else { BackendError { failure: Failure::Unknown, ..error } }
    }

    /// Leaves the attempt idle, until the caller sets another state.
    fn take_state(&mut self) -> AttemptState {
        std::mem::replace(&mut self.state, AttemptState::Idle { lease: None })
    }
}

impl QueueKey {
    /// Notes that the key was seen under this lease, and that no request will move it any more.
    pub(super) fn is_under(&mut self, lease: i64) {
        if self.lease.id() != lease
            && let Some(index) = self.other_leases.iter().position(|other| other.id() == lease)
        {
            self.lease = self.other_leases.swap_remove(index);
        }
        self.other_leases.clear();
    }

    /// Notes that the key was put under this lease, with another note if there is one. Returns the lease that it was under.
    pub(super) fn put_under(&mut self, lease: LeaseUse, note: Option<Arc<str>>) -> LeaseUse {
        self.other_leases.clear();
        if let Some(note) = note {
            self.note = note;
        }
        std::mem::replace(&mut self.lease, lease)
    }

    /// True if the key can stay under its lease for this renewal: a plain renewal never shortens the TTL.
    pub(super) fn may_stay(&self, renew: &Renew) -> bool {
        let (has, wants) = (self.lease.lease.ttl, lease_ttl(renew.ttl));
        self.other_leases.is_empty() && (has == wants || (has > wants && !renew.exact))
    }

    fn deletion(&self, held: bool) -> Deletion {
        if self.may_appear_again {
            Deletion::Anything { held: held.then_some(self.created) }
        } else {
            Deletion::Key { created: self.created, held }
        }
    }

    fn into_leases(self) -> Vec<LeaseUse> {
        let mut leases = self.other_leases;
        leases.push(self.lease);
        leases
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::owner::{OwnerId, SessionId};

    const TTL: Duration = Duration::from_secs(30);

    fn waiting(created: i64) -> EtcdAttempt {
        let mut attempt = EtcdAttempt::new(0);
        attempt.has_key(created, LeaseUse::sample(1, TTL), "note".into());
        attempt
    }

    #[test]
    fn what_is_known_of_the_key_decides_how_it_is_deleted() {
        assert_eq!(EtcdAttempt::new(0).withdraw(), None);

        let mut unanswered = EtcdAttempt::new(0);
        unanswered.note_unanswered();
        assert_eq!(unanswered.withdraw(), Some(Deletion::Anything { held: None }));

        assert_eq!(waiting(7).withdraw(), Some(Deletion::Key { created: 7, held: false }));
        let mut holding = waiting(7);
        holding.holds();
        assert_eq!(holding.withdraw(), Some(Deletion::Key { created: 7, held: true }));

        let mut answered_after_a_loss = EtcdAttempt::new(0);
        answered_after_a_loss.note_unanswered();
        answered_after_a_loss.has_key(7, LeaseUse::sample(1, TTL), "note".into());
        answered_after_a_loss.holds();
        assert_eq!(answered_after_a_loss.withdraw(), Some(Deletion::Anything { held: Some(7) }));
    }

    #[test]
    fn r04_a_deletion_stays_what_it_is_until_it_is_confirmed() {
        let mut attempt = waiting(7);
        attempt.holds();
        let deletion = attempt.withdraw();
        assert_eq!(attempt.withdraw(), deletion);
        assert!(attempt.is_withdrawing() && !attempt.is_over() && attempt.key().is_none());
        attempt.end();
        assert!(attempt.is_over());
    }

    #[test]
    fn r04_an_attempt_is_not_over_while_a_request_of_it_may_still_be_executed() {
        let mut attempt = waiting(7);
        attempt.lost_key(true);
        assert!(attempt.is_over());

        let mut attempt = waiting(7);
        attempt.note_unanswered();
        attempt.lost_key(false);
        assert!(!attempt.is_over());
        assert_eq!(attempt.take_lease().map(|lease| lease.id()), Some(1), "its next request uses the lease that is left");
        let unknown = attempt.judge(BackendError::new(Failure::NotSent, "not sent"));
        assert_eq!(unknown.failure, Failure::Unknown);
    }

    #[test]
    fn a_key_that_may_be_under_several_leases_stays_there_until_it_is_seen() {
        let renew =
            |ttl, exact| Renew { key: "k".into(), owner: OwnerId { session: SessionId::from_u128(1), sequence: 1 }, ttl, exact };
        let mut attempt = waiting(7);
        let key = attempt.key_mut().unwrap();
        assert!(key.may_stay(&renew(TTL, true)) && key.may_stay(&renew(TTL / 2, false)));
        assert!(!key.may_stay(&renew(TTL / 2, true)) && !key.may_stay(&renew(TTL * 2, false)));
        key.other_leases.push(LeaseUse::sample(2, TTL));
        assert!(!key.may_stay(&renew(TTL, false)));
        key.is_under(2);
        assert_eq!((key.lease.id(), key.other_leases.len()), (2, 0));
    }
}
