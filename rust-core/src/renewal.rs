//! Renewal: one deadline heap for all leases of a session, one request for many of them.
//!
//! The heap knows each lease's next deadline, whatever it is: a renewal, the end of its validity, `max_hold`. The loop takes what is due,
//! asks the state machine, and sends what wants renewing in batches. A batch that hangs holds nobody up: the loop goes on, and the
//! deadlines of the leases in it still count.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Backend, Renew, Renewed};
use crate::clock::Clock;
use crate::deadlines::Deadlines;
use crate::error::{BackendError, LossReason};
use crate::held::Held;
use crate::lease_state::{Action, Event, LeaseState, Status};

/// Deadlines this close are looked at together.
const TOGETHER: Duration = Duration::from_millis(50);
/// A renewal takes at most half of what is left of the lease, so that one stalled answer leaves time for another try; but not less than this.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(20);

/// What happens to a lease that was lost.
pub(crate) type OnLoss = dyn Fn(&Arc<Held>, LossReason) + Send + Sync;

/// All leases of a session by their next deadline.
pub(crate) struct Renewals {
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    op_timeout: Duration,
    deadlines: Deadlines<Arc<Held>>,
    on_loss: Box<OnLoss>,
}

impl Renewals {
    pub(crate) fn new(backend: Arc<dyn Backend>, clock: Arc<dyn Clock>, op_timeout: Duration, on_loss: Box<OnLoss>) -> Arc<Self> {
        let deadlines = Deadlines::new(clock.clone());
        Arc::new(Self { backend, clock, op_timeout, deadlines, on_loss })
    }

    /// Looks after a lease from now on, or again after its deadline has changed.
    pub(crate) fn schedule(&self, held: &Arc<Held>) {
        self.deadlines.refresh(held.owner.sequence, || held.next_deadline(), held.clone());
    }

    /// Looks after this lease no longer.
    pub(crate) fn forget(&self, held: &Held) {
        self.deadlines.remove(held.owner.sequence);
    }

    /// The loop. It never ends by itself: its session drops it.
    ///
    /// # Cancel safety
    /// Dropping it stops renewal; no lease is changed by that.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let due = self.deadlines.due(TOGETHER).await;
            self.look_at(due);
        }
    }

    fn look_at(self: &Arc<Self>, due: Vec<Arc<Held>>) {
        let mut batch = Vec::new();
        for held in due {
            match held.on(Event::Tick) {
                Action::Renew => batch.push(held.clone()),
                Action::Lose(reason) => (self.on_loss)(&held, reason),
                Action::Wait | Action::GiveBack => {}
            }
            self.schedule(&held);
        }
        for leases in batch.chunks(self.backend.capabilities().batch.max(1)) {
            tokio::spawn(self.clone().renew(leases.to_vec()));
        }
    }

    /// Sends one batch and tells each lease its answer.
    async fn renew(self: Arc<Self>, leases: Vec<Arc<Held>>) {
        let (request, epochs): (Vec<_>, Vec<_>) = leases
            .iter()
            .map(|held| {
                let (ttl, epoch) = held.read(|state| (state.ttl(), state.epoch()));
                (Renew { key: held.key.clone(), owner: held.owner, ttl, exact: false }, epoch)
            })
            .unzip();
        // Before the request leaves: whatever the answer takes, the lease is not vouched for longer than the backend keeps it.
        let sent = self.clock.now();
        let ends = leases.iter().map(|held| held.read(LeaseState::valid_until)).min().unwrap_or(sent);
        let timeout = self.op_timeout.min((ends.since(sent) / 2).max(SHORTEST_TIMEOUT));
        let answers = self.backend.renew(request, timeout).await;
        if let Err(error) = &answers {
            tracing::warn!(server = %self.backend.server(), leases = leases.len(), %error, "renewal failed, will be tried again");
        }
        for (index, held) in leases.iter().enumerate() {
            let event = match answers.as_ref().map(|answers| answers.get(index)) {
                Ok(Some(Renewed::Extended(ttl))) => Event::Renewed { sent, ttl: *ttl, epoch: epochs[index] },
                Ok(Some(Renewed::Gone)) => Event::Gone,
                Ok(None) | Err(_) => Event::Unknown,
            };
            self.tell(held, event);
        }
    }

    /// Passes an event on, and schedules what follows from it.
    pub(crate) fn tell(&self, held: &Arc<Held>, event: Event) {
        match held.on(event) {
            Action::Lose(reason) => (self.on_loss)(held, reason),
            _ => self.schedule(held),
        }
    }

    /// Sets a new life for one lease: `ttl` from now, and for later renewals.
    ///
    /// Answers once the backend has; an error means that the outcome is unknown.
    pub(crate) async fn extend(&self, held: &Arc<Held>, ttl: Duration) -> Result<(), BackendError> {
        let _one_at_a_time = held.extending.lock().await;
        if held.status() != Status::Held {
            // It ended while another extension was under way: nothing may be sent for it any more.
            return Ok(());
        }
        let before = held.read(LeaseState::valid_until);
        self.tell(held, Event::Extend { ttl });
        let epoch = held.read(LeaseState::epoch);
        let sent = self.clock.now();
        // Only a shorter life needs to be set exactly; a longer one must not undo a renewal that overtakes it.
        let exact = sent + ttl < before;
        let renew = Renew { key: held.key.clone(), owner: held.owner, ttl, exact };
        let answer = self.backend.renew(vec![renew], held.op_timeout).await;
        match answer.map(|answers| answers.first().copied()) {
            Ok(Some(Renewed::Extended(ttl))) => {
                self.tell(held, Event::Renewed { sent, ttl, epoch });
                Ok(())
            }
            Ok(_) => {
                self.tell(held, Event::Gone);
                Ok(())
            }
            Err(error) => {
                if exact {
                    let late = self.clock.now() + self.backend.capabilities().late_window;
                    self.tell(held, Event::ExtendUnknown { ttl, late });
                }
                Err(error)
            }
        }
    }
}
