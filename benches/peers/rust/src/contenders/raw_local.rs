//! What the kernel allows: the system calls of a pair on `local:`, one after the other, with nothing around them.
//!
//! They make a lock file, lock it, draw a token from a slot file, write a record and mark it as held; then they unlink, unlock and close it.

use std::fs::{File, OpenOptions, remove_file};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, OFlags, fcntl_lock, fstat, lstat};

use crate::work::{Contender, Lock};

/// As long as a record without metadata.
const RECORD: [u8; 300] = [b'x'; 300];

pub struct RawLocal(PathBuf);

impl RawLocal {
    pub fn open(url: &str) -> Result<Self> {
        Ok(Self(url.strip_prefix("local://").with_context(|| format!("{url} names no folder"))?.into()))
    }
}

pub struct RawFiles {
    lock: PathBuf,
    slot: PathBuf,
    held: Option<File>,
}

impl Contender for RawLocal {
    type Lock = RawFiles;

    async fn lock(&self, key: &str, _ttl: Duration) -> Result<RawFiles> {
        Ok(RawFiles { lock: self.0.join(format!("raw-{key}")), slot: self.0.join(format!("raw-slot-{key}")), held: None })
    }
}

fn options() -> OpenOptions {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    options
}

impl Lock for RawFiles {
    async fn acquire(&mut self) -> Result<()> {
        let file = options().create_new(true).open(&self.lock)?;
        let ours = fstat(&file)?.st_ino;
        file.try_lock()?;
        let slot = options().create(true).truncate(false).open(&self.slot)?;
        fstat(&slot)?;
        slot.try_lock()?;
        let mut token = [0; 1024];
        slot.read_at(&mut token, 0)?;
        slot.write_all_at(b"00000001764475200000\n", 0)?;
        ensure!(lstat(&self.lock)?.st_ino == ours, "the lock file was replaced");
        fcntl_lock(&file, FlockOperation::NonBlockingLockShared)?;
        file.write_all_at(&RECORD, 0)?;
        slot.unlock()?;
        self.held = Some(file);
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        let file = self.held.take().context("nothing is held")?;
        ensure!(std::fs::symlink_metadata(&self.lock)?.ino() > 0, "the lock file is gone");
        remove_file(&self.lock)?;
        file.unlock()?;
        Ok(())
    }
}
