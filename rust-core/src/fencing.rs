//! Fencing tokens: numbers that only grow, so that a resource can reject a holder of the past.

use std::time::SystemTime;

/// A fencing token: strictly increasing per key, from 1 to [`MAX_TOKEN`].
///
/// Send it along with every write to the protected resource and let the resource refuse a token that is smaller than one it has seen.
/// After Kleppmann, "How to do distributed locking" (2016).
pub type Token = u64;

/// The largest token: as microseconds since 1970 it is in the year 2112. It is half of what JavaScript and Lua count exactly, so
/// adding to it is exact as well.
pub const MAX_TOKEN: Token = (1 << 52) - 1;

/// True for a number that can be a token. A stored last token or a floor that cannot be one is damaged and ignored: otherwise one
/// bad value would spread to every key.
pub const fn is_token(number: u64) -> bool {
    0 < number && number <= MAX_TOKEN
}

/// The next token after `last` and above `floor` (the highest token that the client has seen). `None` if no token is greater than
/// both.
///
/// A hybrid of counter and wall clock in microseconds: the counter keeps it rising when the clock steps back, and the clock keeps
/// it rising when the counter was forgotten. With a clock past the year 2112 the counter alone must do.
pub fn next_token(last: Token, floor: Token, wall: SystemTime) -> Option<Token> {
    let last = if is_token(last) { last } else { 0 };
    let floor = if is_token(floor) { floor } else { 0 };
    let wall = micros(wall);
    if last == 0 && wall > MAX_TOKEN {
        return None;
    }
    let wall = if is_token(wall) { wall } else { 0 };
    let next = (last + 1).max(floor + 1).max(wall);
    is_token(next).then_some(next)
}

/// `wall` as microseconds since 1970.
pub(crate) fn micros(wall: SystemTime) -> u64 {
    wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn r07_tokens_rise_when_the_clock_stands_still_or_steps_back() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_micros(1_000);
        let first = next_token(0, 0, wall);
        assert_eq!(first, Some(1_000));
        assert_eq!(next_token(1_000, 0, wall), Some(1_001));
        assert_eq!(next_token(1_000, 0, SystemTime::UNIX_EPOCH), Some(1_001));
    }

    #[test]
    fn r07_tokens_rise_when_the_counter_is_forgotten() {
        assert_eq!(next_token(0, 5_000, SystemTime::UNIX_EPOCH), Some(5_001));
        assert_eq!(next_token(0, 0, SystemTime::UNIX_EPOCH), Some(1));
    }

    #[test]
    fn r07_a_spoilt_count_or_floor_is_none() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_micros(1_000);
        for spoilt in [0, MAX_TOKEN + 1, (1 << 53) + 1, u64::MAX] {
            assert_eq!(next_token(spoilt, 0, wall), Some(1_000));
            assert_eq!(next_token(0, spoilt, wall), Some(1_000));
            assert_eq!(next_token(5_000, spoilt, wall), Some(5_001));
        }
    }

    #[test]
    fn r07_where_no_token_rises_there_is_none() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_micros(1_000);
        assert_eq!(next_token(MAX_TOKEN - 1, 0, wall), Some(MAX_TOKEN));
        assert_eq!(next_token(MAX_TOKEN, 0, wall), None);
        assert_eq!(next_token(0, MAX_TOKEN, wall), None);
        let far = SystemTime::UNIX_EPOCH + Duration::from_micros(MAX_TOKEN + 1);
        assert_eq!(next_token(5_000, 6_000, far), Some(6_001), "the counter goes on under a clock of nonsense");
        assert_eq!(next_token(0, 6_000, far), None, "and nobody knows where it was");
    }
}
