//! The transactions, and what their answers say.
//!
//! Whoever holds or waits for a lock has a key under it, and the one with the lowest create revision holds. That revision is the token.
//!
//! A request that makes a key is bound to the session's guard: it compares the guard's revision, and a session that wants nothing older
//! to be executed any more moves the guard on. A request that deletes a key compares the key's create revision, or the guard's: executed
//! late, it must not meet the key of the next one who has this chair.

use std::sync::Arc;

use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, GetResponse, KeyValue, PutOptions, SortOrder, SortTarget, Txn, TxnOp,
    TxnOpResponse, TxnResponse,
};

use super::names::{self, Queue};
use super::shape::Step;
use crate::backend::{Acquire, Waiting};
use crate::error::{BackendError, Failure};
use crate::holder::{Holder, Note};
use crate::owner::SessionId;

/// The guard's key and the revision of it that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guarded {
    pub(super) key: Arc<[u8]>,
    pub(super) revision: i64,
}

impl Guarded {
    pub(super) fn compare(&self) -> Compare {
        Compare::mod_revision(&*self.key, CompareOp::Equal, self.revision)
    }

    /// True if this read of the guard is the one that counts.
    fn is(&self, read: &GetResponse) -> bool {
        read.kvs().first().map(KeyValue::mod_revision) == Some(self.revision)
    }
}

/// What was answered to a transaction.
#[derive(Debug)]
pub(super) enum Said {
    Txn(TxnResponse),
    /// It found what it hoped for, and was done: a place was made with nobody ahead, or a key deleted.
    Done,
}

/// The answer to a transaction.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) said: Said,
    /// The store's revision behind it.
    pub(super) revision: i64,
    /// The first revision of which it does not know all: its own one if others were executed with it.
    pub(super) unseen: i64,
    /// The same request may be executed once more: another server got it first and did not answer.
    pub(super) ghosts: bool,
}

impl Answer {
    /// The same answer; with `ghosts` the request may be executed once more.
    pub(super) fn haunted(self, ghosts: bool) -> Self {
        Self { ghosts: self.ghosts | ghosts, ..self }
    }

    pub(super) fn succeeded(&self) -> bool {
        match &self.said {
            Said::Txn(txn) => txn.succeeded(),
            Said::Done => true,
        }
    }

    pub(super) fn op_responses(&self) -> Vec<TxnOpResponse> {
        match &self.said {
            Said::Txn(txn) => txn.op_responses(),
            Said::Done => Vec::new(),
        }
    }
}

/// A request for a place: at the end of the queue, or for a try only where nobody else has one.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) queue: Queue,
    place: Vec<u8>,
    value: String,
    lease: i64,
    pub(super) guard: Guarded,
    enqueue: bool,
    /// Nothing is known of others that have or want the lock.
    pub(super) hopeful: bool,
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
    /// Somebody else's place, made at this revision, is where ours would be: nothing was done.
    Taken(i64),
    /// Others are there, which ends a try: nothing was done.
    Held(Option<Holder>),
    /// The guard has moved on: nothing was done.
    Unguarded,
    /// Nothing was done: [`why_not`] has the reason.
    Refused,
}

/// Who is ahead of a place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ahead {
    /// The key of the next one: when it goes it is time to look again.
    pub(super) next: Vec<u8>,
    /// Deletions of it that the answer does not know of happened at this revision or later.
    pub(super) since: i64,
    /// The holder, where that was read.
    pub(super) holder: Option<Holder>,
    /// How many wait between the holder and the place, where that was counted.
    pub(super) position: Option<u64>,
}

impl Ahead {
    pub(super) fn waiting(&self, look_again: std::time::Duration) -> Waiting {
        Waiting { look_again, position: self.position, holder: self.holder.clone() }
    }
}

impl Ask {
    pub(super) fn new(queue: &Queue, chair: u32, acquire: &Acquire, lease: i64, guard: Guarded) -> Self {
        Self {
            place: queue.place(acquire.owner.session, chair),
            value: names::value(acquire.owner, &acquire.note),
            queue: queue.clone(),
            lease,
            guard,
            enqueue: acquire.enqueue,
            hopeful: false,
        }
    }

    /// One request decides whether there is a place and whether it is the first. For a place in the queue: who is last, then our own key, in
    /// this order, so that whoever is last is next ahead of us; nobody is last: we hold. For a try: our own key if the whole queue is empty.
    ///
    /// What is not there costs nothing: most places are made in an empty queue, and servers read each request twice.
    pub(super) fn txn(&self) -> Txn {
        if self.enqueue {
            let free = Compare::create_revision(&*self.place, CompareOp::Equal, 0);
            let last = by_age(&self.queue, SortOrder::Descend, GetOptions::new());
            Txn::new().when(vec![self.guard.compare(), free]).and_then(vec![last, self.put()])
        } else {
            Txn::new().when(vec![self.guard.compare(), self.nobody_there()]).and_then(vec![self.put()]).or_else(reasons(
                &self.queue,
                self.place.clone(),
                &self.guard,
            ))
        }
    }

