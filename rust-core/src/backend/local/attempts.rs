//! What a client of `local:` holds and waits for.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::Descriptor;
use super::lock_file::{HeldLock, LockFile, unlock};
use super::recent_holds::RecentHolds;
use crate::owner::OwnerId;

/// The key and the owner of one attempt.
pub(super) type AttemptId = (Arc<str>, OwnerId);

/// The attempts of one client, from the first request to the release.
#[derive(Debug, Default)]
pub(super) struct LocalAttempts {
    attempts: HashMap<AttemptId, LocalAttempt>,
    pub(super) recent_holds: RecentHolds,
    closed: bool,
}

/// How far one attempt has got.
#[derive(Debug)]
pub(super) enum LocalAttempt {
    /// Somebody else has the lock.
    Waiting(LockFile),
    /// We have the lock but no token yet, since its slot was in use.
    Locked(Descriptor),
    /// We hold the key.
    Held(HeldLock),
}

impl LocalAttempts {
    /// True once everything was freed for good.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The lock that `owner` holds on `key`.
    pub(super) fn held(&mut self, key: &Arc<str>, owner: OwnerId) -> Option<&mut HeldLock> {
        match self.attempts.get_mut(&(Arc::clone(key), owner)) {
            Some(LocalAttempt::Held(lock)) => Some(lock),
            _ => None,
        }
    }

    /// Takes an attempt out, for its next step.
    pub(super) fn take(&mut self, id: &AttemptId) -> Option<LocalAttempt> {
        self.attempts.remove(id)
    }

    /// Stores an attempt.
    pub(super) fn put(&mut self, id: AttemptId, attempt: LocalAttempt) {
        self.attempts.insert(id, attempt);
    }

    /// Frees what `owner` holds; false if `owner` holds nothing. The lock file that it waits for stays open.
    pub(super) fn release(&mut self, key: &Arc<str>, owner: OwnerId, path: &Path) -> io::Result<bool> {
        if self.held(key, owner).is_none() {
            return Ok(false);
        }
        self.leave(key, owner, path)
    }

    /// Frees whatever `owner` has; true if that was the key.
    pub(super) fn leave(&mut self, key: &Arc<str>, owner: OwnerId, path: &Path) -> io::Result<bool> {
        match self.attempts.remove(&(Arc::clone(key), owner)) {
            Some(LocalAttempt::Held(lock)) => {
                let run_began = lock.run_began();
                let waited_for = lock.release(path)?;
                if waited_for == Some(true) {
                    self.recent_holds.note_release(key, run_began, std::time::Instant::now());
                }
                Ok(waited_for.is_some())
            }
            Some(LocalAttempt::Locked(file)) => {
                unlock_ungranted(path, &file)?;
                Ok(false)
            }
            Some(LocalAttempt::Waiting(_)) | None => Ok(false),
        }
    }

    /// Frees everything, for good.
    pub(super) fn close(&mut self, path: impl Fn(&str) -> Option<PathBuf>) {
        self.closed = true;
        let ids: Vec<AttemptId> = self.attempts.keys().cloned().collect();
        for (key, owner) in ids {
            // A file that cannot be unlinked is at least closed below, and so unlocked.
            let _ = path(&key).map(|path| self.leave(&key, owner, &path));
        }
        self.attempts.clear();
    }
}

/// Frees a lock that never became a grant.
pub(super) fn unlock_ungranted(path: &Path, file: &Descriptor) -> io::Result<()> {
    let at_path = file.is_at(path)?;
    unlock(path, file, at_path);
    Ok(())
}
