//! The requests of a batch, the script call that they become, and their answers.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use super::names::Names;
use super::reply;
use super::scripts::{self, ScriptCall};
use crate::backend::{Acquire, Acquired};
use crate::error::BackendError;
use crate::fencing::{Token, is_token};
use crate::owner::OwnerId;

/// An acquire, a release or a leave.
pub(super) struct Request {
    pub(super) names: Names,
    pub(super) kind: RequestKind,
}

pub(super) enum RequestKind {
    Acquire(AcquireArguments),
    /// Releases the key or withdraws the waiter, whichever the owner has, and may ask for the key on behalf of the next waiter.
    Release(OwnerId, Option<AcquireArguments>),
}

/// What the script needs to know of an acquire.
pub(super) struct AcquireArguments {
    owner: OwnerId,
    note: Arc<str>,
    ttl_ms: u64,
    /// In the server's time, in µs.
    not_after: i64,
    fair: bool,
    enqueue: bool,
    floor: Token,
}

impl AcquireArguments {
    pub(super) fn new(acquire: &Acquire, not_after: i64) -> Self {
        Self {
            owner: acquire.owner,
            note: acquire.note.clone(),
            ttl_ms: millis(acquire.ttl),
            not_after,
            fair: acquire.fair,
            enqueue: acquire.enqueue,
            floor: acquire.floor,
        }
    }

    fn write(&self, call: ScriptCall) -> ScriptCall {
        call.text(self.owner).arg(&*self.note).arg(self.ttl_ms).arg(self.not_after)
    }

    const fn kind(&self) -> &'static str {
        match (self.fair, self.enqueue) {
            (true, true) => "afe",
            (true, false) => "af",
            (false, true) => "ae",
            (false, false) => "a",
        }
    }
}

impl Request {
    /// Boxed, since it is moved many times.
    pub(super) fn new(names: Names, kind: RequestKind) -> Box<Self> {
        Box::new(Self { names, kind })
    }

    /// The request of the waiter to whom a release hands over.
    pub(super) fn hands_over(&self) -> Option<&AcquireArguments> {
        match &self.kind {
            RequestKind::Acquire(_) => None,
            RequestKind::Release(_, next) => next.as_ref(),
        }
    }

    fn acquire(&self) -> Option<&AcquireArguments> {
        match &self.kind {
            RequestKind::Acquire(acquire) => Some(acquire),
            RequestKind::Release(_, next) => next.as_ref(),
        }
    }
}

/// Whole milliseconds, at least one: `PX 0` is an error.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The TTL of a grant, as the server counts it.
pub(super) fn granted_ttl(acquire: &Acquire) -> Duration {
    Duration::from_millis(millis(acquire.ttl))
}

/// The script call for a batch.
pub(super) fn call<'a>(batch: impl ExactSizeIterator<Item = &'a Request> + Clone) -> ScriptCall {
    // Enough for most keys and notes; for longer ones the buffers grow.
    let mut call = ScriptCall::with_capacity(&scripts::BATCH, batch.len() * 11, batch.len() * 320);
    for request in batch.clone() {
        call = call.key(request.names.lock());
    }
    // One floor is enough for all requests, since a token may be higher than necessary.
    let (mut asking, mut floor) = (0, 0);
    for (request, acquire) in batch.clone().filter_map(|request| Some((request, request.acquire()?))) {
        call = call.key(request.names.token());
        asking += 1;
        floor = Some(acquire.floor).filter(|floor| is_token(*floor)).max(Some(floor)).unwrap_or_default();
    }
    for request in batch.clone() {
        call = call.key(request.names.queue());
    }
    for request in batch.clone() {
        call = call.key(request.names.heartbeats());
    }
    call = call.arg(asking).arg(floor);
    for request in batch {
        call = match &request.kind {
            RequestKind::Acquire(acquire) => acquire.write(call.arg(acquire.kind())),
            RequestKind::Release(owner, None) => call.arg("r").text(owner),
            RequestKind::Release(owner, Some(next)) => next.write(call.arg("n").text(owner)),
        };
    }
    call
}

/// The answer to one request of a batch.
pub(super) struct RequestAnswer(pub(super) Value);

impl RequestAnswer {
    /// True if an acquire in it reached the server after its not-after.
    pub(super) fn is_too_late(&self) -> bool {
        match &self.0 {
            Value::Int(answer) => *answer < 0,
            Value::Array(fields) => fields.len() == 2 && fields[1] == Value::Int(-1),
            _ => false,
        }
    }

    /// The answer to an acquire; `None` if it came too late.
    pub(super) fn acquired(&self, ttl: Duration) -> Result<Option<Acquired>, BackendError> {
        reply::acquired(&self.0, ttl)
    }

    /// The answer to a release: whether the owner held the key, and the answer to the next waiter's acquire.
    pub(super) fn released(self) -> Result<(bool, Option<Self>), BackendError> {
        let (released, next) = reply::released(self.0)?;
        Ok((released, next.map(Self)))
    }
}
