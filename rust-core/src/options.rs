//! Options: their defaults, and the one place that checks them.
//!
//! Every language hands its values to these functions, so that limits and error messages are the same everywhere.

mod key;
mod range;
mod renewal;
mod retry;

use std::time::Duration;

use range::check_range;

use crate::backend::Capabilities;
use crate::error::{Error, Result};
use crate::printable::quoted;
use crate::unit::{LONGEST, Unit};

pub use key::{LONGEST_KEY, check_key};
pub use renewal::Renewal;
pub use retry::Retry;

/// The shortest `max_stall`: every event loop is late now and then.
const SHORTEST_STALL: Duration = Duration::from_millis(100);
/// The longest `metadata`, in bytes.
pub const LONGEST_METADATA: usize = 4096;

/// How one lock behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct LockOptions {
    /// Lease time: without renewal the lease ends then.
    pub ttl: Duration,
    /// How long acquire waits; `None` for ever, zero to try once.
    pub wait: Option<Duration>,
    /// Whether the engine renews the lease while it is held.
    pub renew: bool,
    /// Renew when the remaining share of the TTL falls to this: between 0 and 1, both excluded.
    pub renewal_threshold: f64,
    /// Bounded attempts instead of waiting. `wait` bounds the whole; a `wait` of zero tries once, whatever this says.
    pub retry: Option<Retry>,
    /// Whether waiters are served in order of arrival, where the backend can; `false` may take a free key before those who wait.
    pub fair: bool,
    /// The lease ends after this long, renewed or not.
    pub max_hold: Option<Duration>,
    /// The lease ends when its holder sends no heartbeat for this long; see [`Lease::heartbeat`](crate::Lease::heartbeat).
    pub max_stall: Option<Duration>,
    /// Whether a caller may acquire the lock again that it holds through the same instance; see
    /// [`Lock::reentrant`](crate::Lock::reentrant).
    pub reentrant: bool,
    /// Shown by `inspect` beside host, pid and since.
    pub metadata: Option<String>,
    /// How long one backend request may take; `None` for the client's.
    pub op_timeout: Option<Duration>,
}

impl Default for LockOptions {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30),
            wait: None,
            renew: true,
            renewal_threshold: 2.0 / 3.0,
            retry: None,
            fair: true,
            max_hold: None,
            max_stall: None,
            reentrant: false,
            metadata: None,
            op_timeout: None,
        }
    }
}

impl LockOptions {
    /// Whether an acquire with this `wait` waits for the key in line. It does not if it tries once, or makes the bounded attempts
    /// of `retry`.
    pub fn waits(&self, wait: Option<Duration>) -> bool {
        wait != Some(Duration::ZERO) && self.retry.is_none()
    }

    /// Checks every field against its range and against what the backend can do.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] naming the first field that is out of range.
    pub fn validate(&self, unit: Unit, capabilities: &Capabilities) -> Result<()> {
        self.validate_with(self.wait, unit, capabilities)
    }

    /// [`LockOptions::validate`] with another `wait`.
    pub(crate) fn validate_with(&self, wait: Option<Duration>, unit: Unit, capabilities: &Capabilities) -> Result<()> {
        check_ttl(self.ttl, unit, capabilities)?;
        check_wait(wait, unit)?;
        if let Some(retry) = &self.retry {
            retry.validate(unit)?;
        }
        if let Some(max_hold) = self.max_hold {
            check_range("max_hold", max_hold, Duration::from_millis(1), unit)?;
        }
        if let Some(max_stall) = self.max_stall {
            check_range("max_stall", max_stall, SHORTEST_STALL, unit)?;
        }
        if let Some(op_timeout) = self.op_timeout {
            check_range("op_timeout", op_timeout, Duration::from_millis(1), unit)?;
        }
        if !(self.renewal_threshold > 0.0 && self.renewal_threshold < 1.0) {
            return Err(Error::invalid("renewal_threshold", self.renewal_threshold.to_string(), "a number between 0 and 1"));
        }
        match &self.metadata {
            Some(text) if text.len() > LONGEST_METADATA => {
                Err(Error::invalid("metadata", format!("{} bytes", text.len()), format!("at most {LONGEST_METADATA} bytes")))
            }
            _ => Ok(()),
        }
    }
}

/// Checks a `wait`, also one that is given to a single acquire.
pub(crate) fn check_wait(wait: Option<Duration>, unit: Unit) -> Result<()> {
    wait.map_or(Ok(()), |wait| check_range("wait", wait, Duration::ZERO, unit))
}

/// Checks a TTL, also one given to `extend`.
///
/// # Errors
/// [`Error::InvalidOptions`] below the backend's floor or above 24 hours. In milliseconds, the error points out a value that would
/// be right in seconds.
pub fn check_ttl(ttl: Duration, unit: Unit, capabilities: &Capabilities) -> Result<()> {
    let floor = capabilities.ttl_floor;
    if ttl >= floor && ttl <= LONGEST {
        return Ok(());
    }
    let mut allowed = format!("{} to {} on {}:", unit.text(floor), unit.text(LONGEST), capabilities.scheme);
    if unit == Unit::Millis && ttl < floor && ttl >= Duration::from_millis(1) {
        let number = ttl.as_secs_f64() * 1000.0;
        allowed = format!("{allowed} ({number} is in ms; did you mean {}?)", number * 1000.0);
    }
    Err(Error::invalid("ttl", unit.text(ttl), allowed))
}