    pub(super) fn put(&self) -> TxnOp {
        TxnOp::put(&*self.place, &*self.value, Some(PutOptions::new().with_lease(self.lease)))
    }

    /// Of an empty range etcd compares a key that was never made.
    pub(super) fn nobody_there(&self) -> Compare {
        Compare::create_revision(&*self.queue.prefix, CompareOp::Equal, 0).with_range(self.queue.end())
    }

    pub(super) fn bytes(&self) -> usize {
        self.value.len() + bytes(&self.queue)
    }
}

/// Reads the answer to [`Ask`].
pub(super) fn asked(acquire: &Acquire, guard: &Guarded, answer: &Answer) -> Result<Asked, BackendError> {
    match (answer.succeeded(), &*answer.op_responses()) {
        (true, [] | [TxnOpResponse::Put(_)]) => Ok(Asked::First(answer.revision)),
        (true, [TxnOpResponse::Get(last), TxnOpResponse::Put(_)]) => Ok(match last.kvs().first() {
            None => Asked::First(answer.revision),
            Some(next) => {
                // The last of one is the holder.
                let holder = (last.count() == 1).then(|| holder(next));
                let position = u64::try_from(last.count() - 1).ok();
                Asked::Behind(answer.revision, Ahead { next: next.key().to_vec(), since: answer.unseen, holder, position })
            }
        }),
        (false, []) => Ok(Asked::Refused),
        (false, reasons) => reason(acquire, guard, reasons),
        _ => Err(unexpected()),
    }
}

/// Reads why no place was made.
pub(super) fn why_not(queue: &Queue, chair: u32, acquire: &Acquire, guard: &Guarded) -> Step {
    let txn = Txn::new().and_then(reasons(queue, queue.place(acquire.owner.session, chair), guard));
    Step::Other { txn, bytes: bytes(queue) }
}

fn reasons(queue: &Queue, own: Vec<u8>, guard: &Guarded) -> Vec<TxnOp> {
    vec![TxnOp::get(&*guard.key, Some(keys_only())), TxnOp::get(own, None), by_age(queue, SortOrder::Ascend, GetOptions::new())]
}

/// Reads the answer to [`why_not`].
pub(super) fn why(acquire: &Acquire, guard: &Guarded, answer: &Answer) -> Result<Asked, BackendError> {
    reason(acquire, guard, &answer.op_responses())
}

fn reason(acquire: &Acquire, guard: &Guarded, responses: &[TxnOpResponse]) -> Result<Asked, BackendError> {
    let [TxnOpResponse::Get(guarded), TxnOpResponse::Get(own), TxnOpResponse::Get(first)] = responses else {
        return Err(unexpected());
    };
    if !guard.is(guarded) {
        return Ok(Asked::Unguarded);
    }
    let Some(own) = own.kvs().first() else { return Ok(Asked::Held(first.kvs().first().map(holder))) };
    let is_ours = names::owner_and_note(own.value()).0 == acquire.owner.to_string();
    Ok(if is_ours { Asked::Exists(own.create_revision()) } else { Asked::Taken(own.create_revision()) })
}

/// Reads who has the key.
pub(super) fn peek(queue: &Queue) -> Step {
    let txn = Txn::new().and_then(vec![by_age(queue, SortOrder::Ascend, GetOptions::new())]);
    Step::Other { txn, bytes: bytes(queue) }
}

/// Reads the answer to [`peek`].
pub(super) fn peeked(answer: &Answer) -> Result<Option<Holder>, BackendError> {
    match &*answer.op_responses() {
        [TxnOpResponse::Get(first)] => Ok(first.kvs().first().map(holder)),
        _ => Err(unexpected()),
    }
}

/// Reads how a place that was made at `created` stands. Changes nothing, so it costs the cluster no entry in its log.
pub(super) fn look(queue: &Queue, place: Vec<u8>, created: i64) -> Step {
    let older = keys_only().with_max_create_revision(created - 1);
    let txn = Txn::new().and_then(vec![
        TxnOp::get(place, Some(keys_only())),
        by_age(queue, SortOrder::Ascend, GetOptions::new()),
        by_age(queue, SortOrder::Descend, older),
    ]);
    Step::Other { txn, bytes: bytes(queue) }
}

/// What a look at a place says, and the lease that its key is under.
#[derive(Debug, PartialEq)]
pub(super) enum Looked {
    /// It is first.
    First { lease: i64 },
    /// Others are ahead.
    Behind { lease: i64, ahead: Ahead },
    /// There is no such place any more.
    Gone,
}

/// Reads the answer to [`look`]: it holds only who has a key *and* is first.
pub(super) fn looked(created: i64, answer: &Answer) -> Result<Looked, BackendError> {
    let responses = answer.op_responses();
    let [TxnOpResponse::Get(own), TxnOpResponse::Get(first), TxnOpResponse::Get(older)] = &*responses else {
        return Err(unexpected());
    };
    let Some(own) = own.kvs().first().filter(|own| own.create_revision() == created) else { return Ok(Looked::Gone) };
    let lease = own.lease();
    Ok(match older.kvs().first() {
        None => Looked::First { lease },
        Some(next) => {
            let holder = first.kvs().first().map(holder);
            Looked::Behind { lease, ahead: Ahead { next: next.key().to_vec(), since: answer.unseen, holder, position: None } }
        }
    })
}

