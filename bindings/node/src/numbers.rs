//! Numbers as JavaScript counts: every one a double, times in milliseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A `Float64Array` of the caller. It has a name because the macros take a plain `&mut` for one of our classes.
pub(crate) type Numbers<'a> = &'a mut [f64];

/// The number of a call, which JavaScript chose.
#[allow(clippy::cast_precision_loss)] // below 2^53, as JavaScript counts no further
pub(crate) fn number(call: i64) -> f64 {
    call as f64
}

/// A token or a sequence number.
#[allow(clippy::cast_precision_loss)] // the engine keeps them below 2^53
pub(crate) fn wide(value: u64) -> f64 {
    value as f64
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Milliseconds since 1970, as a `Date` counts them.
pub(crate) fn date(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, millis).floor()
}
