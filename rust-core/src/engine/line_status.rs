//! What the callers in one line know about their key: who held it when last seen, and whether the backend answers.
//!
//! Only the first in a line asks. The answers are noted here for everybody behind it. So are the renewals of this session's own
//! lease, for callers that wait for it to end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::{Clock, Instant};
use crate::error::BackendError;
use crate::fencing::Token;
use crate::holder::{Holder, Note};
use crate::owner::OwnerId;

/// What one line knows. A single try, which joins no line, has a status of its own.
#[derive(Default)]
pub(crate) struct LineStatus {
    state: Mutex<State>,
    /// An outage has begun or ended.
    changed: Notify,
}

#[derive(Default)]
struct State {
    seen: Option<LastHolder>,
    /// How many other clients were ahead in the backend's queue, when it last said so.
    ahead: Option<u64>,
    /// Since when the backend has been failing, and with what.
    trouble: Option<(Instant, BackendError)>,
    /// When the last definite answer came.
    answered: Option<Instant>,
    /// When the first request after that answer was sent.
    asked: Option<Instant>,
}

/// Who held the key when last seen.
#[derive(Clone)]
pub(crate) enum LastHolder {
    /// This session.
    Own(OwnLease),
    /// The holder that the backend named.
    Named(Holder),
}

/// A lease of this session. It is noted with each grant and described only when somebody asks.
#[derive(Clone, Copy)]
pub(crate) struct OwnLease {
    pub(crate) owner: OwnerId,
    pub(crate) token: Token,
    pub(crate) acquired_at: SystemTime,
}

impl OwnLease {
    /// Describes it as the backend would.
    pub(crate) fn holder(self, remaining: Option<Duration>) -> Holder {
        let note = Note::of_this_process(self.acquired_at, None);
        Holder { owner: self.owner.to_string(), token: Some(self.token), remaining, note: Some(note) }
    }
}

impl LineStatus {
    /// Notes a request that is about to be sent.
    pub(crate) fn asked(&self, now: Instant) {
        self.state.lock().asked.get_or_insert(now);
    }

    /// Notes that somebody else holds the key, and who and how many are ahead, if the backend said so.
    pub(crate) fn held_by(&self, now: Instant, holder: Option<Holder>, ahead: Option<u64>) {
        self.state.lock().ahead = ahead;
        self.answered(now, holder.map(LastHolder::Named));
    }

    /// How many other clients were ahead in the backend's queue, when it last said so.
    pub(crate) fn ahead(&self) -> Option<u64> {
        self.state.lock().ahead
    }

    /// Notes that the key was granted to this session.
    pub(crate) fn granted(&self, now: Instant, own: OwnLease) {
        self.answered(now, Some(LastHolder::Own(own)));
    }

    /// Notes a definite answer, which ends an outage.
    pub(crate) fn answered(&self, now: Instant, seen: Option<LastHolder>) {
        let trouble = {
            let mut state = self.state.lock();
            (state.answered, state.asked) = (Some(now), None);
            if seen.is_some() {
                state.seen = seen;
            }
            state.trouble.take()
        };
        if trouble.is_some() {
            self.changed.notify_waiters();
        }
    }

    /// Notes a failed request.
    pub(crate) fn failed(&self, now: Instant, error: BackendError) {
        let begins = {
            let mut state = self.state.lock();
            let since = state.trouble.as_ref().map(|(since, _)| *since);
            state.trouble = Some((since.unwrap_or(now), error));
            since.is_none()
        };
        if begins {
            self.changed.notify_waiters();
        }
    }

    /// Forgets an outage: nobody asks any more, so nobody would see its end.
    pub(crate) fn forget_trouble(&self) {
        let trouble = {
            let mut state = self.state.lock();
            state.asked = None;
            state.trouble.take()
        };
        if trouble.is_some() {
            self.changed.notify_waiters();
        }
    }

    /// Notes that the lease which the line waits for is no longer renewed. An outage is kept if somebody asks all the same.
    pub(crate) fn renewals_ended(&self) {
        let asks = self.state.lock().asked.is_some();
        if !asks {
            self.forget_trouble();
        }
    }

    pub(crate) fn seen(&self) -> Option<LastHolder> {
        self.state.lock().seen.clone()
    }

    /// What the backend has been failing with up to now.
    pub(crate) fn trouble(&self) -> Option<BackendError> {
        self.state.lock().trouble.as_ref().map(|(_, error)| error.clone())
    }

    /// Since when a request has had no answer, if no answer at all came after `started`.
    pub(crate) fn silent_since(&self, started: Instant) -> Option<Instant> {
        let state = self.state.lock();
        state.asked.filter(|_| state.answered.is_none_or(|answered| answered < started))
    }

