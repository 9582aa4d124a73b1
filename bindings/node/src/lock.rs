//! Locks: they are made from a key and options, acquired, and dropped.

use std::time::Duration;

use dlock::{Caller, Error, Lease, LockOptions, Result, Retry, Unit};
use napi_derive::napi;

use crate::bridge::Bridge;
use crate::completion::Outcome;
use crate::error::describe;
use crate::lease::DroppedLease;

/// What a user may set on a lock; times in milliseconds.
#[napi(object)]
pub struct LockSettings {
    /// Lease time.
    pub ttl: Option<f64>,
    /// How long an acquire waits; nothing waits for ever.
    pub wait: Option<f64>,
    /// Whether the engine renews it while held.
    pub renew: Option<bool>,
    /// The share of the TTL that is left when the engine renews.
    pub renewal_threshold: Option<f64>,
    /// A limited number of attempts instead of waiting.
    pub retry: Option<RetrySettings>,
    /// Grants in order of arrival, on backends that can.
    pub fair: Option<bool>,
    /// The longest time that a lease may be held.
    pub max_hold: Option<f64>,
    /// The lease ends if no heartbeat comes for this long.
    pub max_stall: Option<f64>,
    /// A holder may acquire the lock again. JavaScript knows the holder.
    pub reentrant: Option<bool>,
    /// Text that `inspect` returns.
    pub metadata: Option<String>,
    /// How long one backend request may take.
    pub op_timeout: Option<f64>,
}

/// What a user may set on `retry`.
#[napi(object)]
pub struct RetrySettings {
    /// Attempts after the first one.
    pub max_retries: Option<f64>,
    /// The first pause.
    pub delay: Option<f64>,
    /// How the pauses grow.
    pub backoff: Option<f64>,
    /// How they vary.
    pub jitter: Option<f64>,
}

impl RetrySettings {
    fn retry(self) -> Result<Retry> {
        let defaults = Retry::default();
        Ok(Retry {
            max_retries: self.max_retries.map_or(Ok(defaults.max_retries), |value| Unit::count("retry.max_retries", value))?,
            delay: duration("retry.delay", self.delay)?.unwrap_or(defaults.delay),
            backoff: self.backoff.unwrap_or(defaults.backoff),
            jitter: self.jitter.unwrap_or(defaults.jitter),
        })
    }
}

impl LockSettings {
    fn options(self) -> Result<LockOptions> {
        let defaults = LockOptions::default();
        Ok(LockOptions {
            ttl: duration("ttl", self.ttl)?.unwrap_or(defaults.ttl),
            wait: duration("wait", self.wait)?,
            renew: self.renew.unwrap_or(defaults.renew),
            renewal_threshold: self.renewal_threshold.unwrap_or(defaults.renewal_threshold),
            retry: self.retry.map(RetrySettings::retry).transpose()?,
            fair: self.fair.unwrap_or(defaults.fair),
            max_hold: duration("max_hold", self.max_hold)?,
            max_stall: duration("max_stall", self.max_stall)?,
            reentrant: self.reentrant.unwrap_or(defaults.reentrant),
            metadata: self.metadata,
            op_timeout: duration("op_timeout", self.op_timeout)?,
        })
    }
}

pub(crate) fn duration(field: &str, value: Option<f64>) -> Result<Option<Duration>> {
    value.map(|value| Unit::Millis.duration(field, value)).transpose()
}

#[napi]
impl Bridge {
    /// Makes a lock and checks its key and options. Returns the error, or nothing.
    #[napi]
    pub fn create_lock(&self, lock: i64, client: i64, key: String, settings: Option<LockSettings>) -> Option<String> {
        self.make_lock(lock, client, &key, settings).err().map(|error| describe(&error))
    }

    fn make_lock(&self, lock: i64, client: i64, key: &str, settings: Option<LockSettings>) -> Result<()> {
        let options = settings.map(LockSettings::options).transpose()?.unwrap_or_default();
        let mut tables = self.tables.borrow_mut();
        let client = tables.clients.get(&client).ok_or(Error::ClientClosed { operation: "lock" })?;
        let made = client.lock_with(key, options);
        made.validate()?;
        tables.locks.insert(lock, made);
        Ok(())
    }

    /// Drops a lock that JavaScript can no longer reach. Returns the held leases that are dropped with it: only this lock kept
    /// them.
    #[napi]
    pub fn drop_lock(&self, lock: i64) -> Vec<DroppedLease> {
        let Some(lock) = self.tables.borrow_mut().locks.remove(&lock) else { return Vec::new() };
        lock.forgotten().into_iter().map(DroppedLease::new).collect()
    }

