//! Wakes subscribers: a moment after the first event, once for all that came meanwhile.
//!
//! Waking a thread or an event loop costs more than ten events do, and an observer does not mind a few milliseconds.

use std::sync::Arc;
use std::time::Duration;

use crate::observe::observer::Observer;

/// How long events gather before their subscribers are woken.
const GATHER: Duration = Duration::from_millis(5);

impl Observer {
    /// The loop. It never ends by itself: its session aborts it.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time; [`Observer::deliver`] delivers the rest.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            self.arrived.notified().await;
            // Real time, whatever the engine's clock: this is about threads, not about leases.
            tokio::time::sleep(GATHER).await;
            self.deliver();
        }
    }

    /// Wakes every subscriber that has something to take.
    pub(crate) fn deliver(&self) {
        let subscriptions = self.subscriptions.read().clone();
        for subscription in subscriptions {
            subscription.ring();
        }
    }
}
