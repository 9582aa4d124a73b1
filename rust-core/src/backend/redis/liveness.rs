//! Tells a broken connection from a busy one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// When a connection answered last.
pub(super) struct Liveness {
    began: Instant,
    /// The last answer, in ms after `began`.
    last_answer: AtomicU64,
}

impl Liveness {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), last_answer: AtomicU64::new(0) }
    }

    pub(super) fn note_answer(&self) {
        self.last_answer.store(self.now(), Ordering::Relaxed);
    }

    /// Whether the connection seems broken after a request has `waited` in vain: nothing was answered for half of that time either. The
    /// connection may be half open, or its bytes stalled. A connection that goes on answering is only busy, and replacing it would make the
    /// server busier.
    pub(super) fn is_lost(&self, waited: Duration) -> bool {
        let silence = self.now().saturating_sub(self.last_answer.load(Ordering::Relaxed));
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
        let liveness = Liveness::new();
        for _ in 0..10 {
            advance(100 * MS).await;
            liveness.note_answer();
        }
        advance(100 * MS).await;
        assert!(!liveness.is_lost(1_000 * MS));
        advance(400 * MS).await;
        assert!(liveness.is_lost(1_000 * MS), "silent for half of the time that a request waited");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_never_answered_is_lost() {
        let liveness = Liveness::new();
        advance(200 * MS).await;
        assert!(liveness.is_lost(200 * MS));
    }
}