/// Deletes whatever attempts may have made by now, and with `put` moves the guard on in the same step: what was asked before and is not
/// executed yet will never be.
///
/// It compares the guard, which it changes, so it is executed once at most: never when a chair is somebody else's.
pub(super) fn clear(places: &[&[u8]], guard: &Guarded, put: TxnOp) -> Txn {
    let delete = |place: &&[u8]| TxnOp::delete(*place, Some(DeleteOptions::new().with_prev_key()));
    let steps = std::iter::once(put).chain(places.iter().map(delete)).collect::<Vec<_>>();
    Txn::new().when(vec![guard.compare()]).and_then(steps)
}

/// Reads the answer to [`clear`]: the create revision of what was at each of so many places, if anything was; `None` if the guard has moved
/// on, and nothing was done.
pub(super) fn cleared(answer: &Answer, count: usize) -> Result<Option<Vec<Option<i64>>>, BackendError> {
    if !answer.succeeded() {
        return Ok(None);
    }
    let responses = answer.op_responses();
    let found = responses.iter().filter_map(|response| match response {
        TxnOpResponse::Delete(deleted) => Some(deleted.prev_kvs().first().map(KeyValue::create_revision)),
        _ => None,
    });
    let found: Vec<_> = found.collect();
    if found.len() == count { Ok(Some(found)) } else { Err(unexpected()) }
}

/// Puts the key that was made at `created` under another lease, and a new value in it if there is one; its create revision stays.
pub(super) fn rehang(place: Vec<u8>, created: i64, lease: i64, value: Option<String>, guard: &Guarded) -> Step {
    let bytes = value.as_ref().map_or(0, String::len) + 4 * (place.len() + guard.key.len());
    let options = PutOptions::new().with_lease(lease);
    let options = if value.is_some() { options } else { options.with_ignore_value() };
    let put = TxnOp::put(place.clone(), value.unwrap_or_default(), Some(options));
    let other = vec![TxnOp::get(&*guard.key, Some(keys_only()))];
    let same = Compare::create_revision(place, CompareOp::Equal, created);
    let txn = Txn::new().when(vec![guard.compare(), same]).and_then(vec![put]).or_else(other);
    Step::Other { txn, bytes }
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
    match (answer.succeeded(), &*answer.op_responses()) {
        (true, _) => Ok(Rehung::Done),
        (false, [TxnOpResponse::Get(guarded)]) => Ok(if guard.is(guarded) { Rehung::Gone } else { Rehung::Unguarded }),
        _ => Err(unexpected()),
    }
}

/// A transaction that is refused as a lock's would be, and does nothing: no key has the revision that it hopes for. Servers check the rights
/// of all that is in it, and whether there is room for what it would put, before they look.
pub(super) fn probe(root: &str, session: SessionId) -> Txn {
    let guard = names::guard(root, session);
    let queue = Queue::of(root, "");
    let never = Compare::create_revision(&*guard, CompareOp::Equal, -1);
    let steps = vec![
        by_age(&queue, SortOrder::Descend, keys_only()),
        TxnOp::put(&*guard, "", None),
        TxnOp::delete(queue.place(session, 0), None),
    ];
    Txn::new().when(vec![never]).and_then(steps)
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
pub(super) fn holder(place: &KeyValue) -> Holder {
    let (owner, note) = names::owner_and_note(place.value());
    Holder { owner, token: u64::try_from(place.create_revision()).ok(), remaining: None, note: Note::decode(note) }
}

pub(super) fn unexpected() -> BackendError {
    BackendError::new(Failure::Unknown, "an answer that does not fit the request")
}

/// True for the answer that a lease is over: nothing was executed. Of a batch it is one of its leases, and it goes again in pieces.
pub(super) fn is_lease_gone(error: &BackendError) -> bool {
    error.failure == Failure::Refused && names_a_lease_that_is_gone(error)
}

/// True where a server said that a lease is over. With an unknown outcome another server was asked first, and may execute it yet.
pub(super) fn names_a_lease_that_is_gone(error: &BackendError) -> bool {
    let cause = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<etcd_client::Error>());
    matches!(cause, Some(etcd_client::Error::GRpcStatus(status)) if status.message().contains("requested lease not found"))
}

#[cfg(test)]
impl Ask {
    /// One for a place in the queue of `key`.
    pub(super) fn sample(key: &str) -> Self {
        let owner = crate::owner::OwnerId { session: crate::owner::SessionId::from_u128(1), sequence: 1 };
        let (value, guard) = (names::value(owner, ""), Guarded { key: Arc::from(*b"guard"), revision: 1 });
        let (queue, place) = (Queue::of("dlock/", key), Queue::of("dlock/", key).place(owner.session, 0));
        Self { queue, place, value, lease: 1, guard, enqueue: true, hopeful: true }
    }
}
