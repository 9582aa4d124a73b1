//! Bodies: work that runs while a lock is held.

use std::future::{Future, pending};

use super::Lock;
use crate::caller::Caller;
use crate::engine::lease_state::Status;
use crate::error::{Error, Result};
use crate::lease::Lease;

impl Lock {
    /// Runs `work` while holding the key, and releases the key however `work` ends.
    ///
    /// When the lease is lost, `work` is dropped at its next await and the loss is returned.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`], and [`Error::LockLost`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops `work` and releases the key.
    pub async fn with<T, F, W>(&self, work: F) -> Result<T>
    where
        F: FnOnce(Lease) -> W,
        W: Future<Output = T>,
    {
        let caller = Caller::current();
        let body = caller.body();
        let lease = self.acquire_as(self.options.wait, caller, body.clone()).await?;
        let held = HeldLease::new(lease.clone());
        let result = tokio::select! {
            biased;
            reason = held.lease.lost() => Err(Error::LockLost { key: self.key.clone(), token: held.lease.token(), reason }),
            value = body.running(async { work(lease).await }) => Ok(value),
            error = self.send_heartbeats(&held.lease) => Err(error),
        };
        if result.is_ok()
            && let Status::Lost(_) = held.lease.status()
        {
            held.lease.check()?;
        }
        held.release().await?;
        result
    }

    /// Sends heartbeats while it is polled: the caller's task polls it, so that a task that hangs sends none. Ends only in an error.
    async fn send_heartbeats(&self, lease: &Lease) -> Error {
        let Some(every) = lease.heartbeat_every() else { return pending().await };
        loop {
            let session = match self.client.session("acquire") {
                Ok(session) => session,
                Err(error) => return error,
            };
            let engine = session.engine.clone();
            if let Err(error) = engine.run(async move { session.clock.sleep_until(session.clock.now() + every).await }).await {
                return error;
            }
            lease.heartbeat();
        }
    }
}

/// The lease of a body: dropping it releases the lease, however the body ends.
struct HeldLease {
    lease: Lease,
    is_released: bool,
}

impl HeldLease {
    fn new(lease: Lease) -> Self {
        Self { lease, is_released: false }
    }

    async fn release(mut self) -> Result<bool> {
        let lease = self.lease.clone();
        self.is_released = true;
        lease.release().await
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        if !self.is_released {
            // In a forked child there is nothing to release.
            let _ = self.lease.release_then(drop);
        }
    }
}
