//! Writes outcomes as rows of numbers for JavaScript, with a text for those that need one.

use dlock::{Lease, Status};
use napi_derive::napi;

use crate::bridge::{Bridge, Tables};
use crate::completion::Outcome;
use crate::error::describe;
use crate::numbers::{Numbers, date, millis, number, wide};

/// The kinds of outcomes: the second number of each item. `completion.js` has the same list.
mod kind {
    pub(super) const DONE: f64 = 0.0;
    pub(super) const FLAG: f64 = 1.0;
    pub(super) const GRANTED: f64 = 2.0;
    pub(super) const BUSY: f64 = 3.0;
    pub(super) const RELEASED: f64 = 4.0;
    pub(super) const ANSWER: f64 = 5.0;
    pub(super) const FAILED: f64 = 6.0;
    pub(super) const LOST: f64 = 7.0;
    pub(super) const HAPPENED: f64 = 8.0;
}

/// Numbers per item: call, kind, and up to four more.
const STRIDE: usize = 6;

#[napi]
impl Bridge {
    /// Writes as many outcomes as fit, each as six numbers, and returns their number. If they filled `out`, there may be more.
    #[napi]
    pub fn drain(&self, out: Numbers<'_>) -> u32 {
        let mut tables = self.tables.borrow_mut();
        tables.backlog.append(&mut self.completions.take());
        let mut count = 0;
        for place in out.chunks_exact_mut(STRIDE) {
            let Some((call, outcome)) = tables.backlog.pop_front() else { break };
            place.copy_from_slice(&self.write(&mut tables, call, outcome));
            count += 1;
        }
        count
    }

    /// Writes the outcome of one call, as [`Bridge::drain`] does. False if it has not come.
    #[napi]
    pub fn take(&self, call: i64, out: Numbers<'_>) -> bool {
        let Some(outcome) = self.completions.take_one(call) else { return false };
        let item = self.write(&mut self.tables.borrow_mut(), call, outcome);
        out.first_chunk_mut().map(|place| *place = item).is_some()
    }

    /// The text that belongs to an outcome.
    #[napi]
    pub fn text(&self, call: i64) -> Option<String> {
        self.texts.borrow_mut().remove(&call)
    }

    fn write(&self, tables: &mut Tables, call: i64, outcome: Outcome) -> [f64; STRIDE] {
        let id = number(call);
        let mut item = [id, kind::DONE, 0.0, 0.0, 0.0, 0.0];
        match outcome {
            Outcome::Done => {}
            Outcome::Happened => item[1] = kind::HAPPENED,
            Outcome::Flag(flag) => (item[1], item[2]) = (kind::FLAG, f64::from(u8::from(flag))),
            Outcome::Granted(lease) => return self.deliver(tables, call, lease),
            Outcome::Busy => {
                tables.acquires.remove(&call);
                item[1] = kind::BUSY;
            }
            Outcome::Released(lease, status) => {
                tables.releases.remove(&call);
                if let Some(lease) = lease.filter(|_| !matches!(status, Status::Held | Status::Releasing | Status::Lost(_))) {
                    tables.leases.remove(&lease);
                }
                (item[1], item[2]) = (kind::RELEASED, code_of(status));
            }
            Outcome::Answer(text) => {
                self.texts.borrow_mut().insert(call, text);
                item[1] = kind::ANSWER;
            }
            Outcome::Failed(error) => {
                tables.acquires.remove(&call);
                self.texts.borrow_mut().insert(call, describe(&error));
                item[1] = kind::FAILED;
            }
            Outcome::Lost => item[1] = kind::LOST,
        }
        item
    }

    /// Delivers a grant if it is still valid and its caller still wants it. Otherwise the lease is released.
    fn deliver(&self, tables: &mut Tables, call: i64, lease: Lease) -> [f64; STRIDE] {
        let id = number(call);
        if tables.acquires.remove(&call).is_none() {
            Outcome::Granted(lease).discard();
            return [id, kind::DONE, 0.0, 0.0, 0.0, 0.0];
        }
        // The status costs no system call, the claim does.
        if lease.status() != Status::Held
            && let Err(error) = lease.claim()
        {
            self.texts.borrow_mut().insert(call, describe(&error));
            return [id, kind::FAILED, 0.0, 0.0, 0.0, 0.0];
        }
        let item = [
            id,
            kind::GRANTED,
            wide(lease.token()),
            wide(lease.owner_id().sequence),
            date(lease.acquired_at()),
            millis(lease.ttl()),
        ];
        tables.leases.insert(call, lease);
        item
    }
}

/// The position of the status in the list in `completion.js`.
fn code_of(status: Status) -> f64 {
    match status {
        Status::Released => 1.0,
        Status::NotHeld => 2.0,
        Status::Unconfirmed => 3.0,
        Status::Lost(_) => 4.0,
        // The release undid one of several entries.
        Status::Held => 5.0,
        _ => 0.0,
    }
}
