//! The life of one lease, as a pure state machine: `(now, LeaseEvent) -> Action`.
//!
//! ```text
//!            Tick: renew_at           Renewed
//!   Held ------------------> Held* -----------> Held       (* a renewal is in flight)
//!    |  Tick: valid_until      |  Unknown: Held, try again after a back-off
//!    |  Tick: hold_until       |  Gone
//!    |  Tick: stall_until      |
//!    v                         v
//!   Lost <---------------------+
//!
//!   Held --Release--> Releasing --> Released | NotHeld | Unconfirmed
//! ```
//!
//! It does no I/O, knows no tokio and no clock: every path can be read here and tested without waiting. Two promises are kept here
//! alone.
//!
//! *Validity* counts from the moment a request was sent, never from its answer, which may have been under way for long.
//!
//! *No path renews a lease that was released or lost*: outside of `Held` every event but the end of the release leaves a lease as
//! it is.

use std::time::Duration;

pub use crate::backoff::Backoff;
use crate::clock::Instant;
use crate::error::LossReason;

/// How a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The engine vouches for it until `valid_until`.
    Held,
    /// The holder released it; the backend has not confirmed yet.
    Releasing,
    /// Released, and the backend confirmed.
    Released,
    /// Released, but the backend said that this lease no longer held the key.
    NotHeld,
    /// Released, but no answer came before the lease would have run out.
    Unconfirmed,
    /// It ended without its holder releasing it.
    Lost(LossReason),
}

impl Status {
    /// A word that never changes, the same in every language.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Releasing => "releasing",
            Self::Released => "released",
            Self::NotHeld => "not_held",
            Self::Unconfirmed => "unknown",
            Self::Lost(_) => "lost",
        }
    }
}

/// What happens to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// Time has passed.
    Tick,
    /// A renewal or extension sent at `sent` was acknowledged with this TTL. `epoch` is that of the request.
    Renewed {
        /// When the request left.
        sent: Instant,
        /// What the backend confirmed.
        ttl: Duration,
        /// [`LeaseState::epoch`] when it left.
        epoch: u32,
    },
    /// A renewal got no answer.
    Unknown {
        /// When to try again.
        backoff: Backoff,
    },
    /// A heartbeat of the holder.
    Heartbeat,
    /// The backend says that the lease is gone.
    Gone,
    /// The holder wants the lease to last `ttl` from now; the request is about to be sent.
    Extend {
        /// The new TTL.
        ttl: Duration,
    },
    /// The answer to an extension is missing: it may be executed until `late`.
    ExtendUnknown {
        /// The TTL that was asked for.
        ttl: Duration,
        /// The latest moment at which the backend can still execute it.
        late: Instant,
    },
    /// The holder releases the lease.
    Release,
    /// The release has ended.
    ReleaseEnded(Status),
    /// The client is closed and takes the lease with it.
    Close,
    /// The engine has stopped, so nobody renews the lease.
    Unattended,
}

/// What the engine has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: come back at [`LeaseState::next_deadline`].
    Wait,
    /// Send a renewal.
    Renew,
    /// The lease has just ended: inform its holder, and release the key where the backend may still keep it.
    Lose(LossReason),
    /// Send the release.
    Release,
}

/// On which terms a lease is kept.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Whether it is renewed at all.
    pub renew: bool,
    /// Renew when the remaining share of the TTL falls to this.
    pub threshold: f64,
    /// Taken off the TTL, in addition to 1 %.
    pub margin: Duration,
    /// The lease ends this long after it was granted.
    pub max_hold: Option<Duration>,
    /// The lease ends this long after the last [`LeaseEvent::Heartbeat`]; the first one starts this timer.
    pub max_stall: Option<Duration>,
}

/// Renewals that are due within this time are sent together.
const EARLY: Duration = Duration::from_millis(50);

/// One lease.
#[derive(Clone, Debug)]
pub struct LeaseState {
    status: Status,
    terms: Terms,
    ttl: Duration,
    /// The longest TTL that was ever asked for.
    longest: Duration,
    valid_until: Instant,
    hold_until: Option<Instant>,
    stall_until: Option<Instant>,
    renew_at: Option<Instant>,
    /// When the renewal became due, however many tries have failed since.
    due: Option<Instant>,
    in_flight: bool,
    failures: u32,
    epoch: u32,
    /// Until this instant an unanswered extension may still set this TTL.
    shadow: Option<(Instant, Duration)>,
}

