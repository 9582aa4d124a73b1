//! The queue of one subscription.
//!
//! It is bounded, so that a subscriber that takes nothing costs no more than the bound: an event that finds the queue full is
//! dropped and counted. Reporting an event means putting it here, and nothing more.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::Mutex;

use super::events::{Event, Kind, Kinds};
use crate::observe::logs::target;
use crate::process;

/// How many events wait for one subscriber; more are dropped. The renewals of 10,000 leases may come at once.
pub const QUEUE: usize = 16_384;

/// The most room that is kept for later events once many have been taken.
const ROOM: usize = 4096;

/// Where a subscription's queue stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Bell {
    /// Nothing to take.
    #[default]
    Silent,
    /// Something came; the subscriber was not woken yet.
    Armed,
    /// The subscriber was woken and has not taken it yet.
    Rung,
}

#[derive(Default)]
struct Undelivered {
    events: VecDeque<Event>,
    bell: Bell,
}

impl Undelivered {
    /// Moves everything to the end of `batch` and reuses the memory of an empty one: allocating for each batch would take longer
    /// than all the rest.
    fn take_into(&mut self, batch: &mut VecDeque<Event>) {
        if batch.is_empty() {
            std::mem::swap(&mut self.events, batch);
        } else {
            batch.append(&mut self.events);
        }
    }
}

pub(super) struct EventQueue {
    pid: u32,
    kinds: AtomicU8,
    ended: AtomicBool,
    undelivered: Mutex<Undelivered>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl EventQueue {
    pub(super) fn new(kinds: Kinds, wake: Box<dyn Fn() + Send + Sync>) -> Self {
        let (kinds, ended) = (AtomicU8::new(kinds.0), AtomicBool::new(false));
        Self { pid: process::id(), kinds, ended, undelivered: Mutex::default(), wake }
    }

    pub(super) fn wants(&self, kind: Kind) -> bool {
        Kinds(self.kinds.load(Ordering::Relaxed)).contains(kind)
    }

    /// Adds an event and says whether the courier has to come. An error if the queue is full and the event was dropped.
    pub(super) fn push(&self, event: Event) -> std::result::Result<bool, ()> {
        let mut undelivered = self.undelivered.lock();
        if undelivered.events.len() >= QUEUE {
            return Err(());
        }
        undelivered.events.push_back(event);
        let first = undelivered.bell == Bell::Silent;
        if first {
            undelivered.bell = Bell::Armed;
        }
        Ok(first)
    }

    /// Wakes the subscriber if something came since it was last woken.
    pub(super) fn ring(&self) {
        let armed = {
            let mut undelivered = self.undelivered.lock();
            let armed = undelivered.bell == Bell::Armed;
            if armed {
                undelivered.bell = Bell::Rung;
            }
            armed
        };
        if armed {
            self.wake();
        }
    }

    /// A forked child does not wake its parent's subscribers.
    fn wake(&self) {
        if process::id() == self.pid {
            // A panic here would end the task that looks after all subscribers.
            if catch_unwind(AssertUnwindSafe(|| (self.wake)())).is_err() {
                tracing::error!(target: target::EVENTS, "the wake function of a subscriber panicked");
            }
        }
    }

    pub(super) fn kinds(&self) -> u8 {
        self.kinds.load(Ordering::Relaxed)
    }

    pub(super) fn len(&self) -> usize {
        self.undelivered.lock().events.len()
    }

    /// Nothing more comes, since its client is gone. Wakes the subscriber to see that.
    pub(super) fn end(&self) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            self.wake();
        }
    }

    pub(super) fn set_kinds(&self, kinds: Kinds) {
        self.kinds.store(kinds.0, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// The subscriber wants nothing more.
    pub(super) fn unsubscribe(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.kinds.store(0, Ordering::Relaxed);
    }

    pub(super) fn clear(&self) {
        self.undelivered.lock().events.clear();
    }

    /// Moves everything that came to the end of `batch`. The next event wakes the subscriber again.
    pub(super) fn take_into(&self, batch: &mut VecDeque<Event>) {
        batch.shrink_to(ROOM);
        let mut undelivered = self.undelivered.lock();
        undelivered.bell = Bell::Silent;
        undelivered.take_into(batch);
    }

    /// [`EventQueue::take_into`] for a subscriber that comes again until nothing is left: only then does the next event wake it.
    pub(super) fn take_or_rest(&self, batch: &mut VecDeque<Event>) {
        batch.shrink_to(ROOM);
        let mut undelivered = self.undelivered.lock();
        if undelivered.events.is_empty() {
            undelivered.bell = Bell::Silent;
        }
        undelivered.take_into(batch);
    }
}
