//! Fencing tokens: numbers that only grow, so that a resource can reject a holder of the past.

use std::time::SystemTime;

/// A fencing token: strictly increasing per key, and below 2^53 so that JavaScript holds it exactly.
///
/// Send it along with every write to the protected resource and let the resource refuse a token that is smaller than one it has seen.
/// After Kleppmann, "How to do distributed locking" (2016).
pub type Token = u64;

/// The largest token that every language can hold exactly.
pub const MAX_TOKEN: Token = (1 << 53) - 1;

/// The next token after `last`, not below `floor` (the highest token that the asking client has seen).
///
/// A hybrid of counter and wall clock in microseconds: the counter keeps it rising when the clock steps back,
/// the clock keeps it rising when the counter was forgotten.
pub fn next_token(last: Token, floor: Token, wall: SystemTime) -> Token {
    last.saturating_add(1).max(floor.saturating_add(1)).max(micros(wall))
}

/// `wall` as microseconds since 1970.
pub(crate) fn micros(wall: SystemTime) -> u64 {
    wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(MAX_TOKEN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn r07_tokens_rise_when_the_clock_stands_still_or_steps_back() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_micros(1_000);
        let first = next_token(0, 0, wall);
        assert_eq!(first, 1_000);
        assert_eq!(next_token(first, 0, wall), 1_001);
        assert_eq!(next_token(first, 0, SystemTime::UNIX_EPOCH), 1_001);
    }

    #[test]
    fn r07_tokens_rise_when_the_counter_is_forgotten() {
        assert_eq!(next_token(0, 5_000, SystemTime::UNIX_EPOCH), 5_001);
    }
}
