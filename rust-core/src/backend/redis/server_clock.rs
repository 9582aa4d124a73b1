//! Estimates the server's clock from its answers.

use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Instant;

/// How long a good sample is kept when newer ones took longer. It ends because the server's clock may be stepped.
const KEEP: Duration = Duration::from_secs(10);

/// How far the server's clock is ahead of ours.
///
/// The server read its clock after we sent the request, so `its time − our send` is never too small: a deadline computed with it is late by
/// at most the round trip of the sample, and never early. The sample with the shortest round trip is the best one. But a newer, smaller
/// offset always wins: either it is more accurate, or the clock was set back, and then a delayed request must not profit from the
/// difference.
#[derive(Debug)]
pub(super) struct ServerClock(Mutex<Sample>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    ahead_us: i64,
    round_trip: Duration,
    taken: Instant,
}

impl Sample {
    fn new(sent: Instant, received: Instant, server_us: i64) -> Self {
        Self { ahead_us: server_us.saturating_sub(micros(sent)), round_trip: received.since(sent), taken: received }
    }
}

impl ServerClock {
    pub(super) fn new(sent: Instant, received: Instant, server_us: i64) -> Self {
        Self(Mutex::new(Sample::new(sent, received, server_us)))
    }

    /// Takes the server's time from an answer.
    pub(super) fn learn(&self, sent: Instant, received: Instant, server_us: i64) {
        let sample = Sample::new(sent, received, server_us);
        let mut best = self.0.lock();
        let better = sample.round_trip <= best.round_trip || sample.ahead_us < best.ahead_us;
        if better || received.since(best.taken) > KEEP {
            *best = sample;
        }
    }

    /// Takes the server's time from an answer that shows our estimate to be wrong.
    pub(super) fn relearn(&self, sent: Instant, received: Instant, server_us: i64) {
        *self.0.lock() = Sample::new(sent, received, server_us);
    }

    /// The server's time at `at`, in µs.
    pub(super) fn at(&self, at: Instant) -> i64 {
        micros(at).saturating_add(self.0.lock().ahead_us)
    }
}

fn micros(at: Instant) -> i64 {
    i64::try_from(at.as_nanos() / 1_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn the_quickest_answer_tells_the_time_best() {
        let clock = ServerClock::new(ms(100), ms(300), 1_000_000);
        assert_eq!(clock.at(ms(100)), 1_000_000);
        clock.learn(ms(400), ms(402), 1_201_000);
        assert_eq!(clock.at(ms(500)), 1_301_000);
        clock.learn(ms(500), ms(900), 1_650_000);
        assert_eq!(clock.at(ms(500)), 1_301_000);
    }

    #[test]
    fn r04_a_clock_that_was_set_back_is_noticed_with_the_next_answer_however_slow() {
        let clock = ServerClock::new(ms(100), ms(101), 9_000_000);
        clock.learn(ms(200), ms(300), 4_190_000);
        assert_eq!(clock.at(ms(200)), 4_190_000);
    }

    #[test]
    fn a_stepped_clock_is_noticed() {
        let clock = ServerClock::new(ms(100), ms(101), 1_000_000);
        clock.learn(ms(20_000), ms(20_005), 9_000_000);
        assert_eq!(clock.at(ms(20_000)), 9_000_000);
        clock.relearn(ms(20_100), ms(20_400), 7_000_000);
        assert_eq!(clock.at(ms(20_100)), 7_000_000);
    }
}