    /// Waits for the key, for ever if `wait` is nothing. The call's number becomes the lease's. `inside` identifies the caller: it is the
    /// lease of the innermost body around the call, 0 outside of any, and negative if bodies are not tracked. `body`: the lease is for a
    /// body of its own. Returns how far it has got; see [`Progress`](crate::direct::Progress).
    #[napi]
    pub fn acquire(&self, lock: i64, call: i64, wait: Option<f64>, inside: i64, body: bool) -> u32 {
        let wait = match duration("wait", wait) {
            Ok(wait) => wait,
            Err(error) => {
                self.fail(call, error);
                return self.progress(call);
            }
        };
        self.begin(lock, call, wait, self.callers(inside, body), |granted| granted.map_or_else(Outcome::Failed, Outcome::Granted))
    }

    /// Whether an acquire with this `wait` waits for the key in line.
    #[napi]
    pub fn waits(&self, lock: i64, wait: Option<f64>) -> bool {
        // A `wait` that is refused is told by the acquire.
        let waits = |lock: &dlock::Lock| duration("wait", wait).is_ok_and(|wait| lock.options().waits(wait));
        self.tables.borrow().locks.get(&lock).is_some_and(waits)
    }

    /// Tries once. Returns what [`Bridge::acquire`] returns.
    #[napi]
    pub fn try_acquire(&self, lock: i64, call: i64, inside: i64) -> u32 {
        self.begin(lock, call, Some(Duration::ZERO), self.callers(inside, false), |granted| match granted {
            Ok(lease) => Outcome::Granted(lease),
            Err(Error::LockBusy { .. }) => Outcome::Busy,
            Err(error) => Outcome::Failed(error),
        })
    }

    /// Ends the attempt of a caller that no longer wants the key. The call has no outcome, and a grant that is under way is released.
    #[napi]
    pub fn cancel(&self, call: i64) {
        // Nothing may be borrowed while the attempt is dropped.
        let acquire = self.tables.borrow_mut().acquires.remove(&call);
        if let Some(acquire) = acquire {
            acquire.abort();
        }
    }

    /// Releases a grant that was drained and that no caller took.
    #[napi]
    pub fn discard(&self, call: i64) {
        let lease = self.tables.borrow_mut().leases.remove(&call);
        if let Some(lease) = lease {
            Outcome::Granted(lease).discard();
        }
    }

    /// Releases the only outstanding lease of the lock. Returns what [`Bridge::acquire`] returns.
    #[napi]
    pub fn release_lock(&self, lock: i64, call: i64) -> u32 {
        let lock = self.tables.borrow().locks.get(&lock).cloned();
        match lock.ok_or(Error::ClientClosed { operation: "release" }).and_then(|lock| lock.only_lease("release")) {
            Ok(lease) => self.release_lease(call, None, &lease),
            Err(error) => self.fail(call, error),
        }
        self.progress(call)
    }

    /// Answers whether anybody holds the lock's key.
    #[napi]
    pub fn is_lock_held(&self, lock: i64, call: i64, inside: i64) {
        let lock = self.tables.borrow().locks.get(&lock).cloned();
        let Some(lock) = lock else { return self.fail(call, Error::ClientClosed { operation: "is_locked" }) };
        let (caller, _) = self.callers(inside, false);
        self.start(call, caller.scope(async move { lock.is_locked().await.map(Outcome::Flag) }));
    }

    /// The caller that asks, and the one that is to hold the lease.
    pub(crate) fn callers(&self, inside: i64, body: bool) -> (Caller, Caller) {
        if inside < 0 {
            return (Caller::unknown(), Caller::unknown());
        }
        let caller = self.tables.borrow().leases.get(&inside).map_or_else(Caller::nobody, Lease::holder);
        let holder = if body { caller.child() } else { caller.clone() };
        (caller, holder)
    }

    fn begin(
        &self,
        lock: i64,
        call: i64,
        wait: Option<Duration>,
        (caller, holder): (Caller, Caller),
        outcome: fn(Result<Lease>) -> Outcome,
    ) -> u32 {
        let completions = self.completions.clone();
        // Cloned, since nothing may be borrowed while it is polled.
        let lock = self.tables.borrow().locks.get(&lock).cloned().ok_or(Error::ClientClosed { operation: "acquire" });
        let granted = move |granted| completions.push(call, outcome(granted));
        let begun = lock
            .and_then(|lock| self.completions.driving(call, || lock.acquire_for(caller, holder, wait, self.reader.get(), granted)));
        match begun {
            Ok(task) => drop(self.tables.borrow_mut().acquires.insert(call, task)),
            Err(error) => self.fail(call, error),
        }
        self.progress(call)
    }
}
