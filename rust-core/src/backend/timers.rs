//! Deadlines of requests, on tokio's clock.

use std::time::Duration;

use tokio::time::Instant;

/// Longer timeouts are cut, because an instant plus an unbounded duration overflows.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(86_400);

/// The instant at which a request with this timeout ends.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(LONGEST_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_timeout_overflows() {
        assert!(deadline_after(Duration::MAX) > Instant::now());
    }
}
