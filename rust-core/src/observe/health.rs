//! The health of a client: whether it can do its work.

use std::sync::Arc;
use std::time::Duration;

use crate::choice::ChosenBy;

/// The health of a client, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthStatus {
    /// A key can be acquired and released, and every lease is renewed in time.
    Ok,
    /// A key can be acquired, but renewals are late or leases are about to be lost.
    Degraded,
    /// No key can be acquired: the backend does not answer, or it refuses, or the client is closed.
    Down,
}

impl HealthStatus {
    /// A word that never changes, the same in every language.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// What [`Client::health`](crate::Client::health) found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The health in a word.
    pub status: HealthStatus,
    /// Why it is not `ok`, for people; empty if it is.
    pub reasons: Vec<String>,
    /// The server's address without its password.
    pub server: Arc<str>,
    /// What chose the backend.
    pub chosen_by: ChosenBy,
    /// How long the probe took; `None` if no key can be acquired.
    pub round_trip: Option<Duration>,
    /// Leases held.
    pub held: usize,
    /// Leases with automatic renewal whose renewal is late by more than a quarter of the time between renewals.
    pub lagging: usize,
    /// Leases with automatic renewal that have less than half of the life left that was left when the renewal became due: they will
    /// be lost unless the backend answers soon.
    pub at_risk: usize,
    /// How late the latest renewal is.
    pub renewal_lag: Duration,
    /// What the backend reports about its servers and their versions. A warning alone changes no status.
    pub warnings: Vec<String>,
}

impl Health {
    pub(crate) fn down(server: Arc<str>, reason: String) -> Self {
        let status = HealthStatus::Down;
        let (held, lagging, at_risk, renewal_lag) = Default::default();
        let chosen_by = ChosenBy::default();
        Self {
            status,
            reasons: vec![reason],
            server,
            chosen_by,
            round_trip: None,
            held,
            lagging,
            at_risk,
            renewal_lag,
            warnings: Vec::new(),
        }
    }
}
