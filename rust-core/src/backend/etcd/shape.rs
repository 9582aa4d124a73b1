//! The two shapes of a batch.
//!
//! **Nested**, each step is a transaction inside the batch's transaction, with compares and an answer of its own. That serves whatever the
//! steps find.
//!
//! **Optimistic**, the batch's own compares are the preconditions of its steps: nobody has or wants the lock that a step asks for, the key
//! that a step deletes exists, the guard has not moved. The steps are then bare puts and deletions, which costs the server a quarter less.
//! If one precondition fails, nothing at all is executed, and the batch is sent again, nested. So a step that will probably fail is nested
//! inside the optimistic batch of the others, and a session whose optimistic batches fail sends fewer of them: see [`OptimisticBackoff`].

use etcd_client::{Txn, TxnOp};

use super::names::GuardRevision;
use super::request::Step;

/// One transaction that executes all steps, each by its own compares.
pub(super) fn nested<'a>(steps: impl Iterator<Item = &'a Step>) -> Txn {
    let all: Vec<_> = steps.map(|step| TxnOp::txn(step.txn())).collect();
    Txn::new().and_then(all)
}

/// True if an optimistic batch of these steps is worth a try: most of them are optimistic.
pub(super) fn are_optimistic<'a>(steps: impl Iterator<Item = &'a Step>) -> bool {
    let (mut optimistic, mut count) = (0, 0);
    for step in steps {
        optimistic += usize::from(step.is_optimistic());
        count += 1;
    }
    2 * optimistic > count
}

/// One transaction that executes all steps if every optimistic one finds its precondition.
pub(super) fn optimistic<'a>(steps: impl Iterator<Item = &'a Step> + Clone) -> Txn {
    // All steps have the same guard revision, unless the guard has just moved on.
    let guard = steps.clone().find_map(|step| match step {
        Step::MakeKey(request) if request.optimistic => Some(&request.guard),
        _ => None,
    });
    let mut preconditions: Vec<_> = guard.map(GuardRevision::compare).into_iter().collect();
    let mut ops = Vec::new();
    for step in steps {
        if let Some((precondition, op)) = step.precondition_and_op(guard) {
            preconditions.push(precondition);
            ops.push(op);
        } else {
            ops.push(TxnOp::txn(step.txn()));
        }
    }
    Txn::new().when(preconditions).and_then(ops)
}

/// Decides whether the next batch may be optimistic. A failure wastes one request, a success saves a quarter of one.
#[derive(Debug, Default)]
pub(super) struct OptimisticBackoff {
    /// The next failure makes twice as many batches nested.
    length: u32,
    /// How many batches are nested from now on.
    left: u32,
}

/// At most this many batches are nested before another one may be optimistic.
const LONGEST_BACKOFF: u32 = 512;

impl OptimisticBackoff {
    /// True if the next batch may be optimistic.
    pub(super) fn next(&mut self) -> bool {
        let ready = self.left == 0;
        self.left = self.left.saturating_sub(1);
        ready
    }

    /// Notes the outcome of an optimistic batch.
    pub(super) fn note(&mut self, succeeded: bool) {
        if succeeded {
            self.length = self.length.saturating_sub(1);
        } else {
            self.length = (self.length * 2).clamp(1, LONGEST_BACKOFF);
            self.left = self.length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::etcd::request::KeyRequest;

    #[test]
    fn a_step_that_will_probably_fail_is_nested_in_the_optimistic_batch_of_the_others() {
        let (mut contended, mut moved) = (KeyRequest::sample("contended"), KeyRequest::sample("moved"));
        contended.optimistic = false;
        moved.guard.revision = 2;
        let delete = Step::Delete { queue_key: b"queue key".to_vec(), created: 7 };
        let steps = [Step::MakeKey(contended), delete, Step::MakeKey(KeyRequest::sample("a")), Step::MakeKey(moved)];
        let guard = KeyRequest::sample("a").guard;
        let shape = steps.each_ref().map(|step| step.precondition_and_op(Some(&guard)).is_some());
        assert_eq!(shape, [false, true, true, false]);
        assert!(are_optimistic(steps.iter()));
        assert!(!are_optimistic(steps[..2].iter()), "one of two is not");
    }

    #[test]
    fn a_session_whose_optimistic_batches_fail_sends_fewer() {
        let mut backoff = OptimisticBackoff::default();
        let tried = (0..10_000).filter(|_| backoff.next()).count();
        assert_eq!(tried, 10_000, "nothing has failed");
        let mut tried = 0;
        for _ in 0..10_000 {
            if backoff.next() {
                tried += 1;
                backoff.note(false);
            }
        }
        assert!((10..40).contains(&tried), "{tried}");
        // An occasional failure does not matter.
        let mut backoff = OptimisticBackoff::default();
        let mut tried = 0;
        for _ in 0..10_000 {
            if backoff.next() {
                tried += 1;
                backoff.note(tried % 20 != 0);
            }
        }
        assert!(tried > 9_000, "{tried}");
    }
}
