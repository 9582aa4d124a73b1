//! The transactions that are sent.
//!
//! Each holder and each waiter of a lock has a queue key, and the key with the lowest create revision holds. That revision is the token.
//!
//! A request that makes a key compares the revision of the session's guard, so that a session can make its older requests void by moving
//! the guard on. A request that deletes a key compares that key's create revision, or the guard's revision: if it is executed late, it must
//! not delete the key of the next attempt with the same key number.

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp};

use super::names::{self, GuardRevision, LockQueue};
use crate::backend::Acquire;
use crate::owner::SessionId;

/// One part of a batch, or a transaction of its own.
#[derive(Clone, Debug)]
pub(super) enum Step {
    MakeKey(KeyRequest),
    /// Deletes the key that was made at `created`, and no later one, so a second execution changes nothing. As a transaction it succeeds if
    /// the key existed.
    Delete {
        queue_key: Vec<u8>,
        created: i64,
    },
    Other {
        txn: Txn,
        /// At most this many bytes of keys and values.
        bytes: usize,
    },
}

impl Step {
    /// The step as a transaction, which serves whatever it finds.
    pub(super) fn txn(&self) -> Txn {
        match self {
            Self::MakeKey(request) => request.txn(),
            Self::Delete { queue_key, created } => {
                Txn::new().when(vec![made_at(queue_key, *created)]).and_then(vec![TxnOp::delete(queue_key.clone(), None)])
            }
            Self::Other { txn, .. } => txn.clone(),
        }
    }

    /// The queue in which the step makes a key, if it makes one.
    pub(super) fn joins_queue(&self) -> Option<&[u8]> {
        match self {
            Self::MakeKey(request) => Some(&request.queue.prefix),
            _ => None,
        }
    }

    /// At most this many bytes of keys and values.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::MakeKey(request) => request.bytes(),
            Self::Delete { queue_key, .. } => 2 * queue_key.len(),
            Self::Other { bytes, .. } => *bytes,
        }
    }

    /// True if the step will probably find its precondition.
    pub(super) fn is_optimistic(&self) -> bool {
        match self {
            Self::MakeKey(request) => request.optimistic,
            Self::Delete { .. } => true,
            Self::Other { .. } => false,
        }
    }

    /// The step as a precondition and one operation, for an optimistic batch that compares `guard`; `None` if the batch has to nest the
    /// step.
    pub(super) fn precondition_and_op(&self, guard: Option<&GuardRevision>) -> Option<(Compare, TxnOp)> {
        match self {
            Self::MakeKey(request) if request.optimistic && guard == Some(&request.guard) => {
                Some((request.queue_is_empty(), request.put()))
            }
            Self::Delete { queue_key, created } => Some((made_at(queue_key, *created), TxnOp::delete(queue_key.clone(), None))),
            _ => None,
        }
    }
}

fn made_at(queue_key: &[u8], created: i64) -> Compare {
    Compare::create_revision(queue_key, CompareOp::Equal, created)
}

/// A request for a queue key: at the end of the queue, or for a try only if the queue is empty.
#[derive(Clone, Debug)]
pub(super) struct KeyRequest {
    queue: LockQueue,
    queue_key: Vec<u8>,
    value: String,
    lease: i64,
    pub(super) guard: GuardRevision,
    enqueue: bool,
    /// The queue is probably empty: nobody contended for the lock recently.
    pub(super) optimistic: bool,
}

impl KeyRequest {
    pub(super) fn new(queue: &LockQueue, key_number: u32, acquire: &Acquire, lease: i64, guard: GuardRevision) -> Self {
        Self {
            queue_key: queue.queue_key(acquire.owner.session, key_number),
            value: names::value(acquire.owner, &acquire.note),
            queue: queue.clone(),
            lease,
            guard,
            enqueue: acquire.enqueue,
            optimistic: false,
        }
    }

    /// One transaction decides whether the key is made and whether it is first. With `enqueue` it reads the last key of the queue *before*
    /// it puts ours, so that the key it reads is the one directly ahead of ours; without a last key, we hold. A try puts our key only if
    /// the whole queue is empty.
    ///
    /// With `enqueue` the other branch is empty: most requests meet an empty queue, and servers read each request twice.
    fn txn(&self) -> Txn {
        if self.enqueue {
            let free = Compare::create_revision(&*self.queue_key, CompareOp::Equal, 0);
            let last = one_by_age(&self.queue, SortOrder::Descend, GetOptions::new());
            Txn::new().when(vec![self.guard.compare(), free]).and_then(vec![last, self.put()])
        } else {
            let reasons = reason_reads(&self.queue, self.queue_key.clone(), &self.guard);
            Txn::new().when(vec![self.guard.compare(), self.queue_is_empty()]).and_then(vec![self.put()]).or_else(reasons)
        }
    }

    fn put(&self) -> TxnOp {
        TxnOp::put(&*self.queue_key, &*self.value, Some(PutOptions::new().with_lease(self.lease)))
    }

    /// In an empty range etcd compares a key that never existed, whose create revision is 0.
    fn queue_is_empty(&self) -> Compare {
        Compare::create_revision(&*self.queue.prefix, CompareOp::Equal, 0).with_range(self.queue.end())
    }

