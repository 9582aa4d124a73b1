//! A heap of deadlines: one sleeping task serves any number of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::{Clock, Instant};

/// Things that are due at some instant, each under a unique number.
pub(crate) struct Deadlines<T> {
    clock: Arc<dyn Clock>,
    heap: Mutex<Heap<T>>,
    sooner: Notify,
}

struct Heap<T> {
    /// By deadline; the number tells apart things with the same deadline.
    due: BTreeMap<(Instant, u64), T>,
    deadline_of: HashMap<u64, Instant>,
    /// When the sleeper wakes by itself. A later deadline need not wake it.
    sleeping_until: Option<Instant>,
}

impl<T> Heap<T> {
    fn remove(&mut self, number: u64) -> Option<T> {
        let deadline = self.deadline_of.remove(&number)?;
        self.due.remove(&(deadline, number))
    }
}

impl<T> Deadlines<T> {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let heap = Heap { due: BTreeMap::new(), deadline_of: HashMap::new(), sleeping_until: None };
        Self { clock, heap: Mutex::new(heap), sooner: Notify::new() }
    }

    /// Sets or moves the deadline of `number`.
    pub(crate) fn set(&self, number: u64, deadline: Instant, thing: T) {
        self.refresh(number, || Some(deadline), thing);
    }

    /// Sets or moves the deadline of `number` to what `deadline` returns, or removes it for `None`. `deadline` is called under the
    /// lock, so that an older reading never replaces a newer one.
    pub(crate) fn refresh(&self, number: u64, deadline: impl FnOnce() -> Option<Instant>, thing: T) {
        let mut heap = self.heap.lock();
        let deadline = deadline();
        let sooner = deadline.is_some_and(|deadline| heap.sleeping_until.is_none_or(|until| deadline < until));
        let before = heap.remove(number);
        if let Some(deadline) = deadline {
            heap.deadline_of.insert(number, deadline);
            heap.due.insert((deadline, number), thing);
        }
        drop(heap);
        drop(before);
        if sooner {
            self.sooner.notify_one();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.lock().due.len()
    }

    pub(crate) fn remove(&self, number: u64) -> Option<T> {
        self.heap.lock().remove(number)
    }

    /// Waits until something is due, then takes everything that is due within `together` from now. For one task only.
    ///
    /// # Cancel safety
    ///
    /// Nothing is taken before the future is ready.
    pub(crate) async fn due(&self, together: Duration) -> Vec<T> {
        loop {
            let earliest = {
                let now = self.clock.now();
                let mut heap = self.heap.lock();
                let earliest = heap.due.keys().next().map(|(deadline, _)| *deadline);
                if earliest.is_some_and(|earliest| earliest <= now) {
                    return heap.take(now + together);
                }
                heap.sleeping_until = earliest;
                earliest
            };
            match earliest {
                None => self.sooner.notified().await,
                Some(at) => {
                    tokio::select! {
                        biased;
                        () = self.sooner.notified() => {}
                        () = self.clock.sleep_until(at) => {}
                    }
                }
            }
        }
    }
}

impl<T> Heap<T> {
    fn take(&mut self, until: Instant) -> Vec<T> {
        let later = self.due.split_off(&(until, u64::MAX));
        let due = std::mem::replace(&mut self.due, later);
        for (_, number) in due.keys() {
            self.deadline_of.remove(number);
        }
        due.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use futures_util::FutureExt;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn what_is_due_comes_together_and_the_rest_stays() {
        let clock = ManualClock::new();
        let deadlines = Deadlines::new(Arc::new(clock.clone()));
        let now = clock.now();
        for (number, seconds) in [(1, 3), (2, 1), (3, 2)] {
            deadlines.set(number, now + SECOND * seconds, number);
        }
        assert!(deadlines.due(SECOND).now_or_never().is_none());
        clock.advance(SECOND);
        assert_eq!(deadlines.due(SECOND).await, [2, 3]);
        assert_eq!(deadlines.remove(1), Some(1));
        assert!(deadlines.due(SECOND).now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_nearer_deadline_wakes_the_sleeper() {
        let clock = ManualClock::new();
        let deadlines = Arc::new(Deadlines::new(Arc::new(clock.clone())));
        deadlines.set(1, clock.now() + SECOND * 9, 1);
        let sleeper = tokio::spawn({
            let deadlines = deadlines.clone();
            async move { deadlines.due(Duration::ZERO).await }
        });
        tokio::task::yield_now().await;
        deadlines.set(2, clock.now() + SECOND, 2);
        clock.advance(SECOND);
        assert_eq!(sleeper.await.unwrap(), [2]);
    }
}