impl LeaseState {
    /// A lease that was granted for `ttl` in answer to a request sent at `sent`.
    pub fn granted(sent: Instant, ttl: Duration, terms: Terms) -> Self {
        let mut state = Self {
            status: Status::Held,
            terms,
            ttl,
            longest: ttl,
            valid_until: sent,
            hold_until: terms.max_hold.map(|max_hold| sent + max_hold),
            stall_until: None,
            renew_at: None,
            due: None,
            in_flight: false,
            failures: 0,
            epoch: 0,
            shadow: None,
        };
        state.live(sent, ttl);
        state
    }

    /// How the lease stands, whatever the clock says.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The TTL of the latest grant or extension.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The longest TTL that the backend may still count with: it may not have received an extension that shortened the lease.
    pub fn longest_ttl(&self) -> Duration {
        self.longest
    }

    /// The instant up to which the engine vouches for the lease, `max_hold` included, as long as the holder sends heartbeats.
    pub fn valid_until(&self) -> Instant {
        self.hold_until.map_or(self.valid_until, |end| end.min(self.valid_until))
    }

    /// When it ends if nothing more happens: [`LeaseState::valid_until`], or earlier if no heartbeat comes.
    pub fn ends_at(&self) -> Instant {
        self.stall_until.map_or(self.valid_until(), |end| end.min(self.valid_until()))
    }

    /// How long the holder may go without a heartbeat; `None` for as long as the lease lasts.
    pub fn max_stall(&self) -> Option<Duration> {
        self.terms.max_stall
    }

    /// Counts the extensions: a renewal that was sent before one must not undo it.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether the holder may rely on the lease at `now`. This compares with the clock and is no flag: it is never true after the
    /// holder learned that the lease ended.
    pub fn is_valid(&self, now: Instant) -> bool {
        self.status == Status::Held && self.run_out(now).is_none()
    }

