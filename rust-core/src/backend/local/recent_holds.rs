//! Fairness between processes, where there is no queue.
//!
//! A process that releases a key can take it again long before a waiter in another process has woken up. Therefore waiters leave a mark on
//! the lock file, and a client that has held a marked key for a while leaves the key alone for a moment after the release.
//!
//! A *run* is what one client holds in a row: one hold, or several with short pauses between them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a run may last while others wait.
const LONGEST_RUN: Duration = Duration::from_millis(5);

/// How long the client then stands back: several times what a waiter needs to wake up and take the key. If nobody took it in that time
/// although somebody waits, the machine is busy: the next time the client stands back twice as long, up to [`LONGEST`].
const STAND_BACK: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(16);

/// From this many remembered runs on, old ones are removed.
const MANY: usize = 64;

/// The runs of a client on keys that it released while others waited. Nothing is kept about a key that nobody else wants.
#[derive(Debug, Default)]
pub(super) struct RecentHolds(HashMap<Arc<str>, RecentHold>);

#[derive(Clone, Copy, Debug)]
struct RecentHold {
    run_began: Instant,
    released: Instant,
    stand_back: Duration,
}

impl RecentHold {
    fn is_used_up(&self) -> bool {
        self.released.duration_since(self.run_began) >= LONGEST_RUN
    }

    fn is_old(&self, now: Instant) -> bool {
        let kept = if self.is_used_up() { self.stand_back + LONGEST_RUN } else { LONGEST_RUN };
        now.duration_since(self.released) >= kept
    }
}

impl RecentHolds {
    /// When the run began that a grant at `now` belongs to.
    pub(super) fn run_began(&mut self, key: &str, now: Instant) -> Instant {
        let Some(hold) = self.0.get_mut(key) else { return now };
        if hold.is_old(now) {
            self.0.remove(key);
            return now;
        }
        if hold.is_used_up() {
            hold.run_began = now;
            hold.stand_back = (hold.stand_back * 2).min(LONGEST);
        }
        hold.run_began
    }

    /// Notes the release of a key that others wait for.
    pub(super) fn note_release(&mut self, key: &Arc<str>, run_began: Instant, now: Instant) {
        if self.0.len() >= MANY {
            self.0.retain(|_, hold| !hold.is_old(now));
        }
        let stand_back = self.0.get(key).map_or(STAND_BACK, |hold| hold.stand_back);
        self.0.insert(Arc::clone(key), RecentHold { run_began, released: now, stand_back });
    }

    /// How much longer to leave the key to others; `None` if it may be taken now.
    pub(super) fn stand_back(&self, key: &str, now: Instant) -> Option<Duration> {
        let hold = self.0.get(key).filter(|hold| hold.is_used_up() && !hold.is_old(now))?;
        let left = hold.stand_back.saturating_sub(now.duration_since(hold.released));
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    #[test]
    fn a_client_stands_back_once_its_run_is_used_up() {
        let key: Arc<str> = "k".into();
        let start = Instant::now();
        let mut holds = RecentHolds::default();
        let began = holds.run_began(&key, start);
        holds.note_release(&key, began, start + LONGEST_RUN / 2);
        assert_eq!(holds.stand_back(&key, start + LONGEST_RUN / 2), None, "a run may span several holds");
        let began = holds.run_began(&key, start + LONGEST_RUN / 2 + MICROSECOND);
        assert_eq!(began, start);
        holds.note_release(&key, began, start + LONGEST_RUN);
        assert_eq!(holds.stand_back(&key, start + LONGEST_RUN), Some(STAND_BACK));
        assert_eq!(holds.stand_back(&key, start + LONGEST_RUN + STAND_BACK), None);
        let next = start + LONGEST_RUN + STAND_BACK;
        assert_eq!(holds.run_began(&key, next), next, "a new run");
        holds.note_release(&key, next, next + LONGEST_RUN);
        assert_eq!(
            holds.stand_back(&key, next + LONGEST_RUN),
            Some(2 * STAND_BACK),
            "nobody came: they may need longer to wake up"
        );
        let much_later = next + 10 * LONGEST_RUN;
        assert_eq!(holds.run_began(&key, much_later), much_later);
        holds.note_release(&key, much_later, much_later + LONGEST_RUN);
        assert_eq!(holds.stand_back(&key, much_later + LONGEST_RUN), Some(STAND_BACK), "somebody else had it meanwhile");
    }

    #[test]
    fn r17_old_runs_are_forgotten() {
        let start = Instant::now();
        let mut holds = RecentHolds::default();
        for number in 0..10 * MANY {
            let now = start + LONGEST_RUN * u32::try_from(number).unwrap();
            holds.note_release(&number.to_string().into(), now, now);
        }
        assert!(holds.0.len() <= MANY);
    }
}