    /// What the backend has been failing with for all of `patience`, counted from when it began to fail, or from `started` if that
    /// is later.
    pub(crate) fn outlasted(&self, now: Instant, started: Instant, patience: Duration) -> Option<BackendError> {
        let state = self.state.lock();
        let (since, error) = state.trouble.as_ref()?;
        (now >= (*since).max(started) + patience).then(|| error.clone())
    }

    /// Resolves when [`LineStatus::outlasted`] says so.
    pub(crate) async fn outlast(&self, clock: &Arc<dyn Clock>, started: Instant, patience: Duration) -> BackendError {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let since = self.state.lock().trouble.as_ref().map(|(since, _)| *since);
            let Some(since) = since else {
                changed.await;
                continue;
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = clock.sleep_until(since.max(started) + patience) => {
                    if let Some(error) = self.outlasted(clock.now(), started, patience) {
                        return error;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::clock::ManualClock;
    use crate::error::Failure;

    const SECOND: Duration = Duration::from_secs(1);

    fn error() -> BackendError {
        BackendError::new(Failure::NotSent, "no connection")
    }

    #[test]
    fn r16_a_line_knows_how_many_clients_are_ahead() {
        let status = LineStatus::default();
        assert_eq!(status.ahead(), None);
        let now = Instant::from_nanos(1);
        status.held_by(now, None, Some(2));
        assert_eq!(status.ahead(), Some(2));
        status.held_by(now, None, None);
        assert_eq!(status.ahead(), None);
    }

    #[test]
    fn r16_an_outage_is_told_to_each_when_its_own_time_is_up() {
        let (manual, known) = (ManualClock::new(), LineStatus::default());
        let clock: Arc<dyn Clock> = Arc::new(manual.clone());
        let began = clock.now();
        let mut early = Box::pin(known.outlast(&clock, began, 5 * SECOND));
        assert!((&mut early).now_or_never().is_none());
        manual.advance(3 * SECOND);
        known.failed(clock.now(), error());
        manual.advance(2 * SECOND);
        let mut late = Box::pin(known.outlast(&clock, clock.now(), 5 * SECOND));
        known.failed(clock.now(), error());
        manual.advance(2 * SECOND);
        assert!((&mut early).now_or_never().is_none() && (&mut late).now_or_never().is_none());
        manual.advance(SECOND);
        assert!(early.now_or_never().is_some(), "since the outage began");
        manual.advance(SECOND);
        assert!((&mut late).now_or_never().is_none());
        manual.advance(SECOND);
        assert!(late.now_or_never().is_some(), "since it came");
    }

    #[test]
    fn r16_a_definite_answer_ends_an_outage() {
        let (manual, known) = (ManualClock::new(), LineStatus::default());
        let clock: Arc<dyn Clock> = Arc::new(manual.clone());
        let began = clock.now();
        let mut waits = Box::pin(known.outlast(&clock, began, 5 * SECOND));
        known.failed(clock.now(), error());
        assert!((&mut waits).now_or_never().is_none());
        manual.advance(4 * SECOND);
        known.held_by(clock.now(), None, None);
        manual.advance(4 * SECOND);
        assert!((&mut waits).now_or_never().is_none() && known.trouble().is_none());
        known.failed(clock.now(), error());
        manual.advance(4 * SECOND);
        assert!((&mut waits).now_or_never().is_none(), "another outage");
        manual.advance(SECOND);
        assert!(waits.now_or_never().is_some());
    }

    #[test]
    fn r16_the_end_of_renewals_ends_what_only_they_have_seen() {
        let (clock, known) = (ManualClock::new(), LineStatus::default());
        known.failed(clock.now(), error());
        known.renewals_ended();
        assert!(known.trouble().is_none());
        known.asked(clock.now());
        known.failed(clock.now(), error());
        known.renewals_ended();
        assert!(known.trouble().is_some(), "the first in line asks, and sees it as well");
    }

    #[test]
    fn a_request_without_an_answer_is_silence_for_those_who_heard_none() {
        let (clock, known) = (ManualClock::new(), LineStatus::default());
        let came = clock.now();
        assert!(known.silent_since(came).is_none(), "nobody has asked");
        known.asked(clock.now());
        clock.advance(SECOND);
        known.asked(clock.now());
        assert_eq!(known.silent_since(came), Some(came));
        known.held_by(clock.now(), None, None);
        assert!(known.silent_since(came).is_none());
        clock.advance(SECOND);
        known.asked(clock.now());
        assert!(known.silent_since(came).is_none(), "it has heard that the key is held");
        assert_eq!(known.silent_since(clock.now()), Some(clock.now()), "the newcomer has not");
    }
}
