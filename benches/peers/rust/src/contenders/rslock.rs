//! rslock, which is Redlock, on one Redis.
//!
//! Its `acquire` waits by trying again, by default three times with pauses of up to 200 ms between them, and then from the beginning, for as
//! long as it takes.

use std::future::pending;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rslock::{LockError, LockGuard, LockManager};
use tokio::sync::oneshot;

use super::redis_line::{self, RedisLine};
use crate::work::{Contender, Library, Lock, TryLock};

pub struct Rslock(LockManager);

impl Rslock {
    pub async fn connect(url: &str) -> Result<Self> {
        // It takes a failure to connect for a held key, or for a missing one, so somebody else has to find out whether there is a server.
        RedisLine::connect(redis_line::address(url)?).await?;
        let manager = LockManager::new(vec![url]);
        // It connects at its first use.
        manager.query_redis_for_key_value(b"peers").await?;
        Ok(Self(manager))
    }
}

pub struct RslockLock {
    manager: LockManager,
    /// Tries once: without retries there are no pauses.
    once: LockManager,
    key: String,
    ttl: Duration,
    guard: Option<LockGuard>,
}

impl Contender for Rslock {
    type Lock = RslockLock;

    async fn lock(&self, key: &str, ttl: Duration) -> Result<RslockLock> {
        let mut once = self.0.clone();
        once.set_retry(1, Duration::ZERO);
        Ok(RslockLock { manager: self.0.clone(), once, key: key.to_owned(), ttl, guard: None })
    }
}

impl Lock for RslockLock {
    async fn acquire(&mut self) -> Result<()> {
        self.guard = Some(self.manager.acquire(self.key.as_bytes(), self.ttl).await?);
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        let Some(guard) = self.guard.take() else { bail!("nothing is held") };
        guard.release().await;
        Ok(())
    }
}

impl TryLock for RslockLock {
    async fn try_acquire(&mut self) -> Result<bool> {
        match self.once.lock(self.key.as_bytes(), self.ttl).await {
            Ok(lock) => {
                self.guard = Some(LockGuard { lock });
                Ok(true)
            }
            Err(LockError::Unavailable) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Library for Rslock {
    /// Only `using` renews.
    async fn hold(&self, key: &str, ttl: Duration) -> Result<()> {
        let (tell, told) = oneshot::channel();
        let (manager, key) = (self.0.clone(), key.to_owned());
        tokio::spawn(async move {
            let holding = async move || {
                // Nobody listens only where the process ends.
                let _ = tell.send(());
                pending::<()>().await;
            };
            if let Err(error) = manager.using(key.as_bytes(), ttl, holding).await {
                eprintln!("{key} is held no more: {error}");
            }
        });
        told.await.context("the key was not granted")
    }
}