    fn bytes(&self) -> usize {
        self.value.len() + bytes(&self.queue)
    }
}

/// Reads why a queue key was not made.
pub(super) fn refusal_reasons(queue: &LockQueue, queue_key: Vec<u8>, guard: &GuardRevision) -> Step {
    Step::Other { txn: Txn::new().and_then(reason_reads(queue, queue_key, guard)), bytes: bytes(queue) }
}

fn reason_reads(queue: &LockQueue, queue_key: Vec<u8>, guard: &GuardRevision) -> Vec<TxnOp> {
    let first = one_by_age(queue, SortOrder::Ascend, GetOptions::new());
    vec![TxnOp::get(&*guard.key, Some(keys_only())), TxnOp::get(queue_key, None), first]
}

/// Reads who holds the lock.
pub(super) fn first_in_queue(queue: &LockQueue) -> Step {
    let txn = Txn::new().and_then(vec![one_by_age(queue, SortOrder::Ascend, GetOptions::new())]);
    Step::Other { txn, bytes: bytes(queue) }
}

/// Reads how the queue key that was made at `created` stands. It writes nothing, so it costs the cluster no entry in its log.
pub(super) fn look(queue: &LockQueue, queue_key: Vec<u8>, created: i64) -> Step {
    let older = keys_only().with_max_create_revision(created - 1);
    let txn = Txn::new().and_then(vec![
        TxnOp::get(queue_key, Some(keys_only())),
        one_by_age(queue, SortOrder::Ascend, GetOptions::new()),
        one_by_age(queue, SortOrder::Descend, older),
    ]);
    Step::Other { txn, bytes: bytes(queue) }
}

/// Deletes whatever the attempts have made by now, and with `put_guard` moves the guard on in the same transaction: older requests that
/// were not executed yet never will be.
///
/// The transaction compares the guard that it moves, so it is executed at most once. A second execution could delete a key of the next
/// attempt with the same key number.
pub(super) fn delete_and_move_guard(queue_keys: &[&[u8]], guard: &GuardRevision, put_guard: TxnOp) -> Txn {
    let delete = |queue_key: &&[u8]| TxnOp::delete(*queue_key, Some(DeleteOptions::new().with_prev_key()));
    let ops = std::iter::once(put_guard).chain(queue_keys.iter().map(delete)).collect::<Vec<_>>();
    Txn::new().when(vec![guard.compare()]).and_then(ops)
}

/// Puts the key that was made at `created` under another lease, with a new value if there is one. Its create revision, the token, stays.
pub(super) fn move_key(queue_key: Vec<u8>, created: i64, lease: i64, value: Option<String>, guard: &GuardRevision) -> Step {
    let bytes = value.as_ref().map_or(0, String::len) + 4 * (queue_key.len() + guard.key.len());
    let options = PutOptions::new().with_lease(lease);
    let options = if value.is_some() { options } else { options.with_ignore_value() };
    let same = made_at(&queue_key, created);
    let put = TxnOp::put(queue_key, value.unwrap_or_default(), Some(options));
    let read_guard = TxnOp::get(&*guard.key, Some(keys_only()));
    let txn = Txn::new().when(vec![guard.compare(), same]).and_then(vec![put]).or_else(vec![read_guard]);
    Step::Other { txn, bytes }
}

/// A transaction that needs the same rights and room as a lock's, and writes nothing: no key has the revision that it compares. Servers
/// check rights and room for all of a transaction's operations before they look at its compares.
pub(super) fn probe(root: &str, session: SessionId) -> Txn {
    let guard = names::guard(root, session);
    let queue = LockQueue::of(root, "");
    let never = Compare::create_revision(&*guard, CompareOp::Equal, -1);
    let ops = vec![
        one_by_age(&queue, SortOrder::Descend, keys_only()),
        TxnOp::put(&*guard, "", None),
        TxnOp::delete(queue.queue_key(session, 0), None),
    ];
    Txn::new().when(vec![never]).and_then(ops)
}

/// At most this many bytes of keys in a step, the guard's included.
fn bytes(queue: &LockQueue) -> usize {
    8 * (queue.prefix.len() + 64)
}

/// Reads the oldest or the youngest key of a queue.
fn one_by_age(queue: &LockQueue, order: SortOrder, options: GetOptions) -> TxnOp {
    let options = options.with_range(queue.end()).with_sort(SortTarget::Create, order).with_limit(1);
    TxnOp::get(queue.prefix.clone(), Some(options))
}

fn keys_only() -> GetOptions {
    GetOptions::new().with_keys_only()
}

#[cfg(test)]
impl KeyRequest {
    /// An optimistic request for a key in the queue of `key`.
    pub(super) fn sample(key: &str) -> Self {
        let owner = crate::owner::OwnerId { session: SessionId::from_u128(1), sequence: 1 };
        let guard = GuardRevision { key: std::sync::Arc::from(*b"guard"), revision: 1 };
        let queue = LockQueue::of("dlock/", key);
        let (queue_key, value) = (queue.queue_key(owner.session, 0), names::value(owner, ""));
        Self { queue, queue_key, value, lease: 1, guard, enqueue: true, optimistic: true }
    }
}
