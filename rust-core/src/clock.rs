//! The clock that leases are measured with.
//!
//! `CLOCK_BOOTTIME` where the system has it: it counts while a laptop sleeps, and no administrator can set it. Never wall time.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

/// A point in time on an engine clock, in nanoseconds since the machine booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The instant `nanos` nanoseconds after boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`, zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Where the engine reads the time and waits for it.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The current instant.
    fn now(&self) -> Instant;

    /// Wall time: for fencing tokens and for display, never for validity.
    fn wall(&self) -> SystemTime;

    /// Resolves once `now() >= at`.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the timer and nothing else.
    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()>;
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

/// The longest sleep of a timer before it reads the clock again: unlike this clock, tokio's timers stand still while the machine is
/// suspended.
const LONGEST_NAP: Duration = Duration::from_secs(1);

impl Clock for BootClock {
    fn now(&self) -> Instant {
        boot_now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            loop {
                let left = at.since(boot_now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(LONGEST_NAP)).await;
            }
        })
    }
}

/// `CLOCK_BOOTTIME` on Linux; elsewhere the monotonic clock, which on macOS also counts sleep.
fn boot_now() -> Instant {
    #[cfg(target_os = "linux")]
    let id = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let id = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(id);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Instant(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// A clock that moves only on request, for tests. Boot time and wall time are set separately.
#[derive(Clone, Debug)]
pub struct ManualClock {
    now: watch::Sender<Instant>,
    wall: Arc<Mutex<SystemTime>>,
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl ManualClock {
    /// A clock that stands at one hour after boot, on 2020-09-13.
    pub fn new() -> Self {
        Self {
            now: watch::Sender::new(Instant(3_600_000_000_000)),
            wall: Arc::new(Mutex::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000))),
        }
    }

    /// Moves both clocks forward and wakes every task that sleeps until then.
    pub fn advance(&self, by: Duration) {
        *self.wall.lock() += by;
        self.now.send_modify(|now| *now = *now + by);
    }

    /// Sets wall time alone, as an administrator would.
    pub fn set_wall(&self, wall: SystemTime) {
        *self.wall.lock() = wall;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        *self.now.borrow()
    }

    fn wall(&self) -> SystemTime {
        *self.wall.lock()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        let mut now = self.now.subscribe();
        Box::pin(async move {
            // An error means that the clock is gone: its time will never move again, so this sleeps for ever.
            if now.wait_for(|now| *now >= at).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_moves_forward() {
        let before = BootClock.now();
        assert!(BootClock.now() >= before);
        assert!(before > Instant::default());
    }

    /// And nobody can set that clock.
    #[test]
    fn r01_leases_are_not_measured_with_wall_time() {
        let ten_years = Duration::from_secs(10 * 365 * 24 * 3600);
        assert!(BootClock.now().since(Instant::default()) < ten_years, "this machine has been up for long");
        assert!(BootClock.wall().duration_since(SystemTime::UNIX_EPOCH).unwrap() > ten_years);
    }

    #[tokio::test]
    async fn a_manual_clock_wakes_sleepers_when_it_is_moved() {
        let clock = ManualClock::new();
        let mut sleep = clock.sleep_until(clock.now() + Duration::from_secs(2));
        clock.advance(Duration::from_secs(1));
        assert!(futures_util::FutureExt::now_or_never(&mut sleep).is_none());
        clock.advance(Duration::from_secs(1));
        sleep.await;
    }
}
