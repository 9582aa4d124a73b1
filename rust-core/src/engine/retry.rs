//! How a session acquires a key by bounded attempts, past every line.

use std::sync::Arc;

use crate::engine::attempt::Attempt;
use crate::engine::lease_record::LeaseRecord;
use crate::engine::session::Session;
use crate::error::{Error, Result};
use crate::options::Retry;

impl Session {
    /// Tries until the key is granted or the attempts are used up. A failing backend costs an attempt like a key that is held. A
    /// backend that refuses ends the retries: it would refuse again.
    pub(crate) async fn retry(self: &Arc<Self>, attempt: &Attempt, retry: Retry) -> Result<Arc<LeaseRecord>> {
        // One owner id for all tries: if a grant's answer got lost, the next try finds the grant.
        let mut try_guard = self.try_guard(attempt);
        let mut attempts = 0;
        loop {
            let failure = match self.try_as(&mut try_guard, attempt).await {
                Ok(Some(record)) => return Ok(record),
                Ok(None) => None,
                Err(Error::BackendUnavailable { source, .. }) => Some(source),
                Err(error) => return Err(error),
            };
            attempts += 1;
            if attempts > retry.max_retries {
                return Err(match failure {
                    Some(source) => self.unavailable("acquire", Some(attempt.key.clone()), source),
                    None => Error::RetriesExhausted {
                        key: attempt.key.clone(),
                        attempts,
                        holder: self.holder_seen(attempt).map(Box::new),
                    },
                });
            }
            self.clock.sleep_until(self.clock.now() + retry.pause(attempts, chance())).await;
        }
    }
}

/// A number between 0 and 1; one half if the system has no randomness to give.
fn chance() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}
