//! The way back to JavaScript: engine threads queue outcomes, and the event loop takes all of them in one go.
//!
//! A threadsafe call costs microseconds on both sides, so the loop is woken only if it is not about to check the queue already.

use std::collections::VecDeque;
use std::sync::Arc;

use dlock::{Error, Lease, QueuedOutcome, Status};
use napi::bindgen_prelude::Function;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use parking_lot::Mutex;

/// How a call ended.
pub(crate) enum Outcome {
    Done,
    Flag(bool),
    Granted(Lease),
    /// A single try found that another holder has the key.
    Busy,
    /// The status after a release, and the number of the lease if its record may go.
    Released(Option<i64>, Status),
    /// A JSON text.
    Answer(String),
    Failed(Error),
    /// Not the end of a call: a watched lease was lost.
    Lost,
    /// Not the end of a call: there are events to take, or logs.
    Happened,
}

/// It is weak: it does not keep the event loop alive.
type Wake = ThreadsafeFunction<(), (), (), napi::Status, false, true>;

pub(crate) struct Completions {
    queue: Mutex<Queue>,
    wake: Wake,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<(i64, Outcome)>,
    /// The loop was woken and has not checked the queue yet.
    armed: bool,
    closed: bool,
}

impl Completions {
    pub(crate) fn new(wake: &Function<'_, (), ()>) -> napi::Result<Arc<Self>> {
        let wake = wake.build_threadsafe_function().weak::<true>().build()?;
        Ok(Arc::new(Self { queue: Mutex::default(), wake }))
    }

    pub(crate) fn push(&self, call: i64, outcome: Outcome) {
        let mut queue = self.queue.lock();
        if queue.closed {
            drop(queue);
            return outcome.discard();
        }
        queue.items.push_back((call, outcome));
        if QueuedOutcome::of(self, call).is_driven_here() && !matches!(queue.items.back(), Some((_, Outcome::Lost))) {
            // Whoever drives the call takes its outcome.
            return;
        }
        if std::mem::replace(&mut queue.armed, true) {
            return;
        }
        drop(queue);
        if self.wake.call((), ThreadsafeFunctionCallMode::NonBlocking) != napi::Status::Ok {
            // The environment is going away.
            self.close();
        }
    }

    /// Runs a step that may drive a call on this thread. Its outcome then wakes nobody: take it with [`Completions::take_one`].
    pub(crate) fn driving<T>(&self, call: i64, step: impl FnOnce() -> T) -> T {
        QueuedOutcome::of(self, call).driving(step)
    }

    /// Whether the outcome of a call has come.
    pub(crate) fn has(&self, call: i64) -> bool {
        place(&self.queue.lock(), call).is_some()
    }

    /// Takes the outcome of one call, if it has come.
    pub(crate) fn take_one(&self, call: i64) -> Option<Outcome> {
        let mut queue = self.queue.lock();
        let place = place(&queue, call)?;
        queue.items.remove(place).map(|(_, outcome)| outcome)
    }

    /// Ends the reading. All outcomes are dropped, also later ones, and grants among them are released.
    pub(crate) fn close(&self) {
        let items = {
            let mut queue = self.queue.lock();
            queue.closed = true;
            std::mem::take(&mut queue.items)
        };
        for (_, outcome) in items {
            outcome.discard();
        }
    }

    /// Disarms *before* it takes, so that a push after this wakes the loop again.
    pub(crate) fn take(&self) -> VecDeque<(i64, Outcome)> {
        let mut queue = self.queue.lock();
        queue.armed = false;
        std::mem::take(&mut queue.items)
    }
}

fn place(queue: &Queue, call: i64) -> Option<usize> {
    queue.items.iter().rposition(|(of, outcome)| *of == call && !matches!(outcome, Outcome::Lost))
}

impl Outcome {
    pub(crate) fn discard(self) {
        if let Self::Granted(lease) = self {
            // A forked child has nothing to release.
            let _ = lease.begin_release();
        }
    }
}
