//! A machine's own clock: it runs a little too fast or too slow, began at a time of its own, and its wall time may be set by anybody.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use dlock::clock::{Clock, Instant};
use futures_util::future::BoxFuture;

use crate::world::{Bell, Nanos, World};

/// A clock that is right runs at this rate.
pub(crate) const TRUE_RATE: u64 = 1_000_000;

pub(crate) struct MachineClock {
    world: Arc<World>,
    /// What it showed when the world began.
    origin: Nanos,
    /// Millionths of the true rate.
    rate: u64,
    /// How far wall time was stepped, in milliseconds.
    stepped: AtomicI64,
}

impl fmt::Debug for MachineClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineClock").field("origin", &self.origin).field("rate", &self.rate).finish_non_exhaustive()
    }
}

impl MachineClock {
    pub(crate) fn new(world: &Arc<World>, origin: Nanos, rate: u64) -> Arc<Self> {
        Arc::new(Self { world: world.clone(), origin, rate, stepped: AtomicI64::new(0) })
    }

    /// The true time at which this clock shows `at`, or the first after it.
    pub(crate) fn true_time(&self, at: Instant) -> Nanos {
        let local = u128::from(at.as_nanos().saturating_sub(self.origin));
        u64::try_from((local * u128::from(TRUE_RATE)).div_ceil(u128::from(self.rate))).unwrap_or(u64::MAX)
    }

    /// Sets wall time alone, as an administrator would.
    pub(crate) fn step_wall(&self, millis: i64) {
        self.stepped.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Instant {
        let local = u128::from(self.world.now()) * u128::from(self.rate) / u128::from(TRUE_RATE);
        Instant::from_nanos(self.origin + u64::try_from(local).unwrap_or(u64::MAX))
    }

    fn wall(&self) -> SystemTime {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000) + Duration::from_nanos(self.world.now());
        let stepped = self.stepped.load(Ordering::Relaxed);
        let by = Duration::from_millis(stepped.unsigned_abs());
        if stepped < 0 { wall - by } else { wall + by }
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        Box::pin(Sleep { world: self.world.clone(), until: self.true_time(at), bell: None })
    }
}

/// Sleeps for as long as `nanos` last on this clock.
pub(crate) async fn sleep(clock: &MachineClock, nanos: Nanos) {
    clock.sleep_until(clock.now() + Duration::from_nanos(nanos)).await;
}

struct Sleep {
    world: Arc<World>,
    until: Nanos,
    bell: Option<Arc<Bell>>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.world.now() >= self.until {
            return Poll::Ready(());
        }
        if let Some(bell) = &self.bell {
            *bell.lock() = Some(context.waker().clone());
            return Poll::Pending;
        }
        let bell = Arc::new(Bell::new(Some(context.waker().clone())));
        self.world.ring(self.until, &bell);
        self.bell = Some(bell);
        Poll::Pending
    }
}
