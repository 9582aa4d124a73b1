//! Whether a session can do its work: whether a key can be taken, and how its leases stand.

use std::sync::Arc;
use std::time::Duration;

use crate::choice::ChosenBy;
use crate::engine::lease_record::LeaseRecord;
use crate::engine::session::Session;
use crate::error::BackendError;
use crate::observe::{Gauges, Health, HealthStatus};

/// How the leases of a session stand.
#[derive(Default)]
struct Standing {
    held: usize,
    lagging: usize,
    at_risk: usize,
    lag: Duration,
}

impl Session {
    /// Probes the backend, which leaves nothing behind, and looks at the leases.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    pub(crate) async fn health(&self) -> Health {
        let server = self.backend.server().clone();
        if self.closing.begun.is_cancelled() {
            return Health::down(server, "the client is closed".to_owned());
        }
        let sent = self.clock.now();
        let answer = self.backend.probe(self.options.op_timeout).await;
        let round_trip = self.clock.now().since(sent);
        let standing = self.standing();
        let (status, reasons) = judge(answer.as_ref().err(), &standing);
        let Standing { held, lagging, at_risk, lag } = standing;
        let (round_trip, warnings) = (answer.is_ok().then_some(round_trip), self.backend.warnings());
        let chosen_by = ChosenBy::default(); // its client knows
        Health { status, reasons, server, chosen_by, round_trip, held, lagging, at_risk, renewal_lag: lag, warnings }
    }

    pub(crate) fn gauges(&self) -> Gauges {
        let Standing { held, at_risk, .. } = self.standing();
        let (renewing, scheduled) = (self.renewals.in_flight(), self.renewals.scheduled());
        Gauges { held, renewing, scheduled, background: self.tasks.len(), at_risk }
    }

    fn standing(&self) -> Standing {
        let leases: Vec<Arc<LeaseRecord>> = self.leases_now();
        let now = self.clock.now();
        leases.iter().fold(Standing { held: leases.len(), ..Standing::default() }, |mut standing, held| {
            let (lag, is_lagging, is_at_risk) = held.read(|state| (state.lag(now), state.is_lagging(now), state.is_at_risk(now)));
            standing.lag = standing.lag.max(lag);
            standing.lagging += usize::from(is_lagging);
            standing.at_risk += usize::from(is_at_risk);
            standing
        })
    }
}

/// The status, and why it is not `ok`.
fn judge(failure: Option<&BackendError>, standing: &Standing) -> (HealthStatus, Vec<String>) {
    let late = [(standing.lagging, "renewed late"), (standing.at_risk, "about to be lost")];
    let late =
        late.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} of {} leases {what}", standing.held));
    let reasons: Vec<_> = failure.map(ToString::to_string).into_iter().chain(late).collect();
    let status = match (failure, reasons.is_empty()) {
        (Some(_), _) => HealthStatus::Down,
        (None, false) => HealthStatus::Degraded,
        (None, true) => HealthStatus::Ok,
    };
    (status, reasons)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Failure;

    #[test]
    fn late_renewals_degrade_and_silence_is_down() {
        let well = Standing { held: 3, ..Standing::default() };
        let late = Standing { held: 3, lagging: 2, at_risk: 1, lag: Duration::from_secs(1) };
        assert_eq!(judge(None, &well), (HealthStatus::Ok, vec![]));
        let reasons = ["2 of 3 leases renewed late", "1 of 3 leases about to be lost"];
        assert_eq!(judge(None, &late), (HealthStatus::Degraded, reasons.map(str::to_owned).to_vec()));
        let silent = BackendError::new(Failure::Unknown, "no answer");
        assert_eq!(judge(Some(&silent), &well), (HealthStatus::Down, vec!["no answer".to_owned()]));
        assert_eq!(judge(Some(&silent), &late).1.len(), 3);
    }
}
