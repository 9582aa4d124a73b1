//! How a client renews its leases.

use std::time::Duration;

use super::range::check_range;
use crate::error::{Error, Result};
use crate::unit::Unit;

/// Tuning of renewal, for all leases of a client. The defaults are good to 100,000 leases.
///
/// Each lock decides when its leases are due (`renewal_threshold`); this tunes how they are renewed. There is no number of workers
/// and no polling interval, since one heap knows every deadline. There is no number of retries either: a renewal without an answer
/// is tried again as long as the lease lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The pause after a renewal that got no answer; each further pause is twice as long. Never longer than a twentieth of the TTL.
    pub base_delay: Duration,
    /// The longest such pause.
    pub max_delay: Duration,
    /// The longest time of one renewal request; `None` for `op_timeout`. It is never longer than that, nor than half of what is
    /// left of the lease.
    pub call_timeout: Option<Duration>,
    /// The most leases in one request; `None` for what the backend takes. It is never more than that.
    pub batch: Option<u32>,
}

impl Default for Renewal {
    fn default() -> Self {
        Self { base_delay: Duration::from_millis(50), max_delay: Duration::from_millis(800), call_timeout: None, batch: None }
    }
}

impl Renewal {
    pub(super) fn validate(&self, unit: Unit) -> Result<()> {
        let least = Duration::from_millis(1);
        check_range("renewal.base_delay", self.base_delay, least, unit)?;
        check_range("renewal.max_delay", self.max_delay, self.base_delay, unit)?;
        if let Some(call_timeout) = self.call_timeout {
            check_range("renewal.call_timeout", call_timeout, least, unit)?;
        }
        match self.batch {
            Some(0) => Err(Error::invalid("renewal.batch", "0", "a whole number from 1")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r15_tuning_out_of_range_is_refused() {
        let good = Renewal::default();
        good.validate(Unit::Seconds).unwrap();
        for (renewal, field) in [
            (Renewal { base_delay: Duration::ZERO, ..good }, "renewal.base_delay"),
            (Renewal { max_delay: Duration::from_millis(49), ..good }, "renewal.max_delay"),
            (Renewal { call_timeout: Some(Duration::ZERO), ..good }, "renewal.call_timeout"),
            (Renewal { batch: Some(0), ..good }, "renewal.batch"),
        ] {
            assert!(renewal.validate(Unit::Seconds).unwrap_err().to_string().starts_with(field), "{renewal:?}");
        }
    }
}
