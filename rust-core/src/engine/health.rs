//! Whether a session can do its work: whether a key can be taken, and how its leases stand.

use std::sync::Arc;
use std::time::Duration;

use crate::choice::ChosenBy;
use crate::engine::lease_record::LeaseRecord;
use crate::engine::session::Session;
use crate::error::{BackendError, CLOSED};
use crate::observe::{Gauges, Health, HealthStatus};

/// How the leases of a session stand.
#[derive(Default)]
struct LeaseHealth {
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
            return Health::down(server, CLOSED.to_owned());
        }
        let sent = self.clock.now();
        let answer = self.backend.probe(self.options.op_timeout).await;
        let round_trip = self.clock.now().since(sent);
        let leases = self.lease_health();
        let (status, reasons) = judge(answer.as_ref().err(), &leases);
        let LeaseHealth { held, lagging, at_risk, lag } = leases;
        let (round_trip, warnings) = (answer.is_ok().then_some(round_trip), self.backend.warnings());
        let chosen_by = ChosenBy::default(); // its client knows
        Health { status, reasons, server, chosen_by, round_trip, held, lagging, at_risk, renewal_lag: lag, warnings }
    }

    pub(crate) fn gauges(&self) -> Gauges {
        let LeaseHealth { held, at_risk, .. } = self.lease_health();
        let (renewing, scheduled) = (self.renewals.in_flight(), self.renewals.scheduled());
        Gauges { held, renewing, scheduled, background: self.tasks.len(), at_risk }
    }

    fn lease_health(&self) -> LeaseHealth {
        let leases: Vec<Arc<LeaseRecord>> = self.leases_now();
        let now = self.clock.now();
        leases.iter().fold(LeaseHealth { held: leases.len(), ..LeaseHealth::default() }, |mut health, held| {
            let (lag, is_lagging, is_at_risk) = held.read(|state| (state.lag(now), state.is_lagging(now), state.is_at_risk(now)));
            health.lag = health.lag.max(lag);
            health.lagging += usize::from(is_lagging);
            health.at_risk += usize::from(is_at_risk);
            health
        })
    }
}

/// The status, and why it is not `ok`.
fn judge(failure: Option<&BackendError>, leases: &LeaseHealth) -> (HealthStatus, Vec<String>) {
    let late = [(leases.lagging, "renewed late"), (leases.at_risk, "about to be lost")];
    let late = late.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} of {} leases {what}", leases.held));
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
        let well = LeaseHealth { held: 3, ..LeaseHealth::default() };
        let late = LeaseHealth { held: 3, lagging: 2, at_risk: 1, lag: Duration::from_secs(1) };
        assert_eq!(judge(None, &well), (HealthStatus::Ok, vec![]));
        let reasons = ["2 of 3 leases renewed late", "1 of 3 leases about to be lost"];
        assert_eq!(judge(None, &late), (HealthStatus::Degraded, reasons.map(str::to_owned).to_vec()));
        let silent = BackendError::new(Failure::Unknown, "no answer");
        assert_eq!(judge(Some(&silent), &well), (HealthStatus::Down, vec!["no answer".to_owned()]));
        assert_eq!(judge(Some(&silent), &late).1.len(), 3);
    }
}