    /// When to send the next [`LeaseEvent::Tick`]; `None` once the lease has ended.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.status != Status::Held {
            return None;
        }
        let renewal = self.renew_at.filter(|_| !self.in_flight);
        [renewal, self.stall_until, Some(self.valid_until())].into_iter().flatten().min()
    }

    /// How late the renewal is; zero while none is due.
    pub fn lag(&self, now: Instant) -> Duration {
        self.due.filter(|_| self.status == Status::Held).map_or(Duration::ZERO, |due| now.since(due))
    }

    /// Whether the renewal is late by more than a quarter of the time between renewals.
    pub fn is_lagging(&self, now: Instant) -> bool {
        self.lag(now) > self.ttl.mul_f64((1.0 - self.terms.threshold) / 4.0)
    }

    /// Whether less than half of the life is left that was left when the renewal became due. A lease without renewal is meant to
    /// end, and is not at risk.
    pub fn is_at_risk(&self, now: Instant) -> bool {
        let left = self.valid_until.since(now);
        self.status == Status::Held && self.due.is_some() && left < self.ttl.mul_f64(self.terms.threshold / 2.0)
    }

    /// Switches renewal on or off while held.
    pub fn set_renew(&mut self, now: Instant, renew: bool) {
        self.terms.renew = renew;
        self.renew_at = renew.then_some(now);
        self.due = self.renew_at;
    }

    /// Takes an event and says what to do.
    pub fn on(&mut self, now: Instant, event: LeaseEvent) -> Action {
        match (self.status, event) {
            (Status::Held, event) => self.while_held(now, event),
            (Status::Releasing, LeaseEvent::ReleaseEnded(status)) => {
                self.status = status;
                Action::Wait
            }
            _ => Action::Wait,
        }
    }

    fn while_held(&mut self, now: Instant, event: LeaseEvent) -> Action {
        match event {
            LeaseEvent::Tick => self.tick(now),
            LeaseEvent::Renewed { sent, ttl, epoch } => {
                self.in_flight = false;
                self.failures = 0;
                if epoch == self.epoch {
                    self.live(sent, ttl);
                } else {
                    self.renew_at = self.terms.renew.then_some(now);
                }
                // An answer that was under way for longer than the TTL saves nothing.
                self.tick_after_answer(now)
            }
            LeaseEvent::Unknown { backoff } => {
                self.in_flight = false;
                let pause = backoff.after(self.failures).min(self.ttl / 20);
                self.failures += 1;
                self.renew_at = self.terms.renew.then_some(now + pause);
                self.tick_after_answer(now)
            }
            LeaseEvent::Heartbeat => self.heartbeat(now),
            LeaseEvent::Gone => self.lose(LossReason::Gone),
            LeaseEvent::Extend { ttl } => {
                self.epoch += 1;
                self.ttl = ttl;
                self.longest = self.longest.max(ttl);
                self.valid_until = self.valid_until.min(self.vouched(now, ttl));
                self.tick_after_answer(now)
            }
            LeaseEvent::ExtendUnknown { ttl, late } => {
                self.shadow = Some((late, ttl));
                self.renew_at = self.terms.renew.then_some(now);
                Action::Wait
            }
            // A lease that has run out is lost, also if its holder notices first: the holder must not wait for a server that it
            // lost the key to.
            LeaseEvent::Release => match self.run_out(now) {
                Some(reason) => self.lose(reason),
                None => self.begin_release(),
            },
            LeaseEvent::ReleaseEnded(_) => Action::Wait,
            LeaseEvent::Close => self.lose(LossReason::Closed),
            LeaseEvent::Unattended => self.lose(LossReason::Expired),
        }
    }

    fn tick(&mut self, now: Instant) -> Action {
        if let Some(reason) = self.run_out(now) {
            return self.lose(reason);
        }
        let early = EARLY.min(self.ttl / 20);
        match self.renew_at {
            Some(at) if !self.in_flight && at <= now + early => {
                self.in_flight = true;
                Action::Renew
            }
            _ => Action::Wait,
        }
    }

    fn tick_after_answer(&mut self, now: Instant) -> Action {
        self.run_out(now).map_or(Action::Wait, |reason| self.lose(reason))
    }

    /// A heartbeat that comes too late saves nothing: another holder may have worked on what was protected.
    fn heartbeat(&mut self, now: Instant) -> Action {
        let Some(max_stall) = self.terms.max_stall else { return Action::Wait };
        if let Some(reason) = self.run_out(now) {
            return self.lose(reason);
        }
        self.stall_until = Some(now + max_stall);
        Action::Wait
    }

    /// Why the lease is over at `now` by the clock alone, whether or not anybody has noticed.
    pub fn run_out(&self, now: Instant) -> Option<LossReason> {
        if self.hold_until.is_some_and(|end| now >= end) {
            Some(LossReason::MaxHold)
        } else if self.stall_until.is_some_and(|end| now >= end) {
            Some(LossReason::MaxStall)
        } else if now >= self.valid_until {
            Some(LossReason::Expired)
        } else {
            None
        }
    }

    fn begin_release(&mut self) -> Action {
        self.status = Status::Releasing;
        Action::Release
    }

    fn lose(&mut self, reason: LossReason) -> Action {
        self.status = Status::Lost(reason);
        Action::Lose(reason)
    }

    /// Counts a life of `ttl` from `sent`, and never more than the TTL that was asked for last: a request that shortens the lease
    /// may be under way.
    fn live(&mut self, sent: Instant, ttl: Duration) {
        let ttl = ttl.min(self.ttl);
        let ttl = match self.shadow {
            Some((late, short)) if sent < late => ttl.min(short),
            _ => ttl,
        };
        self.valid_until = self.vouched(sent, ttl);
        // A threshold next to 1 must not make renewals follow each other at the speed of round trips.
        let due = ttl.mul_f64(1.0 - self.terms.threshold).max(ttl / 10);
        self.renew_at = self.terms.renew.then_some(sent + due);
        self.due = self.renew_at;
    }

    fn vouched(&self, sent: Instant, ttl: Duration) -> Instant {
        sent + ttl.saturating_sub(ttl / 100 + self.terms.margin)
    }
}

#[cfg(test)]
#[path = "lease_state_tests.rs"]
mod tests;
