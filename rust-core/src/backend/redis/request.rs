//! What goes into a batch, and how the answers come out of it.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use super::names::Names;
use super::reply;
use super::scripts::{self, Call};
use crate::backend::{Acquire, Acquired};
use crate::error::BackendError;
use crate::fencing::{Token, is_token};
use crate::owner::OwnerId;

/// An acquire, a release or a leave.
pub(super) struct Request {
    pub(super) names: Names,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Acquire(Ask),
    /// Gives back whatever an owner has, and may ask for the next one.
    Release(OwnerId, Option<Ask>),
}

/// What is asked for a key.
pub(super) struct Ask {
    owner: OwnerId,
    note: Arc<str>,
    ttl_ms: u64,
    /// In the server's time, in µs.
    not_after: i64,
    fair: bool,
    enqueue: bool,
    floor: Token,
}

impl Ask {
    pub(super) fn new(acquire: &Acquire, not_after: i64) -> Self {
        Self {
            owner: acquire.owner,
            note: acquire.note.clone(),
            ttl_ms: super::millis(acquire.ttl),
            not_after,
            fair: acquire.fair,
            enqueue: acquire.enqueue,
            floor: acquire.floor,
        }
    }

    fn write(&self, call: Call) -> Call {
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
    /// Boxed: it passes through many hands.
    pub(super) fn new(names: Names, kind: Kind) -> Box<Self> {
        Box::new(Self { names, kind })
    }

    fn ask(&self) -> Option<&Ask> {
        match &self.kind {
            Kind::Acquire(ask) => Some(ask),
            Kind::Release(_, next) => next.as_ref(),
        }
    }
}

/// The one call for a batch.
pub(super) fn call<'a>(batch: impl ExactSizeIterator<Item = &'a Request> + Clone) -> Call {
    // Enough for the keys and the note of most; a buffer grows where it is not.
    let mut call = Call::with_capacity(&scripts::BATCH, batch.len() * 11, batch.len() * 320);
    for request in batch.clone() {
        call = call.key(request.names.lock());
    }
    // A token may well be higher than it needs to be: one floor does for all.
    let (mut asking, mut floor) = (0, 0);
    for (request, ask) in batch.clone().filter_map(|request| Some((request, request.ask()?))) {
        call = call.key(request.names.token());
        asking += 1;
        floor = Some(ask.floor).filter(|floor| is_token(*floor)).max(Some(floor)).unwrap_or_default();
    }
    for request in batch.clone() {
        call = call.key(request.names.queue());
    }
    for request in batch.clone() {
        call = call.key(request.names.beats());
    }
    call = call.arg(asking).arg(floor);
    for request in batch {
        call = match &request.kind {
            Kind::Acquire(ask) => ask.write(call.arg(ask.kind())),
            Kind::Release(owner, None) => call.arg("r").text(owner),
            Kind::Release(owner, Some(next)) => next.write(call.arg("n").text(owner)),
        };
    }
    call
}

/// The answer to one request of a batch.
pub(super) struct Answer(pub(super) Value);

impl Answer {
    /// True if something in it came after its not-after.
    pub(super) fn is_too_late(&self) -> bool {
        match &self.0 {
            Value::Int(answer) => *answer < 0,
            Value::Array(fields) => fields.len() == 2 && fields[1] == Value::Int(-1),
            _ => false,
        }
    }

    /// Of an acquire: `None` if it came too late.
    pub(super) fn asked(&self, ttl: Duration) -> Result<Option<Acquired>, BackendError> {
        reply::asked(&self.0, ttl)
    }

    /// Of a release: whether the owner held the key, and the answer to the next waiter's request.
    pub(super) fn released(self) -> Result<(bool, Option<Self>), BackendError> {
        let (released, asked) = reply::released(self.0)?;
        Ok((released, asked.map(Self)))
    }
}
