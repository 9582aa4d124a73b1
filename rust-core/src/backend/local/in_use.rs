//! The file by which a user's processes agree on one directory: while they run, each records in every eligible base which one it uses.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::directory::make;
use super::files::{Descriptor, FileIdentity};
use super::names::is_lock_file;
use super::process;

/// The file that records which directory is in use. Every process that uses the directory has it locked in shared mode.
const IN_USE: &str = "in-use";

/// The user's directory in an eligible base, locked for as long as this value lives.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    directory: Descriptor,
    /// What running processes have recorded here.
    pub(super) recorded: Option<InUse>,
}

impl Candidate {
    /// Locks the directory; `None` where this user has none and none can be made.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where another process has locked or removed it.
    pub(super) fn lock(path: &Path) -> io::Result<Option<Self>> {
        let would_block = || io::Error::from(io::ErrorKind::WouldBlock);
        if make(path).is_err() || !is_ours(path) {
            return Ok(None);
        }
        let directory = Descriptor::open(path)?.ok_or_else(would_block)?;
        if !directory.try_lock()? {
            return Err(would_block());
        }
        let mut candidate = Self { path: path.to_owned(), directory, recorded: None };
        if !candidate.directory.is_at(path)? {
            return Err(would_block());
        }
        candidate.recorded = candidate.read()?;
        Ok(Some(candidate))
    }

    /// What the running processes have recorded.
    fn read(&self) -> io::Result<Option<InUse>> {
        let Some(file) = Descriptor::open(&self.path.join(IN_USE))? else { return Ok(None) };
        if file.try_lock()? {
            // The processes that recorded it have ended.
            file.unlock()?;
            return Ok(None);
        }
        InUse::decode(&file.read()?).map(Some).ok_or_else(|| io::Error::other(format!("{IN_USE} is in use and cannot be read")))
    }

    /// Records that `path` is in use, for as long as the returned file stays open.
    pub(super) fn record(&self, path: &Path) -> io::Result<Descriptor> {
        let at = self.path.join(IN_USE);
        let file = if self.recorded.is_some() {
            Descriptor::open(&at)?.ok_or(io::ErrorKind::NotFound)?
        } else {
            let file = Descriptor::open_or_create(&at)?;
            file.truncate()?;
            file.write_at(InUse::now(path)?.encode().as_bytes(), 0)?;
            file
        };
        // Nobody else has it locked exclusively: that takes the lock of the directory, which is ours.
        if file.try_lock_shared()? { Ok(file) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        // Closing would not be enough: a child that was forked past our hooks may share the open file.
        let _ = self.directory.unlock();
    }
}

/// Whether any lock file in the directory `path` is held. In a directory that is not in use, only an earlier version holds locks.
///
/// The locks are tried and released: no attempt of this version is disturbed there, and the records of earlier versions prove nothing.
pub(super) fn holds_any(path: &Path) -> io::Result<bool> {
    if !is_ours(path) {
        return Ok(false);
    }
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_lock_file) {
            continue;
        }
        let Some(file) = Descriptor::open(&entry.path())? else { continue };
        if !file.try_lock()? {
            return Ok(true);
        }
        file.unlock()?;
    }
    Ok(false)
}

/// Whether `path` is a directory of this user. One that somebody else planted there is never used.
fn is_ours(path: &Path) -> bool {
    rustix::fs::lstat(path).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::Directory && stat.st_uid == rustix::process::geteuid().as_raw()
    })
}

/// The record: which directory is in use, and which base that is, as the recording process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InUse {
    pub(super) path: PathBuf,
    base: FileIdentity,
    mount_namespace: u64,
}

impl InUse {
    fn now(path: &Path) -> io::Result<Self> {
        let base = path.parent().and_then(identity).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { path: path.to_owned(), base, mount_namespace: process::namespace("mnt") })
    }

    /// Whether the same path, in the same mount namespace, names another base by now.
    pub(super) fn was_covered(&self) -> bool {
        let now = Self::now(&self.path);
        now.is_ok_and(|now| self.mount_namespace == now.mount_namespace && self.base != now.base)
    }

    fn encode(&self) -> String {
        format!("{} {} {} {}\n", self.mount_namespace, self.base.device, self.base.inode, self.path.display())
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (line, _) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
        let mut words = line.splitn(4, ' ');
        let mut number = || words.next()?.parse().ok();
        let (mount_namespace, device, inode) = (number()?, number()?, number()?);
        Some(Self { path: words.next()?.into(), base: FileIdentity { device, inode }, mount_namespace })
    }
}

/// Which directory `base` is, if there is one.
pub(super) fn identity(base: &Path) -> Option<FileIdentity> {
    rustix::fs::stat(base).ok().map(|stat| FileIdentity { device: stat.st_dev, inode: stat.st_ino })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back() {
        let record = InUse { path: "/run/lock/dlock-1".into(), base: FileIdentity { device: 3, inode: 4 }, mount_namespace: 5 };
        assert_eq!(InUse::decode(record.encode().as_bytes()), Some(record.clone()));
        assert_eq!(InUse::decode(record.encode().trim_end().as_bytes()), None, "half written");
    }
}
