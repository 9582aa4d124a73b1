//! Renewal: one heap of deadlines for all leases of a session, one request for many of them.
//!
//! The heap knows each lease's next deadline, whatever it is: a renewal, the end of its validity, `max_hold`. The loop takes what
//! is due, asks the state machine, and sends renewals in batches. A batch that hangs delays nothing: the loop goes on, and the
//! deadlines of the leases in the batch still count.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tracing::Instrument;
use tracing::field::Empty;

use crate::backend::{Backend, Renew, Renewed};
use crate::backoff::Backoff;
use crate::clock::{Clock, Instant};
use crate::engine::deadlines::Deadlines;
use crate::engine::lease_record::LeaseRecord;
use crate::engine::lease_state::{Action, LeaseEvent, LeaseState, Status};
use crate::error::BackendError;
use crate::observe::Observer;
use crate::observe::logs::target;
use crate::options::Renewal;

/// Deadlines this close to each other are handled together.
const TOGETHER: Duration = Duration::from_millis(50);
/// One renewal may take half of what is left of the lease, so that a stalled answer leaves time for another try; but at least this.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(20);

/// How an event reaches the state machine of a lease: [`Session::apply`](crate::engine::session::Session::apply).
pub(crate) type Apply = dyn Fn(&Arc<LeaseRecord>, LeaseEvent) -> Action + Send + Sync;

/// All leases of a session by their next deadline.
pub(crate) struct Renewals {
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    observer: Arc<Observer>,
    tuning: Renewal,
    in_flight: AtomicUsize,
    deadlines: Deadlines<Arc<LeaseRecord>>,
    apply: Box<Apply>,
}

