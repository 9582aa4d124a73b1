//! Tells a connection that is broken from one that is busy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// When a connection answered last.
pub(super) struct Pulse {
    began: Instant,
    /// In ms after `began`.
    last: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0) }
    }

    /// Notes an answer.
    pub(super) fn beat(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
    }

    /// True if a request waited in vain for this long and others fared no better: the connection may be half open, or its bytes
    /// stalled. One that goes on answering is merely busy, and replacing it would make it busier.
    pub(super) fn is_lost(&self, waited: Duration) -> bool {
        let silence = self.now().saturating_sub(self.last.load(Ordering::Relaxed));
        u128::from(silence) >= waited.as_millis() / 2
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_goes_on_answering_is_busy_not_lost() {
        let pulse = Pulse::new();
        for _ in 0..10 {
            advance(100 * MS).await;
            pulse.beat();
        }
        advance(100 * MS).await;
        assert!(!pulse.is_lost(1_000 * MS));
        advance(400 * MS).await;
        assert!(pulse.is_lost(1_000 * MS), "silent for half of the time that the request waited");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_never_answered_is_lost() {
        let pulse = Pulse::new();
        advance(200 * MS).await;
        assert!(pulse.is_lost(200 * MS));
    }
}
