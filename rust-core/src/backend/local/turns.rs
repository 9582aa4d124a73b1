//! Courtesy between processes, where there is no queue.
//!
//! Whoever releases a key can take it again long before a waiter in another process has even woken up. So waiters leave a mark on the
//! lock file, and a client that has had a marked key for a while stands back for a moment after it released it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a client may pass a key on to itself while others wait.
const TURN: Duration = Duration::from_millis(5);

/// How long it then stands back: several times what a waiter needs to wake up and take the key. Where nobody came in that time though
/// somebody waits, the machine is busy, and it stands back twice as long the next time, up to [`LONGEST`].
const STAND_BACK: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(16);

/// More than this many remembered releases are looked through for old ones.
const CROWDED: usize = 64;

/// What a client remembers of keys that it released while others waited. Nothing is kept of a key that nobody else wants.
#[derive(Debug, Default)]
pub(super) struct Turns(HashMap<Arc<str>, Turn>);

#[derive(Clone, Copy, Debug)]
struct Turn {
    began: Instant,
    released: Instant,
    stand_back: Duration,
}

impl Turn {
    fn is_over(&self) -> bool {
        self.released.duration_since(self.began) >= TURN
    }

    fn is_old(&self, now: Instant) -> bool {
        now.duration_since(self.released) >= if self.is_over() { self.stand_back + TURN } else { TURN }
    }
}

impl Turns {
    /// When the turn began that a grant at `now` belongs to.
    pub(super) fn begin(&mut self, key: &str, now: Instant) -> Instant {
        let Some(turn) = self.0.get_mut(key) else { return now };
        if turn.is_old(now) {
            self.0.remove(key);
            return now;
        }
        if turn.is_over() {
            turn.began = now;
            turn.stand_back = (turn.stand_back * 2).min(LONGEST);
        }
        turn.began
    }

    /// Remembers that a key others wait for was released.
    pub(super) fn end(&mut self, key: &Arc<str>, began: Instant, now: Instant) {
        if self.0.len() >= CROWDED {
            self.0.retain(|_, turn| !turn.is_old(now));
        }
        let stand_back = self.0.get(key).map_or(STAND_BACK, |turn| turn.stand_back);
        self.0.insert(Arc::clone(key), Turn { began, released: now, stand_back });
    }

    /// How much longer to leave the key to others.
    pub(super) fn stand_back(&self, key: &str, now: Instant) -> Option<Duration> {
        let turn = self.0.get(key).filter(|turn| turn.is_over() && !turn.is_old(now))?;
        let left = turn.stand_back.saturating_sub(now.duration_since(turn.released));
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    #[test]
    fn a_client_stands_back_once_its_turn_is_over() {
        let key: Arc<str> = "k".into();
        let start = Instant::now();
        let mut turns = Turns::default();
        let began = turns.begin(&key, start);
        turns.end(&key, began, start + TURN / 2);
        assert_eq!(turns.stand_back(&key, start + TURN / 2), None, "a turn may span several grants");
        let began = turns.begin(&key, start + TURN / 2 + MICROSECOND);
        assert_eq!(began, start);
        turns.end(&key, began, start + TURN);
        assert_eq!(turns.stand_back(&key, start + TURN), Some(STAND_BACK));
        assert_eq!(turns.stand_back(&key, start + TURN + STAND_BACK), None);
        let next = start + TURN + STAND_BACK;
        assert_eq!(turns.begin(&key, next), next, "a new turn");
        turns.end(&key, next, next + TURN);
        assert_eq!(turns.stand_back(&key, next + TURN), Some(2 * STAND_BACK), "nobody came: they may need longer to wake up");
        let much_later = next + 10 * TURN;
        assert_eq!(turns.begin(&key, much_later), much_later);
        turns.end(&key, much_later, much_later + TURN);
        assert_eq!(turns.stand_back(&key, much_later + TURN), Some(STAND_BACK), "somebody else had it meanwhile");
    }

    #[test]
    fn r17_old_turns_are_forgotten() {
        let start = Instant::now();
        let mut turns = Turns::default();
        for number in 0..10 * CROWDED {
            let now = start + TURN * u32::try_from(number).unwrap();
            turns.end(&number.to_string().into(), now, now);
        }
        assert!(turns.0.len() <= CROWDED);
    }
}
