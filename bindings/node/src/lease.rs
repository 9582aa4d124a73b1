//! Leases: they are asked about, extended, watched and released.

use std::sync::Arc;

use dlock::{Error, Lease, Unit};
use napi_derive::napi;

use crate::bridge::Bridge;
use crate::completion::Outcome;
use crate::error::describe;
use crate::numbers::{date, millis};

/// A held lease that nobody can reach any more.
#[napi(object)]
pub struct DroppedLease {
    /// Its key.
    pub key: String,
    /// Its token, below 2^53.
    pub token: i64,
}

impl DroppedLease {
    pub(crate) fn new((key, token): (Arc<str>, u64)) -> Self {
        Self { key: key.to_string(), token: i64::try_from(token).unwrap_or(i64::MAX) }
    }
}

#[napi]
impl Bridge {
    /// Whether the holder may rely on the lease now. It reads the clock.
    #[napi]
    pub fn is_valid(&self, lease: i64) -> bool {
        self.lease(lease).is_some_and(|lease| lease.is_valid())
    }

    /// For how many milliseconds the holder may still rely on the lease.
    #[napi]
    pub fn remaining(&self, lease: i64) -> f64 {
        self.lease(lease).map_or(0.0, |lease| millis(lease.remaining()))
    }

    /// The status of the lease, in a word.
    #[napi]
    pub fn status(&self, lease: i64) -> Option<&'static str> {
        self.lease(lease).map(|lease| lease.status().as_str())
    }

    /// The owner id.
    #[napi]
    pub fn owner(&self, lease: i64) -> Option<String> {
        self.lease(lease).map(|lease| lease.owner())
    }

    /// When the lease ends, in milliseconds since 1970.
    #[napi]
    pub fn expires_at(&self, lease: i64) -> f64 {
        self.lease(lease).map_or(0.0, |lease| date(lease.expires_at()))
    }

    /// Checks a grant that has reached its caller. A lease that was lost on the way is released, and its record goes. Returns the
    /// loss, or nothing.
    #[napi]
    pub fn claim(&self, lease: i64) -> Option<String> {
        let lost = self.lease(lease)?.claim().err().filter(|error| matches!(error, Error::LockLost { .. }))?;
        // Dropped with nothing borrowed: a callback for the loss may ask for a lease.
        let dropped = self.tables.borrow_mut().leases.remove(&lease);
        drop(dropped);
        Some(describe(&lost))
    }

    /// Returns the error for a holder that must not go on, or nothing.
    #[napi]
    pub fn check(&self, lease: i64, key: String) -> Option<String> {
        let checked = match self.lease(lease) {
            Some(lease) => lease.check(),
            None => Err(already_released(&key, "check")),
        };
        checked.err().map(|error| describe(&error))
    }

    /// Switches renewal on or off.
    #[napi]
    pub fn auto_renew(&self, lease: i64, renew: bool) {
        if let Some(lease) = self.lease(lease) {
            lease.auto_renew(renew);
        }
    }

    /// How often to send heartbeats, in milliseconds; nothing if the lease needs none.
    #[napi]
    pub fn heartbeat_every(&self, lease: i64) -> Option<f64> {
        self.lease(lease)?.heartbeat_every().map(millis)
    }

    /// A heartbeat. False once the lease has ended.
    #[napi]
    pub fn heartbeat(&self, lease: i64) -> bool {
        self.lease(lease).is_some_and(|lease| lease.heartbeat())
    }

    /// Enters a held lease again. It then takes one more release to free the key.
    #[napi]
    pub fn enter(&self, lease: i64) -> bool {
        self.lease(lease).is_some_and(|lease| lease.enter())
    }

    /// Makes the lease end so many milliseconds from now.
    #[napi]
    pub fn extend(&self, lease: i64, call: i64, key: String, ttl: f64) {
        let Some(lease) = self.lease(lease) else { return self.fail(call, already_released(&key, "extend")) };
        self.start(call, async move {
            lease.extend(Unit::Millis.duration("ttl", ttl)?).await?;
            Ok(Outcome::Done)
        });
    }

    /// Reports the loss of the lease through the queue, under the lease's own number.
    #[napi]
    pub fn watch(&self, lease: i64) {
        let completions = self.completions.clone();
        if let Some(held) = self.lease(lease) {
            held.on_lost(move |_| completions.push(lease, Outcome::Lost));
        }
    }

    /// Releases the lease: validity and renewal end before this returns. Its record goes with a definite answer, unless that is a loss:
    /// then JavaScript still asks for the error. Returns what [`Bridge::acquire`] returns.
    #[napi]
    pub fn release(&self, lease: i64, call: i64) -> u32 {
        match self.lease(lease) {
            Some(held) => self.release_lease(call, Some(lease), &held),
            None => self.completions.push(call, Outcome::Released(None, dlock::Status::NotHeld)),
        }
        self.progress(call)
    }

    /// Drops a lease that JavaScript can no longer reach. Returns it if it was still held and is released for that reason.
    #[napi]
    pub fn drop_lease(&self, lease: i64) -> Option<DroppedLease> {
        let lease = self.tables.borrow_mut().leases.remove(&lease)?;
        lease.is_last_handle().then(|| DroppedLease::new((lease.key().clone(), lease.token())))
    }

    pub(crate) fn release_lease(&self, call: i64, number: Option<i64>, lease: &Lease) {
        let completions = self.completions.clone();
        let answered = move |status| completions.push(call, Outcome::Released(number, status));
        match self.completions.driving(call, || lease.release_for(self.reader.get(), answered)) {
            // Any other one is over, or the engine's.
            Ok(Some(release)) if release.socket().is_some() => drop(self.tables.borrow_mut().releases.insert(call, release)),
            Ok(_) => {}
            Err(error) => self.fail(call, error),
        }
    }

    fn lease(&self, lease: i64) -> Option<Lease> {
        self.tables.borrow().leases.get(&lease).cloned()
    }
}

/// The error about a lease whose record was dropped after its release.
fn already_released(key: &str, operation: &'static str) -> Error {
    Error::NotHeld { key: key.into(), operation }
}