/// A question about a TTL in seconds that is legal but looks like milliseconds: whole thousands that are not whole hours.
pub fn ttl_hint(ttl: Duration) -> Option<String> {
    let (seconds, hour) = (ttl.as_secs(), 3600);
    let doubtful = ttl.subsec_nanos() == 0 && seconds >= 1000 && seconds % 1000 == 0 && seconds % hour != 0;
    let long = || format!("{} h {} min", seconds / hour, seconds % hour / 60);
    doubtful.then(|| format!("ttl: {seconds} is in s, that is {}; did you mean {}?", long(), seconds / 1000))
}

/// How a client talks to its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// Put before every key; it holds no `/`. Empty means the server's own names: then the key `a/b` is the key `b` of the
    /// namespace `a` on Redis and etcd.
    pub namespace: String,
    /// How long one backend request may take.
    pub op_timeout: Duration,
    /// How long connecting may take, and how long an acquire goes on while the backend fails.
    pub connect_timeout: Duration,
    /// How leases are renewed.
    pub renewal: Renewal,
    /// Refuses `local:` if neither the program nor `DLOCK_URL` names a backend; see [`Client::from_env`](crate::Client::from_env).
    pub require_url: bool,
    /// The unit of time in errors.
    pub unit: Unit,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            namespace: "dlock".to_owned(),
            op_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(5),
            renewal: Renewal::default(),
            require_url: false,
            unit: Unit::Seconds,
        }
    }
}

impl ClientOptions {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] naming the first field that is out of range.
    pub fn validate(&self) -> Result<()> {
        check_range("op_timeout", self.op_timeout, Duration::from_millis(1), self.unit)?;
        check_range("connect_timeout", self.connect_timeout, Duration::from_millis(1), self.unit)?;
        self.renewal.validate(self.unit)?;
        // Servers keep `namespace/key` as one name: with a `/` in it, two namespaces could mean the same key.
        if self.namespace.len() > LONGEST_KEY || self.namespace.contains(|c: char| c == '/' || c.is_control()) {
            let allowed = format!("at most {LONGEST_KEY} bytes without `/` and control characters");
            return Err(Error::invalid("namespace", quoted(&self.namespace), allowed));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(super) fn capabilities() -> Capabilities {
        Capabilities {
            scheme: "memory",
            fair: true,
            crash_release: true,
            ttl_floor: Duration::from_millis(100),
            margin: Duration::from_millis(2),
            heartbeat: None,
            late_window: Duration::ZERO,
            batch: 1,
            reserved: None,
            counts_tokens: false,
        }
    }

    pub(super) fn message(result: Result<()>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn r15_defaults_are_valid() {
        LockOptions::default().validate(Unit::Seconds, &capabilities()).unwrap();
        ClientOptions::default().validate().unwrap();
    }

    #[test]
    fn r15_a_ttl_in_the_wrong_unit_is_pointed_out() {
        let options = LockOptions { ttl: Duration::from_millis(30), ..LockOptions::default() };
        assert_eq!(
            message(options.validate(Unit::Millis, &capabilities())),
            "ttl: 30 ms is not valid: 100 ms to 86400000 ms on memory: (30 is in ms; did you mean 30000?)"
        );
        assert_eq!(
            message(options.validate(Unit::Seconds, &capabilities())),
            "ttl: 0.03 s is not valid: 0.1 s to 86400 s on memory:"
        );
    }

    #[test]
    fn r15_a_legal_ttl_that_looks_like_milliseconds_is_asked_about() {
        let hint = |seconds: f64| ttl_hint(Duration::from_secs_f64(seconds));
        assert_eq!(hint(30_000.0).unwrap(), "ttl: 30000 is in s, that is 8 h 20 min; did you mean 30?");
        for milliseconds in [1_000.0, 5_000.0, 10_000.0, 60_000.0] {
            assert!(hint(milliseconds).is_some(), "{milliseconds}");
        }
        for seconds in [0.1, 30.0, 900.0, 1_000.5, 1_800.0, 3_600.0, 7_200.0, 36_000.0, 43_200.0, 86_400.0] {
            assert_eq!(hint(seconds), None, "{seconds}");
        }
    }

    #[test]
    fn r15_a_namespace_holds_no_slash() {
        for namespace in ["n/x", "/", "n/", "a\nb", &"n".repeat(513)] {
            let options = ClientOptions { namespace: namespace.to_owned(), ..ClientOptions::default() };
            assert!(message(options.validate()).starts_with("namespace: "), "{namespace:?}");
        }
        let raw = ClientOptions { namespace: String::new(), ..ClientOptions::default() };
        raw.validate().unwrap();
    }

    #[test]
    fn r15_thresholds_outside_the_open_interval_are_refused() {
        for renewal_threshold in [0.0, 1.0, f64::NAN, -0.5] {
            let options = LockOptions { renewal_threshold, ..LockOptions::default() };
            assert!(message(options.validate(Unit::Seconds, &capabilities())).starts_with("renewal_threshold: "));
        }
    }
}
