//! Events: what happened to a lease, told to whoever listens, off the path of whoever made it happen.
//!
//! Each subscription has a queue of its own, with a bound. Whoever makes something happen puts an event there and goes on; what finds the
//! queue full is dropped and counted. The courier of the session wakes those who have something to take, a moment later and once for all
//! that came meanwhile.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::engine::process;
use crate::error::{Error, Result};
use crate::fencing::Token;
use crate::observe::Observer;
use crate::observe::logs::target;
use crate::owner::OwnerId;
use crate::printable::quoted;

/// How many events wait for one subscriber; more are dropped. The renewals of 10,000 leases may come at once.
pub const QUEUE: usize = 16_384;

/// The most room that is kept for later events once many have been taken.
const ROOM: usize = 4096;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A lease was got.
    Acquired = 1,
    /// A lease was given back; the reason says whether the backend confirmed it.
    Released = 2,
    /// A lease was renewed or extended.
    Renewed = 4,
    /// A renewal got no answer; it will be tried again.
    RenewalFailed = 8,
    /// An attempt ended without a lease; the reason is the code of its error, or `CANCELLED`.
    AcquireFailed = 16,
    /// A lease ended without being given back.
    Lost = 32,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Acquired, Self::Released, Self::Renewed, Self::RenewalFailed, Self::AcquireFailed, Self::Lost];

    /// A word that never changes, the same in every language.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acquired => "acquired",
            Self::Released => "released",
            Self::Renewed => "renewed",
            Self::RenewalFailed => "renewal_failed",
            Self::AcquireFailed => "acquire_failed",
            Self::Lost => "lost",
        }
    }

    /// The kind that goes by this word.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] for any other word.
    pub fn parse(word: &str) -> Result<Self> {
        let known = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| Error::invalid("event", quoted(word), known()))
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    /// All kinds.
    pub const ALL: Self = Self(63);

    /// Whether a kind is among them.
    pub fn contains(self, kind: Kind) -> bool {
        self.0 & kind as u8 != 0
    }
}

impl From<Kind> for Kinds {
    fn from(kind: Kind) -> Self {
        Self(kind as u8)
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |bits, kind| bits | kind as u8))
    }
}

impl<const N: usize> From<[Kind; N]> for Kinds {
    fn from(kinds: [Kind; N]) -> Self {
        kinds.into_iter().collect()
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: Kind,
    /// To which key.
    pub key: Arc<str>,
    /// The lease's token; `None` where no lease was got.
    pub token: Option<Token>,
    /// The lease's owner; `None` where no lease was got.
    pub owner: Option<OwnerId>,
    /// How long the attempt took: of [`Kind::Acquired`] and [`Kind::AcquireFailed`].
    pub waited: Option<Duration>,
    /// How long the lease has been held, or was: of all that happen to a lease after it was got.
    pub held: Option<Duration>,
    /// Why, where there is a reason: of a loss a [`LossReason`](crate::LossReason), of a failed acquire the error's code, of a failed
    /// renewal the backend's error, of a release `released`, `not_held` or `unknown`.
    pub reason: Option<Cow<'static, str>>,
}

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
struct Queue {
    events: VecDeque<Event>,
    bell: Bell,
}

impl Queue {
    /// Moves everything to the end of `batch`, whose room is used anew as a rule: new memory for each batch would take longer than all the rest.
    fn take_into(&mut self, batch: &mut VecDeque<Event>) {
        if batch.is_empty() {
            std::mem::swap(&mut self.events, batch);
        } else {
            batch.append(&mut self.events);
        }
    }
}

pub(super) struct Inner {
    pid: u32,
    kinds: AtomicU8,
    ended: AtomicBool,
    queue: Mutex<Queue>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Inner {
    fn new(kinds: Kinds, wake: Box<dyn Fn() + Send + Sync>) -> Self {
        let (kinds, ended) = (AtomicU8::new(kinds.0), AtomicBool::new(false));
        Self { pid: process::id(), kinds, ended, queue: Mutex::default(), wake }
    }

    pub(super) fn wants(&self, kind: Kind) -> bool {
        Kinds(self.kinds.load(Ordering::Relaxed)).contains(kind)
    }

    /// Whether the courier has to come. An event that finds the queue full is dropped.
    pub(super) fn push(&self, event: Event) -> std::result::Result<bool, ()> {
        let mut queue = self.queue.lock();
        if queue.events.len() >= QUEUE {
            return Err(());
        }
        queue.events.push_back(event);
        let first = queue.bell == Bell::Silent;
        if first {
            queue.bell = Bell::Armed;
        }
        Ok(first)
    }

    /// Wakes the subscriber if something came since it was last woken.
    pub(super) fn ring(&self) {
        let armed = {
            let mut queue = self.queue.lock();
            let armed = queue.bell == Bell::Armed;
            if armed {
                queue.bell = Bell::Rung;
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
            (self.wake)();
        }
    }

    pub(super) fn kinds(&self) -> u8 {
        self.kinds.load(Ordering::Relaxed)
    }

    pub(super) fn len(&self) -> usize {
        self.queue.lock().events.len()
    }

    /// Nothing more comes: its client is gone. The subscriber is woken to see it.
    pub(super) fn end(&self) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            self.wake();
        }
    }

