//! dlock itself, on any of its backends, with its defaults.

use std::time::Duration;

use anyhow::{Result, bail};
use dlock::{Client, Lease};

use crate::work::{Contender, Library, Lock, TryLock};

pub struct Dlock(Client);

impl Dlock {
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self(Client::connect(url).await?))
    }
}

pub struct DlockLock {
    lock: dlock::Lock,
    lease: Option<Lease>,
}

impl Contender for Dlock {
    type Lock = DlockLock;

    async fn lock(&self, key: &str, ttl: Duration) -> Result<DlockLock> {
        Ok(DlockLock { lock: self.0.lock(key).ttl(ttl), lease: None })
    }
}

impl Lock for DlockLock {
    async fn acquire(&mut self) -> Result<()> {
        self.lease = Some(self.lock.acquire().await?);
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        let Some(lease) = self.lease.take() else { bail!("nothing is held") };
        if !lease.release().await? {
            bail!("the release of {} was not confirmed: {:?}", lease.key(), lease.status());
        }
        Ok(())
    }
}

impl TryLock for DlockLock {
    async fn try_acquire(&mut self) -> Result<bool> {
        self.lease = self.lock.try_acquire().await?;
        Ok(self.lease.is_some())
    }
}

impl Library for Dlock {}
