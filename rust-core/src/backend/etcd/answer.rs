//! What the answers to transactions say.

use std::time::Duration;

use etcd_client::{KeyValue, TxnOpResponse, TxnResponse};

use super::names::{self, GuardRevision};
use crate::backend::Waiting;
use crate::error::{BackendError, Failure};
use crate::holder::{Holder, Note};
use crate::owner::OwnerId;

/// The answer to a transaction, alone or in a batch.
#[derive(Debug)]
pub(super) struct TxnAnswer {
    pub(super) body: AnswerBody,
    /// The store's revision after the transaction.
    pub(super) revision: i64,
    /// The first revision this answer may not fully reflect; its own, if other transactions shared the batch.
    pub(super) first_unseen: i64,
    /// The same request may be executed once more: another server got it first and did not answer.
    pub(super) may_run_again: bool,
}

#[derive(Debug)]
pub(super) enum AnswerBody {
    Txn(TxnResponse),
    /// The step's precondition held in an optimistic batch, and its one operation was executed.
    Done,
}

impl TxnAnswer {
    /// The same answer, to a request that may also be executed elsewhere if `may_run_again`.
    pub(super) fn that_may_run_again(self, may_run_again: bool) -> Self {
        Self { may_run_again: self.may_run_again | may_run_again, ..self }
    }

    pub(super) fn succeeded(&self) -> bool {
        match &self.body {
            AnswerBody::Txn(txn) => txn.succeeded(),
            AnswerBody::Done => true,
        }
    }

    pub(super) fn op_responses(&self) -> Vec<TxnOpResponse> {
        match &self.body {
            AnswerBody::Txn(txn) => txn.op_responses(),
            AnswerBody::Done => Vec::new(),
        }
    }

    /// The answer to each of the `count` steps of a batch. A batch that only reads knows all of its own revision.
    pub(super) fn split(&self, count: usize, only_reads: bool) -> Result<Vec<Self>, BackendError> {
        let (revision, may_run_again) = (self.revision, self.may_run_again);
        let first_unseen = if only_reads { revision + 1 } else { revision };
        let answers = self.op_responses().into_iter().map(|response| {
            let body = match response {
                TxnOpResponse::Txn(txn) => AnswerBody::Txn(txn),
                TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) => AnswerBody::Done,
                TxnOpResponse::Get(_) => return Err(unexpected()),
            };
            Ok(Self { body, revision, first_unseen, may_run_again })
        });
        let answers: Vec<_> = answers.collect::<Result<_, _>>()?;
        if answers.len() == count { Ok(answers) } else { Err(unexpected()) }
    }
}

/// The error of a request; if another server also got the request, every error becomes [`Failure::Unknown`].
pub(super) fn error_that_may_run(error: BackendError, may_run_again: bool) -> BackendError {
    if may_run_again { BackendError { failure: Failure::Unknown, ..error } } else { error }
}

/// The answer to a request for a queue key.
#[derive(Debug, PartialEq)]
pub(super) enum KeyAnswer {
    /// The key was made at this revision, and is the first in its queue.
    First(i64),
    /// The key was made at this revision, behind others.
    Behind(i64, Ahead),
    /// The owner has had its key since this revision. Nothing was executed.
    Exists(i64),
    /// Another owner's key, made at this revision, has the name that ours would have. Nothing was executed.
    Taken(i64),
    /// Others are in the queue, which ends a try. Nothing was executed.
    Held(Option<Holder>),
    /// The guard has moved on. Nothing was executed.
    GuardMoved,
    /// Nothing was executed, and the answer does not say why: read the reasons.
    Refused,
}

impl KeyAnswer {
    /// Reads the answer to a request for a queue key.
    pub(super) fn read(owner: OwnerId, guard: &GuardRevision, answer: &TxnAnswer) -> Result<Self, BackendError> {
        match (answer.succeeded(), &*answer.op_responses()) {
            (true, [] | [TxnOpResponse::Put(_)]) => Ok(Self::First(answer.revision)),
            (true, [TxnOpResponse::Get(last), TxnOpResponse::Put(_)]) => Ok(match last.kvs().first() {
                None => Self::First(answer.revision),
                Some(next) => {
                    // The last key is also the holder's if it is the only one.
                    let holder = (last.count() == 1).then(|| holder(next));
                    let position = u64::try_from(last.count() - 1).ok();
                    let ahead = Ahead { next: next.key().to_vec(), since: answer.first_unseen, holder, position };
                    Self::Behind(answer.revision, ahead)
                }
            }),
            (false, []) => Ok(Self::Refused),
            (false, reasons) => Self::from_reasons(owner, guard, reasons),
            _ => Err(unexpected()),
        }
    }

    /// Reads the answer to [`refusal_reasons`](super::request::refusal_reasons).
    pub(super) fn read_reasons(owner: OwnerId, guard: &GuardRevision, answer: &TxnAnswer) -> Result<Self, BackendError> {
        Self::from_reasons(owner, guard, &answer.op_responses())
    }

