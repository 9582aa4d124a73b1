//! The numbers of time that each language writes.

use std::time::Duration;

use crate::error::{Error, Result};

/// The longest TTL, and the longest of any other duration that an option takes.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The unit in which a language counts time and reads its errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Rust and Python.
    #[default]
    Seconds,
    /// Node.
    Millis,
}

impl Unit {
    /// Turns a user's number into a duration.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] for NaN, infinity, negative numbers and more than 24 hours.
    pub fn duration(self, field: &str, value: f64) -> Result<Duration> {
        let seconds = match self {
            Self::Seconds => value,
            Self::Millis => value / 1000.0,
        };
        match Duration::try_from_secs_f64(seconds) {
            Ok(duration) if duration <= LONGEST => Ok(duration),
            _ => Err(Error::invalid(field, self.shown(value), self.allowed(field, value))),
        }
    }

    fn allowed(self, field: &str, value: f64) -> String {
        let allowed = format!("a number from 0 to {}", self.text(LONGEST));
        let looks_like_millis =
            self == Self::Seconds && field == "ttl" && value.is_finite() && value > 0.0 && value % 1000.0 == 0.0;
        if looks_like_millis && value / 1000.0 <= LONGEST.as_secs_f64() {
            return format!("{allowed} ({value} is in s; did you mean {}?)", value / 1000.0);
        }
        allowed
    }

    /// Turns a user's number into a count, for languages in which a number may be anything.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] for anything but a whole number from 0 to 2^32 - 1.
    pub fn count(field: &str, value: f64) -> Result<u32> {
        if value >= 0.0 && value <= f64::from(u32::MAX) && value.fract() == 0.0 {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // was just checked
            return Ok(value as u32);
        }
        Err(Error::invalid(field, value.to_string(), format!("a whole number from 0 to {}", u32::MAX)))
    }

    /// A duration as a number of this unit.
    pub fn number(self, duration: Duration) -> f64 {
        match self {
            Self::Seconds => duration.as_secs_f64(),
            Self::Millis => duration.as_secs_f64() * 1000.0,
        }
    }

    /// A name such as `op_timeout` as the language writes names that counts in this unit: `opTimeout` in Node. Names of environment
    /// variables stay as they are.
    pub fn name(self, name: &str) -> String {
        if self == Self::Seconds || !name.contains(|letter: char| letter.is_ascii_lowercase()) {
            return name.to_owned();
        }
        let mut words = name.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |name, word| {
            let (initial, rest) = word.split_at(word.len().min(1));
            name + &initial.to_ascii_uppercase() + rest
        })
    }

    /// A duration in this unit, for errors.
    pub fn text(self, duration: Duration) -> String {
        self.shown(self.number(duration))
    }

    fn shown(self, value: f64) -> String {
        match self {
            Self::Seconds => format!("{value} s"),
            Self::Millis => format!("{value} ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r15_numbers_that_are_no_durations_are_named() {
        for value in [f64::NAN, f64::INFINITY, -1.0, 86_401.0] {
            let error = Unit::Seconds.duration("wait", value).unwrap_err();
            assert_eq!(error.to_string(), format!("wait: {value} s is not valid: a number from 0 to 86400 s"));
        }
        assert_eq!(Unit::Millis.duration("ttl", 30_000.0).unwrap(), Duration::from_secs(30));
    }

    #[test]
    fn names_are_written_as_the_language_writes_them() {
        let names = ["ttl", "op_timeout", "retry.max_retries", "DLOCK_REQUIRE_URL"];
        assert_eq!(names.map(|name| Unit::Seconds.name(name)), names);
        assert_eq!(names.map(|name| Unit::Millis.name(name)), ["ttl", "opTimeout", "retry.maxRetries", "DLOCK_REQUIRE_URL"]);
    }

    #[test]
    fn r15_numbers_that_count_nothing_are_named() {
        for value in [f64::NAN, -1.0, 0.5, 4_294_967_296.0] {
            assert!(Unit::count("retry.max_retries", value).unwrap_err().to_string().starts_with("retry.max_retries: "));
        }
        assert_eq!(Unit::count("retry.max_retries", 3.0).unwrap(), 3);
    }
}