    /// Everything that came. With nothing left, whatever comes next rings anew.
    fn take_or_rest(&self, batch: &mut VecDeque<Event>) {
        batch.shrink_to(ROOM);
        let mut queue = self.queue.lock();
        if queue.events.is_empty() {
            queue.bell = Bell::Silent;
        }
        queue.take_into(batch);
    }
}

/// Events on their way to one subscriber, who takes them. It goes on until it is ended, or its client is gone.
#[derive(Clone)]
pub struct Subscription {
    inner: Arc<Inner>,
    observer: Weak<Observer>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("kinds", &Kinds(self.inner.kinds())).finish_non_exhaustive()
    }
}

impl Subscription {
    /// `wake` is called on an engine thread, cheap and never blocking, when there is something to take; not again before it was taken.
    pub(super) fn new(observer: &Arc<Observer>, kinds: Kinds, wake: impl Fn() + Send + Sync + 'static) -> Self {
        let this = Self { inner: Arc::new(Inner::new(kinds, Box::new(wake))), observer: Arc::downgrade(observer) };
        observer.add(&this.inner);
        this
    }

    /// A subscription whose events are handed to `observe`, in order, one after the other, on a thread that is free to block.
    pub(super) fn calling(observer: &Arc<Observer>, kinds: Kinds, observe: impl FnMut(&Event) + Send + 'static) -> Self {
        let caller = Arc::new(Mutex::new(Caller { observe: Box::new(observe), batch: VecDeque::new() }));
        let inner = Arc::new_cyclic(|inner: &Weak<Inner>| {
            let inner = inner.clone();
            let wake = move || {
                let (inner, caller) = (inner.clone(), caller.clone());
                // Without the engine there is nobody left to call.
                if let Ok(engine) = tokio::runtime::Handle::try_current() {
                    engine.spawn_blocking(move || caller.lock().call(&inner));
                }
            };
            Inner::new(kinds, Box::new(wake))
        });
        observer.add(&inner);
        Self { inner, observer: Arc::downgrade(observer) }
    }

    /// What has come since, oldest first.
    pub fn take(&self) -> Vec<Event> {
        let mut batch = VecDeque::new();
        self.take_into(&mut batch);
        batch.into()
    }

    /// Moves what has come since to the end of `batch`. With the same one each time, its room is used again.
    pub fn take_into(&self, batch: &mut VecDeque<Event>) {
        batch.shrink_to(ROOM);
        let mut queue = self.inner.queue.lock();
        queue.bell = Bell::Silent;
        queue.take_into(batch);
    }

    /// Wants these kinds from now on.
    pub fn set_kinds(&self, kinds: Kinds) {
        self.inner.kinds.store(kinds.0, Ordering::Relaxed);
        if let Some(observer) = self.observer.upgrade() {
            observer.count_listeners();
        }
    }

    /// Wants nothing more. What has not been taken is dropped.
    pub fn end(&self) {
        self.inner.ended.store(true, Ordering::Relaxed);
        self.inner.kinds.store(0, Ordering::Relaxed);
        if let Some(observer) = self.observer.upgrade() {
            observer.remove(&self.inner);
        }
        self.inner.queue.lock().events.clear();
    }

    /// Whether nothing more will come.
    pub fn is_over(&self) -> bool {
        self.inner.ended.load(Ordering::Relaxed)
    }
}

/// An observer, and the events that it is being called with.
struct Caller {
    observe: Box<dyn FnMut(&Event) + Send>,
    batch: VecDeque<Event>,
}

impl Caller {
    /// Calls the observer with all that has come. A panic is logged, and the next event is told all the same.
    fn call(&mut self, inner: &Weak<Inner>) {
        while let Some(inner) = inner.upgrade() {
            inner.take_or_rest(&mut self.batch);
            if self.batch.is_empty() {
                return;
            }
            for event in self.batch.drain(..) {
                if inner.ended.load(Ordering::Relaxed) {
                    return;
                }
                if catch_unwind(AssertUnwindSafe(|| (self.observe)(&event))).is_err() {
                    tracing::error!(target: target::EVENTS, event = event.kind.as_str(), key = %event.key, "an observer panicked");
                }
            }
        }
    }
}
