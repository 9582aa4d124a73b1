//! A histogram of durations in plain atomics: an observation costs one search and two additions, and no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The most bounds that a histogram has here.
const MOST: usize = 16;

/// Upper bounds in seconds, rising. What is above the last is counted as well.
pub(super) type Bounds = &'static [f64];

/// Bounds for round trips and other short times.
pub(super) const SHORT: Bounds = &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
/// Bounds for waits and holds.
pub(super) const LONG: Bounds = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

#[derive(Debug)]
pub(super) struct Histogram {
    bounds: Bounds,
    /// One for each bound, and one for what is above all of them.
    counts: [AtomicU64; MOST],
    nanos: AtomicU64,
}

/// What a histogram shows at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    pub(super) count: u64,
    pub(super) sum: Duration,
    /// Upper bound and how many fell under it but not under the one before. The last bound is infinite.
    pub(super) buckets: Vec<(f64, u64)>,
}

impl Histogram {
    pub(super) fn new(bounds: Bounds) -> Self {
        debug_assert!(bounds.len() < MOST);
        Self { bounds, counts: Default::default(), nanos: AtomicU64::new(0) }
    }

    pub(super) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    pub(super) fn read(&self) -> Reading {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed))).collect();
        // From the same readings, so that the count and the buckets of one text agree.
        let count = buckets.iter().map(|(_, count)| count).sum();
        Reading { count, sum: self.sum(), buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_under_the_first_bound_that_is_not_below_it() {
        let histogram = Histogram::new(LONG);
        for millis in [0, 1, 2, 5, 7_200_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let reading = histogram.read();
        assert_eq!((reading.count, reading.sum), (5, Duration::from_millis(7_200_008)));
        assert_eq!(reading.buckets[..2], [(0.001, 2), (0.005, 2)]);
        assert_eq!(reading.buckets.last(), Some(&(f64::INFINITY, 1)));
    }
}