impl Renewals {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
        observer: Arc<Observer>,
        tuning: Renewal,
        apply: Box<Apply>,
    ) -> Arc<Self> {
        let deadlines = Deadlines::new(clock.clone());
        Arc::new(Self { backend, clock, observer, tuning, in_flight: AtomicUsize::new(0), deadlines, apply })
    }

    /// Looks after a lease from now on, or again after its deadline has changed.
    pub(crate) fn schedule(&self, record: &Arc<LeaseRecord>) {
        self.deadlines.refresh(record.owner.sequence, || record.next_deadline(), record.clone());
    }

    /// Leases in requests that were not answered yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Leases that wait for their next deadline.
    pub(crate) fn scheduled(&self) -> usize {
        self.deadlines.len()
    }

    /// No longer looks after a lease.
    pub(crate) fn forget(&self, record: &LeaseRecord) {
        self.deadlines.remove(record.owner.sequence);
    }

    /// The loop. It never ends by itself: its session aborts it.
    ///
    /// # Cancel safety
    ///
    /// Dropping it stops renewal; no lease is changed by that.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let due = self.deadlines.due(TOGETHER).await;
            self.handle_due(due);
        }
    }

    fn handle_due(self: &Arc<Self>, due: Vec<Arc<LeaseRecord>>) {
        let mut batch = Vec::new();
        for record in due {
            if (self.apply)(&record, LeaseEvent::Tick) == Action::Renew {
                batch.push(record.clone());
            }
            self.schedule(&record);
        }
        // Each lock has its own `op_timeout`: one with a short timeout must not shorten that of the others.
        batch.sort_by_key(|record| record.op_timeout);
        for alike in batch.chunk_by(|one, next| one.op_timeout == next.op_timeout) {
            for leases in alike.chunks(self.batch_size()) {
                tokio::spawn(self.clone().renew(leases.to_vec()));
            }
        }
    }

    fn batch_size(&self) -> usize {
        let wanted = self.tuning.batch.map_or(usize::MAX, |batch| batch as usize);
        wanted.min(self.backend.capabilities().batch).max(1)
    }

    /// How long one request for these leases may take.
    fn timeout(&self, leases: &[Arc<LeaseRecord>], sent: Instant) -> Duration {
        let ends = leases.iter().map(|record| record.read(LeaseState::valid_until)).min().unwrap_or(sent);
        let op_timeout = leases.first().map_or(Duration::ZERO, |record| record.op_timeout);
        let longest = self.tuning.call_timeout.map_or(op_timeout, |call_timeout| call_timeout.min(op_timeout));
        longest.min((ends.since(sent) / 2).max(SHORTEST_TIMEOUT))
    }

    /// Sends one batch and passes each lease its answer.
    async fn renew(self: Arc<Self>, mut leases: Vec<Arc<LeaseRecord>>) {
        // A holder may have released between the decision to renew and this moment.
        leases.retain(|record| record.status() == Status::Held);
        if leases.is_empty() {
            return;
        }
        let (request, epochs): (Vec<_>, Vec<_>) = leases
            .iter()
            .map(|record| {
                let (ttl, epoch) = record.read(|state| (state.ttl(), state.epoch()));
                (Renew { key: record.key.clone(), owner: record.owner, ttl, exact: false }, epoch)
            })
            .unzip();
        // Read before the request leaves, so that the engine never vouches for a lease longer than the backend keeps it.
        let sent = self.clock.now();
        let timeout = self.timeout(&leases, sent);
        self.in_flight.fetch_add(leases.len(), Ordering::Relaxed);
        let answers = self.backend.renew(request, timeout).instrument(span(&leases)).await;
        self.in_flight.fetch_sub(leases.len(), Ordering::Relaxed);
        if let Err(error) = &answers {
            tracing::warn!(target: target::RENEWAL, server = %self.backend.server(), leases = leases.len(), %error, "renewal failed; it will be tried again");
        }
        let backoff = Backoff { first: self.tuning.base_delay, longest: self.tuning.max_delay };
        for (index, record) in leases.iter().enumerate() {
            let event = match answers.as_ref().map(|answers| answers.get(index)) {
                Ok(Some(Renewed::Extended(ttl))) => LeaseEvent::Renewed { sent, ttl: *ttl, epoch: epochs[index] },
                Ok(Some(Renewed::Gone)) => LeaseEvent::Gone,
                Ok(None) | Err(_) => LeaseEvent::Unknown { backoff },
            };
            match &answers {
                Ok(_) => record.renewal_answered(),
                Err(error) => record.renewal_failed(error),
            }
            match (event, &answers) {
                (LeaseEvent::Renewed { .. }, _) => {
                    let lag = record.read(|state| state.lag(record.now()));
                    self.note_renewed(record, event, Some(lag));
                }
                (LeaseEvent::Unknown { .. }, Err(error)) => self.note_failed(record, event, &error.message),
                _ => self.apply_and_schedule(record, event),
            }
        }
    }

    /// Passes an event on and schedules what follows from it.
    pub(crate) fn apply_and_schedule(&self, record: &Arc<LeaseRecord>, event: LeaseEvent) {
        if !matches!((self.apply)(record, event), Action::Lose(_)) {
            self.schedule(record);
        }
    }

    /// A renewal or an extension was acknowledged; `lag` is how long after it was due.
    fn note_renewed(&self, record: &Arc<LeaseRecord>, event: LeaseEvent, lag: Option<Duration>) {
        self.apply_and_schedule(record, event);
        // Not after a release, and not after an answer that came too late.
        if record.status() == Status::Held {
            self.observer.renewed(record.subject(), lag);
        }
    }

    /// A renewal got no answer.
    fn note_failed(&self, record: &Arc<LeaseRecord>, event: LeaseEvent, error: &str) {
        if record.status() == Status::Held {
            self.observer.renewal_failed(record.subject(), error);
        }
        self.apply_and_schedule(record, event);
    }

    /// Sets a new life for one lease: `ttl` from now, and for later renewals.
    ///
    /// Returns once the backend has answered. An error means that the outcome is unknown.
    pub(crate) async fn extend(&self, record: &Arc<LeaseRecord>, ttl: Duration) -> Result<(), BackendError> {
        let _one_at_a_time = record.extending.lock().await;
        if record.status() != Status::Held {
            // The lease ended while another extension was under way: nothing more may be sent for it.
            return Ok(());
        }
        let before = record.read(LeaseState::valid_until);
        self.apply_and_schedule(record, LeaseEvent::Extend { ttl });
        let epoch = record.read(LeaseState::epoch);
        let sent = self.clock.now();
        // Only a shorter life must be set exactly; a longer one must not undo a renewal that overtakes it.
        let exact = sent + ttl < before;
        let renew = Renew { key: record.key.clone(), owner: record.owner, ttl, exact };
        let answer = self.backend.renew(vec![renew], record.op_timeout).instrument(span(std::slice::from_ref(record))).await;
        if answer.is_ok() {
            record.renewal_answered();
        }
        match answer.map(|answers| answers.first().copied()) {
            Ok(Some(Renewed::Extended(ttl))) => {
                self.note_renewed(record, LeaseEvent::Renewed { sent, ttl, epoch }, None);
                Ok(())
            }
            Ok(_) => {
                self.apply_and_schedule(record, LeaseEvent::Gone);
                Ok(())
            }
            Err(error) => {
                if exact {
                    let late = self.clock.now() + self.backend.capabilities().late_window;
                    self.apply_and_schedule(record, LeaseEvent::ExtendUnknown { ttl, late });
                }
                Err(error)
            }
        }
    }
}

