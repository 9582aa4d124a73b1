//! The transactions, and what their answers say.
//!
//! Whoever holds or waits for a lock has a key under it, and the one with the lowest create revision holds. That revision is the token.
//!
//! A request that makes a key is bound to the session's guard: it compares the guard's revision, and a session that wants nothing older
//! to be executed any more moves the guard on.

use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};

use super::batch::Step;
use super::names::Queue;
use crate::backend::{Acquire, Waiting};
use crate::error::{BackendError, Failure};
use crate::holder::{Holder, Note};
use crate::owner::OwnerId;

/// The guard's key and the revision of it that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guarded {
    pub(super) key: Vec<u8>,
    pub(super) revision: i64,
}

impl Guarded {
    fn compare(&self) -> Compare {
        Compare::mod_revision(self.key.clone(), CompareOp::Equal, self.revision)
    }
}

/// The answer to a transaction.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) txn: TxnResponse,
    /// The store's revision behind it.
    pub(super) revision: i64,
    /// The first revision of which it does not know all: its own one if others were executed with it.
    pub(super) unseen: i64,
    /// The same request may be executed once more: another server got it first and did not answer.
    pub(super) ghosts: bool,
}

/// What a request for a place says.
#[derive(Debug, PartialEq)]
pub(super) enum Asked {
    /// A place was made at this revision; nobody is ahead.
    First(i64),
    /// A place was made at this revision, behind others.
    Behind(i64, Ahead),
    /// The owner has had a place since this revision: nothing was done.
    Exists(i64),
    /// A try found others there: nothing was done.
    Held(Option<Holder>),
    /// The guard has moved on: nothing was done.
    Unguarded,
}

/// Who is ahead of a place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ahead {
    /// The key of the next one: when it goes it is time to look again.
    pub(super) next: Vec<u8>,
    /// Deletions of it that the answer does not know of happened at this revision or later.
    pub(super) since: i64,
    pub(super) holder: Option<Holder>,
    /// How many wait between the holder and the place, where that was counted.
    pub(super) position: Option<u64>,
}

impl Ahead {
    pub(super) fn waiting(&self, look_again: std::time::Duration) -> Waiting {
        Waiting { look_again, position: self.position, holder: self.holder.clone() }
    }
}

/// Asks for a place: at the end of the queue, or for a try only where nobody else has one.
///
/// One request decides both. For a place in the queue: who is last, then our own key, in this order, so that whoever is last is next
/// ahead of us; nobody is last: we hold. For a try: our own key if the whole queue is empty.
pub(super) fn ask(queue: &Queue, acquire: &Acquire, lease: i64, guard: &Guarded) -> Step {
    let own = queue.place(acquire.owner);
    let put = TxnOp::put(own.clone(), acquire.note.as_bytes(), Some(PutOptions::new().with_lease(lease)));
    let (free, done) = if acquire.enqueue {
        let free = Compare::create_revision(own.clone(), CompareOp::Equal, 0);
        (free, vec![by_age(queue, SortOrder::Descend, keys_only()), put, by_age(queue, SortOrder::Ascend, GetOptions::new())])
    } else {
        // Of an empty range etcd compares a key that was never made.
        (Compare::create_revision(queue.prefix.clone(), CompareOp::Equal, 0).with_range(queue.end()), vec![put])
    };
    let other = vec![
        TxnOp::get(guard.key.clone(), Some(keys_only())),
        TxnOp::get(own, Some(keys_only())),
        by_age(queue, SortOrder::Ascend, GetOptions::new()),
    ];
    let txn = Txn::new().when(vec![guard.compare(), free]).and_then(done).or_else(other);
    Step { txn, place_in: Some(queue.prefix.clone()), bytes: acquire.note.len() + bytes(queue) }
}

/// Reads the answer to [`ask`].
pub(super) fn asked(queue: &Queue, guard: &Guarded, answer: &Answer) -> Result<Asked, BackendError> {
    let revision = answer.revision;
    match (answer.txn.succeeded(), &*answer.txn.op_responses()) {
        (true, [TxnOpResponse::Put(_)]) => Ok(Asked::First(revision)),
        (true, [TxnOpResponse::Get(last), TxnOpResponse::Put(_), TxnOpResponse::Get(first)]) => Ok(match last.kvs().first() {
            None => Asked::First(revision),
            Some(last) => {
                let holder = first.kvs().first().map(|first| holder(queue, first));
                // The holder and we are counted as well.
                let position = u64::try_from(first.count() - 2).ok();
                Asked::Behind(revision, Ahead { next: last.key().to_vec(), since: answer.unseen, holder, position })
            }
        }),
        (false, [TxnOpResponse::Get(guarded), TxnOpResponse::Get(own), TxnOpResponse::Get(first)]) => {
            if guarded.kvs().first().map(KeyValue::mod_revision) != Some(guard.revision) {
                return Ok(Asked::Unguarded);
            }
            Ok(match own.kvs().first() {
                Some(own) => Asked::Exists(own.create_revision()),
                None => Asked::Held(first.kvs().first().map(|first| holder(queue, first))),
            })
        }
        _ => Err(unexpected()),
    }
}

/// Reads who has the key, for a try that expects to fail.
pub(super) fn peek(queue: &Queue) -> Txn {
    Txn::new().and_then(vec![by_age(queue, SortOrder::Ascend, GetOptions::new())])
}

/// Reads the answer to [`peek`].
pub(super) fn peeked(queue: &Queue, answer: &Answer) -> Result<Option<Holder>, BackendError> {
    match &*answer.txn.op_responses() {
        [TxnOpResponse::Get(first)] => Ok(first.kvs().first().map(|first| holder(queue, first))),
        _ => Err(unexpected()),
    }
}

