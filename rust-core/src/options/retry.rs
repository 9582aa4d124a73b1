//! Bounded attempts instead of waiting.

use std::time::Duration;

use super::range::check_range;
use crate::error::{Error, Result};
use crate::unit::{LONGEST, Unit};

/// The largest growth from pause to pause.
const STEEPEST: f64 = 100.0;

/// Tries a number of times instead of waiting to be woken: for callers that would rather give up than wait in line.
///
/// Every attempt is independent: it joins no line, and takes the key only if it is free and nobody waits for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// How many attempts may follow the first one. Zero tries once.
    pub max_retries: u32,
    /// The pause before the first retry.
    pub delay: Duration,
    /// The factor from each pause to the next: 1 keeps the length, at most 100.
    pub backoff: f64,
    /// Random spread, so that callers which failed together do not come back together: 0.5 picks each pause between 0.5 and 1.5
    /// times its length. From 0 to 1.
    pub jitter: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_retries: 3, delay: Duration::from_millis(100), backoff: 1.0, jitter: 0.5 }
    }
}

impl Retry {
    /// The pause after this many attempts, at least one. `chance` is between 0 and 1.
    pub fn pause(&self, attempts: u32, chance: f64) -> Duration {
        let growth = self.backoff.powf(f64::from(attempts.saturating_sub(1)));
        let seconds = self.delay.as_secs_f64() * growth * (1.0 + self.jitter * (2.0 * chance - 1.0));
        Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(LONGEST)
    }

    pub(super) fn validate(&self, unit: Unit) -> Result<()> {
        check_range("retry.delay", self.delay, Duration::ZERO, unit)?;
        if !(1.0..=STEEPEST).contains(&self.backoff) {
            return Err(Error::invalid("retry.backoff", self.backoff.to_string(), format!("a number from 1 to {STEEPEST}")));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Err(Error::invalid("retry.jitter", self.jitter.to_string(), "a number from 0 to 1"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_vary() {
        let retry = Retry { delay: Duration::from_millis(100), backoff: 2.0, jitter: 0.5, ..Retry::default() };
        let millis = |attempts, chance| retry.pause(attempts, chance).as_secs_f64() * 1e3;
        for (attempts, chance, expected) in [(1, 0.5, 100.0), (2, 0.5, 200.0), (4, 0.5, 800.0), (1, 0.0, 50.0), (1, 1.0, 150.0)] {
            assert!((millis(attempts, chance) - expected).abs() < 1e-6, "{attempts} {chance}");
        }
        assert_eq!(retry.pause(5000, 0.5), LONGEST, "no pause is longer than any other duration may be");
    }

    #[test]
    fn r15_retries_out_of_range_are_refused() {
        let good = Retry::default();
        good.validate(Unit::Seconds).unwrap();
        for (retry, field) in [
            (Retry { delay: LONGEST + Duration::from_millis(1), ..good }, "retry.delay"),
            (Retry { backoff: 0.9, ..good }, "retry.backoff"),
            (Retry { backoff: f64::NAN, ..good }, "retry.backoff"),
            (Retry { jitter: 1.1, ..good }, "retry.jitter"),
            (Retry { jitter: f64::NAN, ..good }, "retry.jitter"),
        ] {
            assert!(retry.validate(Unit::Seconds).unwrap_err().to_string().starts_with(field), "{retry:?}");
        }
    }
}