    fn from_reasons(owner: OwnerId, guard: &GuardRevision, responses: &[TxnOpResponse]) -> Result<Self, BackendError> {
        let [TxnOpResponse::Get(guard_read), TxnOpResponse::Get(own), TxnOpResponse::Get(first)] = responses else {
            return Err(unexpected());
        };
        if !guard.was_read(guard_read) {
            return Ok(Self::GuardMoved);
        }
        let Some(own) = own.kvs().first() else { return Ok(Self::Held(first.kvs().first().map(holder))) };
        let is_ours = names::owner_and_note(own.value()).0 == owner.to_string();
        Ok(if is_ours { Self::Exists(own.create_revision()) } else { Self::Taken(own.create_revision()) })
    }
}

/// The part of a queue that is ahead of one key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ahead {
    /// The queue key directly ahead: its deletion is worth another look.
    pub(super) next: Vec<u8>,
    /// A deletion of `next` that this answer does not reflect happened at this revision or later.
    pub(super) since: i64,
    /// The holder, where it was read.
    pub(super) holder: Option<Holder>,
    /// How many waiters are between the holder and the key, where they were counted.
    pub(super) position: Option<u64>,
}

impl Ahead {
    pub(super) fn waiting(&self, look_again: Duration) -> Waiting {
        Waiting { look_again, position: self.position, holder: self.holder.clone() }
    }
}

/// Reads the answer to [`first_in_queue`](super::request::first_in_queue).
pub(super) fn first_holder(answer: &TxnAnswer) -> Result<Option<Holder>, BackendError> {
    match &*answer.op_responses() {
        [TxnOpResponse::Get(first)] => Ok(first.kvs().first().map(holder)),
        _ => Err(unexpected()),
    }
}

/// How a queue key stands, and the etcd lease that it is under.
#[derive(Debug, PartialEq)]
pub(super) enum LookAnswer {
    /// It is the first in its queue.
    First { lease: i64 },
    /// Others are ahead.
    Behind { lease: i64, ahead: Ahead },
    /// It does not exist any more.
    Gone,
}

impl LookAnswer {
    /// Reads the answer to [`look`](super::request::look): an attempt holds only if its key exists *and* is first.
    pub(super) fn read(created: i64, answer: &TxnAnswer) -> Result<Self, BackendError> {
        let responses = answer.op_responses();
        let [TxnOpResponse::Get(own), TxnOpResponse::Get(first), TxnOpResponse::Get(older)] = &*responses else {
            return Err(unexpected());
        };
        let Some(own) = own.kvs().first().filter(|own| own.create_revision() == created) else { return Ok(Self::Gone) };
        let lease = own.lease();
        Ok(match older.kvs().first() {
            None => Self::First { lease },
            Some(next) => {
                let holder = first.kvs().first().map(holder);
                let ahead = Ahead { next: next.key().to_vec(), since: answer.first_unseen, holder, position: None };
                Self::Behind { lease, ahead }
            }
        })
    }
}

/// Reads the answer to [`delete_and_move_guard`](super::request::delete_and_move_guard): the create revision of each of the `count` keys,
/// where it existed; `None` if the guard had moved on and nothing was executed.
pub(super) fn deleted_keys(answer: &TxnAnswer, count: usize) -> Result<Option<Vec<Option<i64>>>, BackendError> {
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

/// What became of a queue key that was to go under another lease.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MoveAnswer {
    Done,
    /// The key does not exist any more.
    Gone,
    /// The guard has moved on. Nothing was executed.
    GuardMoved,
}

impl MoveAnswer {
    /// Reads the answer to [`move_key`](super::request::move_key).
    pub(super) fn read(guard: &GuardRevision, answer: &TxnAnswer) -> Result<Self, BackendError> {
        match (answer.succeeded(), &*answer.op_responses()) {
            (true, _) => Ok(Self::Done),
            (false, [TxnOpResponse::Get(guard_read)]) => Ok(if guard.was_read(guard_read) { Self::Gone } else { Self::GuardMoved }),
            _ => Err(unexpected()),
        }
    }
}

/// The owner of a queue key, as others see it. The rest of its lease would take another request, so it is left out.
pub(super) fn holder(queue_key: &KeyValue) -> Holder {
    let (owner, note) = names::owner_and_note(queue_key.value());
    Holder { owner, token: u64::try_from(queue_key.create_revision()).ok(), remaining: None, note: Note::decode(note) }
}

pub(super) fn unexpected() -> BackendError {
    BackendError::new(Failure::Unknown, "an answer that does not fit the request")
}

/// True if a lease of the request has ended and nothing was executed. In a batch any of its leases may be meant, so each transaction is
/// then sent alone.
pub(super) fn is_lease_gone(error: &BackendError) -> bool {
    error.failure == Failure::Refused && names_a_lease_that_is_gone(error)
}

/// True if a server answered that a lease has ended. If the outcome is unknown, another server got the request first and may still execute
/// it.
pub(super) fn names_a_lease_that_is_gone(error: &BackendError) -> bool {
    let cause = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<etcd_client::Error>());
    matches!(cause, Some(etcd_client::Error::GRpcStatus(status)) if status.message().contains("requested lease not found"))
}
