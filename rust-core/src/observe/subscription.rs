//! Subscriptions: events on their way to subscribers, off the path of whoever reports them.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::events::{Event, Kinds};
use super::logs::target;
use super::observer::Observer;
use super::queue::EventQueue;

/// Events on their way to one subscriber, which takes them. It lasts until it is ended, or until its client is gone.
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
    /// Calls `wake` on an engine thread when there is something to take, and not again before it was taken. It must be cheap and
    /// not block.
    pub(crate) fn subscribe(self: &Arc<Self>, kinds: Kinds, wake: impl Fn() + Send + Sync + 'static) -> Subscription {
        let queue = Arc::new(EventQueue::new(kinds, Box::new(wake)));
        self.add(&queue);
        Subscription { queue, observer: Arc::downgrade(self) }
    }

    /// A subscription that calls `observe` with each event, in order, one after the other, on a thread that is free to block.
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

    /// Moves what has come since to the end of `batch`. A batch that is passed again and again keeps its memory.
    pub fn take_into(&self, batch: &mut VecDeque<Event>) {
        self.queue.take_into(batch);
    }

    /// Subscribes to these kinds from now on.
    pub fn set_kinds(&self, kinds: Kinds) {
        self.queue.set_kinds(kinds);
        if let Some(observer) = self.observer.upgrade() {
            observer.count_listeners();
        }
    }

    /// Ends the subscription. What has not been taken is dropped.
    pub fn end(&self) {
        self.queue.unsubscribe();
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

/// A callback, and the events that it is being called with.
struct Callback {
    observe: Box<dyn FnMut(&Event) + Send>,
    batch: VecDeque<Event>,
}

impl Callback {
    /// Calls the callback with everything that has come. If it panics, the panic is logged and the next event is passed on all the
    /// same.
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
