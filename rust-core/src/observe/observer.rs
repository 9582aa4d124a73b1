//! Where the engine reports what happens to leases. A report costs an addition or two and, if nobody listens, the look at one byte.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::Notify;

use super::events::{Event, Kind};
use super::figures::Figures;
use super::logs::target;
use super::queue::EventQueue;
use crate::error::LossReason;
use crate::fencing::Token;
use crate::owner::OwnerId;

/// What is reported about one client.
#[derive(Default)]
pub(crate) struct Observer {
    pub(crate) figures: Figures,
    /// The kinds that somebody listens to.
    listened: AtomicU8,
    pub(super) subscriptions: RwLock<Vec<Arc<EventQueue>>>,
    /// Notified when an event waits for a subscriber that was not woken yet.
    pub(super) arrived: Notify,
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

/// The lease that something happens to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) key: &'a Arc<str>,
    pub(crate) token: Token,
    pub(crate) owner: OwnerId,
    /// How long it has been held.
    pub(crate) held: Duration,
}

impl Subject<'_> {
    fn event(&self, kind: Kind, reason: Option<Cow<'static, str>>) -> Event {
        let (token, owner) = (Some(self.token), Some(self.owner));
        Event { kind, key: self.key.clone(), token, owner, waited: None, held: Some(self.held), reason }
    }
}

impl Observer {
    /// A lease was granted. Reported before anything else can happen to it.
    pub(crate) fn acquired(&self, lease: Subject<'_>, waited: Duration) {
        self.figures.acquired(waited);
        tracing::debug!(target: target::LEASE, key = %lease.key, token = lease.token, owner = %lease.owner, ?waited, "acquired");
        self.report(Kind::Acquired, || Event { waited: Some(waited), held: None, ..lease.event(Kind::Acquired, None) });
    }

    pub(crate) fn acquire_failed(&self, key: &Arc<str>, code: &'static str, waited: Duration) {
        self.figures.acquire_failed(code);
        tracing::debug!(target: target::LEASE, %key, code, ?waited, "not acquired");
        self.report(Kind::AcquireFailed, || Event {
            kind: Kind::AcquireFailed,
            key: key.clone(),
            token: None,
            owner: None,
            waited: Some(waited),
            held: None,
            reason: Some(code.into()),
        });
    }

    pub(crate) fn renewed(&self, lease: Subject<'_>, lag: Option<Duration>) {
        self.figures.renewed(lag);
        tracing::debug!(target: target::LEASE, key = %lease.key, token = lease.token, ?lag, "renewed");
        self.report(Kind::Renewed, || lease.event(Kind::Renewed, None));
    }

    pub(crate) fn renewal_failed(&self, lease: Subject<'_>, error: &str) {
        self.figures.renewal_failed();
        self.report(Kind::RenewalFailed, || lease.event(Kind::RenewalFailed, Some(error.to_owned().into())));
    }

    /// A release has ended; `outcome` is the word for its status.
    pub(crate) fn released(&self, lease: Subject<'_>, outcome: &'static str) {
        self.figures.released(outcome, lease.held);
        tracing::debug!(target: target::LEASE, key = %lease.key, token = lease.token, held = ?lease.held, outcome, "released");
        self.report(Kind::Released, || lease.event(Kind::Released, Some(outcome.into())));
    }

    pub(crate) fn lost(&self, lease: Subject<'_>, reason: LossReason) {
        self.figures.lost(reason, lease.held);
        self.report(Kind::Lost, || lease.event(Kind::Lost, Some(reason.as_str().into())));
    }

    /// If nobody listens, only the first line is paid for.
    pub(super) fn report(&self, kind: Kind, event: impl FnOnce() -> Event) {
        if self.listened.load(Ordering::Relaxed) & kind as u8 == 0 {
            return;
        }
        let subscriptions = self.subscriptions.read();
        let mut wanting = subscriptions.iter().filter(|subscription| subscription.wants(kind));
        let Some(mut one) = wanting.next() else { return };
        let event = event();
        let mut first = false;
        let mut push = |subscription: &EventQueue, event| match subscription.push(event) {
            Ok(armed) => first |= armed,
            Err(()) => self.figures.dropped(),
        };
        for another in wanting {
            push(one, event.clone());
            one = another;
        }
        // With one subscriber, the most frequent case, nothing is copied.
        push(one, event);
        drop(subscriptions);
        if first {
            self.arrived.notify_one();
        }
    }

    /// Ends every subscription.
    pub(crate) fn end(&self) {
        let subscriptions = self.subscriptions.read().clone();
        for subscription in subscriptions {
            subscription.end();
        }
    }

    /// Events that wait to be taken.
    pub(crate) fn queued(&self) -> usize {
        self.subscriptions.read().iter().map(|subscription| subscription.len()).sum()
    }

    pub(super) fn add(&self, subscription: &Arc<EventQueue>) {
        self.subscriptions.write().push(subscription.clone());
        self.count_listeners();
    }

    pub(super) fn remove(&self, subscription: &Arc<EventQueue>) {
        self.subscriptions.write().retain(|known| !Arc::ptr_eq(known, subscription));
        self.count_listeners();
    }

    pub(super) fn count_listeners(&self) {
        let subscriptions = self.subscriptions.read();
        let kinds = subscriptions.iter().fold(0, |bits, subscription| bits | subscription.kinds());
        self.listened.store(kinds, Ordering::Relaxed);
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        for subscription in self.subscriptions.get_mut() {
            subscription.end();
        }
    }
}
