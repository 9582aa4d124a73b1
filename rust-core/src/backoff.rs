//! Pauses between tries that fail: each is twice as long as the one before, up to a longest.

use std::time::Duration;

/// How long to pause between tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause; each one more is twice as long.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Backoff {
    /// Pauses from `first` to `longest`, in milliseconds.
    pub(crate) const fn millis(first: u64, longest: u64) -> Self {
        Self { first: Duration::from_millis(first), longest: Duration::from_millis(longest) }
    }

    /// The pause after this many tries have failed before.
    pub(crate) fn after(self, failures: u32) -> Duration {
        self.first.saturating_mul(1 << failures.min(30)).min(self.longest)
    }

    /// The pauses of one series of tries. A success begins another series.
    pub(crate) fn pauses(self) -> Pauses {
        Pauses { backoff: self, failures: 0 }
    }
}

/// The pauses of one series of tries that fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pauses {
    backoff: Backoff,
    failures: u32,
}

impl Pauses {
    /// The pause after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.backoff.after(self.failures);
        self.failures = self.failures.saturating_add(1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut pauses = Backoff::millis(20, 70).pauses();
        assert_eq!([(); 4].map(|()| pauses.next().as_millis()), [20, 40, 70, 70]);
        assert_eq!(Backoff::millis(20, 70).after(u32::MAX).as_millis(), 70);
    }
}
