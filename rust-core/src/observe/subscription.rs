//! Subscriptions: events on their way to those who want them, off the path of whoever reports them.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::events::{Event, Kinds};
use super::logs::target;
use super::observer::Observer;
use super::queue::EventQueue;

/// Events on their way to one subscriber, who takes them. It goes on until it is ended, or its client is gone.
#[derive(Clone)]
pub struct Subscription {
    queue: Arc<EventQueue>,
    observer: Weak<Observer>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("kinds", &Kinds(self.queue.kinds())).finish_non_exhaustive()
    }
}

impl Observer {
    /// `wake` is called on an engine thread, cheap and never blocking, when there is something to take; not again before it was taken.
    pub(crate) fn subscribe(self: &Arc<Self>, kinds: Kinds, wake: impl Fn() + Send + Sync + 'static) -> Subscription {
        let queue = Arc::new(EventQueue::new(kinds, Box::new(wake)));
        self.add(&queue);
        Subscription { queue, observer: Arc::downgrade(self) }
    }

    /// A subscription whose events are handed to `observe`, in order, one after the other, on a thread that is free to block.
    pub(crate) fn on(self: &Arc<Self>, kinds: Kinds, observe: impl FnMut(&Event) + Send + 'static) -> Subscription {
        let callback = Arc::new(Mutex::new(Callback { observe: Box::new(observe), batch: VecDeque::new() }));
        let queue = Arc::new_cyclic(|queue: &Weak<EventQueue>| {
            let queue = queue.clone();
            let wake = move || {
                let (queue, callback) = (queue.clone(), callback.clone());
                // Without the engine there is no thread left to call it on.
                if let Ok(engine) = tokio::runtime::Handle::try_current() {
                    engine.spawn_blocking(move || callback.lock().call(&queue));
                }
            };
            EventQueue::new(kinds, Box::new(wake))
        });
        self.add(&queue);
        Subscription { queue, observer: Arc::downgrade(self) }
    }
}

impl Subscription {
    /// What has come since, oldest first.
    pub fn take(&self) -> Vec<Event> {
        let mut batch = VecDeque::new();
        self.take_into(&mut batch);
        batch.into()
    }

    /// Moves what has come since to the end of `batch`. With the same one each time, its room is used again.
    pub fn take_into(&self, batch: &mut VecDeque<Event>) {
        self.queue.take_into(batch);
    }

    /// Wants these kinds from now on.
    pub fn set_kinds(&self, kinds: Kinds) {
        self.queue.set_kinds(kinds);
        if let Some(observer) = self.observer.upgrade() {
            observer.count_listeners();
        }
    }

    /// Wants nothing more. What has not been taken is dropped.
    pub fn end(&self) {
        self.queue.leave();
        if let Some(observer) = self.observer.upgrade() {
            observer.remove(&self.queue);
        }
        self.queue.clear();
    }

    /// Whether nothing more will come.
    pub fn is_over(&self) -> bool {
        self.queue.is_over()
    }
}

/// An observer, and the events that it is being called with.
struct Callback {
    observe: Box<dyn FnMut(&Event) + Send>,
    batch: VecDeque<Event>,
}

impl Callback {
    /// Calls the observer with all that has come. A panic is logged, and the next event is told all the same.
    fn call(&mut self, queue: &Weak<EventQueue>) {
        while let Some(queue) = queue.upgrade() {
            queue.take_or_rest(&mut self.batch);
            if self.batch.is_empty() {
                return;
            }
            for event in self.batch.drain(..) {
                if queue.is_over() {
                    return;
                }
                if catch_unwind(AssertUnwindSafe(|| (self.observe)(&event))).is_err() {
                    tracing::error!(target: target::EVENTS, event = event.kind.as_str(), key = %event.key, "an observer panicked");
                }
            }
        }
    }
}