/// Reads how a place that was made at `created` stands. Changes nothing, so it costs the cluster no entry in its log.
pub(super) fn look(queue: &Queue, owner: OwnerId, created: i64) -> Step {
    let older = keys_only().with_max_create_revision(created - 1);
    let txn = Txn::new().and_then(vec![
        TxnOp::get(queue.place(owner), Some(keys_only())),
        by_age(queue, SortOrder::Ascend, GetOptions::new()),
        by_age(queue, SortOrder::Descend, older),
    ]);
    Step { txn, place_in: None, bytes: bytes(queue) }
}

/// What a look at a place says, and the lease that its key is under.
#[derive(Debug, PartialEq)]
pub(super) enum Looked {
    /// It is first.
    First { lease: i64 },
    /// Others are ahead.
    Behind { lease: i64, ahead: Ahead },
    /// There is no such place any more; the owner may have another one, made at this revision.
    Gone(Option<i64>),
}

/// Reads the answer to [`look`]: it holds only who has a key *and* is first.
pub(super) fn looked(queue: &Queue, created: i64, answer: &Answer) -> Result<Looked, BackendError> {
    let responses = answer.txn.op_responses();
    let [TxnOpResponse::Get(own), TxnOpResponse::Get(first), TxnOpResponse::Get(older)] = &*responses else {
        return Err(unexpected());
    };
    let Some(own) = own.kvs().first() else { return Ok(Looked::Gone(None)) };
    if own.create_revision() != created {
        return Ok(Looked::Gone(Some(own.create_revision())));
    }
    let lease = own.lease();
    Ok(match older.kvs().first() {
        None => Looked::First { lease },
        Some(next) => {
            let holder = first.kvs().first().map(|first| holder(queue, first));
            Looked::Behind { lease, ahead: Ahead { next: next.key().to_vec(), since: answer.unseen, holder, position: None } }
        }
    })
}

/// Deletes an owner's key, whatever its revision: nobody wants it any more. Succeeds as a transaction if it was the grant with `token`.
///
/// With `guard`, requests made before this one that were not executed yet will never be.
pub(super) fn delete(queue: &Queue, owner: OwnerId, token: i64, guard: Option<TxnOp>) -> Step {
    let own = queue.place(owner);
    let delete = TxnOp::delete(own.clone(), Some(DeleteOptions::new()));
    let operations: Vec<_> = guard.into_iter().chain([delete]).collect();
    let same = Compare::create_revision(own, CompareOp::Equal, token);
    let txn = Txn::new().when(vec![same]).and_then(operations.clone()).or_else(operations);
    Step { txn, place_in: None, bytes: bytes(queue) }
}

/// Puts the key that was made at `created` under another lease, and `note` in it if there is one; its create revision stays.
pub(super) fn rehang(queue: &Queue, owner: OwnerId, created: i64, lease: i64, note: Option<&str>, guard: &Guarded) -> Step {
    let own = queue.place(owner);
    let options = PutOptions::new().with_lease(lease);
    let options = if note.is_some() { options } else { options.with_ignore_value() };
    let put = TxnOp::put(own.clone(), note.unwrap_or_default(), Some(options));
    let other = vec![TxnOp::get(guard.key.clone(), Some(keys_only())), TxnOp::get(own.clone(), Some(keys_only()))];
    let same = Compare::create_revision(own, CompareOp::Equal, created);
    let txn = Txn::new().when(vec![guard.compare(), same]).and_then(vec![put]).or_else(other);
    Step { txn, place_in: None, bytes: note.map_or(0, str::len) + bytes(queue) }
}

/// What became of a grant's key that was to go under another lease.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rehung {
    Done,
    /// The grant is over.
    Gone,
    /// The guard has moved on: nothing was done.
    Unguarded,
}

/// Reads the answer to [`rehang`].
pub(super) fn rehung(guard: &Guarded, answer: &Answer) -> Result<Rehung, BackendError> {
    match (answer.txn.succeeded(), &*answer.txn.op_responses()) {
        (true, _) => Ok(Rehung::Done),
        (false, [TxnOpResponse::Get(guarded), ..]) => {
            let same = guarded.kvs().first().map(KeyValue::mod_revision) == Some(guard.revision);
            Ok(if same { Rehung::Gone } else { Rehung::Unguarded })
        }
        _ => Err(unexpected()),
    }
}

/// What the keys in a step take at most, guard and all.
fn bytes(queue: &Queue) -> usize {
    8 * (queue.prefix.len() + 64)
}

/// Keys of a queue by age, one of them.
fn by_age(queue: &Queue, order: SortOrder, options: GetOptions) -> TxnOp {
    let options = options.with_range(queue.end()).with_sort(SortTarget::Create, order).with_limit(1);
    TxnOp::get(queue.prefix.clone(), Some(options))
}

fn keys_only() -> GetOptions {
    GetOptions::new().with_keys_only()
}

/// What a key says about its owner. What is left of its lease would take another request.
pub(super) fn holder(queue: &Queue, place: &KeyValue) -> Holder {
    Holder {
        owner: queue.owner(place.key()),
        token: u64::try_from(place.create_revision()).ok(),
        remaining: None,
        note: std::str::from_utf8(place.value()).ok().and_then(Note::decode),
    }
}

pub(super) fn unexpected() -> BackendError {
    BackendError::new(Failure::Unknown, "an answer that does not fit the request")
}

/// True for the answer that a lease is over: nothing was executed.
pub(super) fn is_lease_gone(error: &BackendError) -> bool {
    let cause = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<etcd_client::Error>());
    matches!(cause, Some(etcd_client::Error::GRpcStatus(status)) if status.message().contains("requested lease not found"))
}