/// The span of one request. Key and token are those of its first lease; each renewal has a log record of its own.
fn span(leases: &[Arc<LeaseRecord>]) -> tracing::Span {
    let span = tracing::debug_span!(target: target::RENEWAL, "renew", leases = leases.len(), key = Empty, token = Empty);
    if let (Some(first), false) = (leases.first(), span.is_disabled()) {
        span.record("key", &*first.key).record("token", first.token);
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Acquire, Context, memory};
    use crate::clock::ManualClock;
    use crate::engine::lease_state::Terms;
    use crate::owner::{OwnerId, SessionId};

    const SECOND: Duration = Duration::from_secs(1);

    /// A renewal that was decided on and not sent yet.
    #[tokio::test]
    async fn r06_a_lease_that_is_released_meanwhile_is_not_renewed() {
        let clock = ManualClock::new();
        let owner = OwnerId { session: SessionId::from_u128(1), sequence: 1 };
        let context = Context {
            session: owner.session,
            clock: Arc::new(clock.clone()),
            namespace: "".into(),
            connect_timeout: SECOND,
            op_timeout: SECOND,
            on_hint: Arc::new(|_| {}),
        };
        let backend = memory::open(&url::Url::parse("memory:").unwrap(), context).unwrap();
        let (key, ttl) = (Arc::<str>::from("k"), 30 * SECOND);
        let (note, timeout) = ("{}".into(), SECOND);
        let request = Acquire { key: key.clone(), owner, ttl, fair: true, enqueue: false, note, renew: true, floor: 0, timeout };
        backend.acquire(request).await.unwrap();
        let terms = Terms { renew: true, threshold: 0.5, margin: Duration::ZERO, max_hold: None, max_stall: None };
        let state = LeaseState::granted(clock.now(), ttl, terms);
        let record = Arc::new(LeaseRecord::new(key.clone(), owner, 1, SECOND, clock.now(), Arc::new(clock.clone()), state));
        let renewals = Renewals::new(
            backend.clone(),
            Arc::new(clock.clone()),
            Arc::default(),
            Renewal::default(),
            Box::new(|_, _| Action::Wait),
        );
        clock.advance(20 * SECOND);
        assert_eq!(record.on(clock.now(), LeaseEvent::Tick), Action::Renew);
        assert_eq!(record.on(clock.now(), LeaseEvent::Release), Action::Release);
        renewals.renew(vec![record]).await;
        let left = backend.inspect(key, SECOND).await.unwrap().holder.unwrap().remaining.unwrap();
        assert_eq!(left, 10 * SECOND, "nothing was sent");
    }
}
