//! The one table that owns every descriptor a forked child must let go of.
//!
//! A kernel lock belongs to the open file, which a fork shares: were a child to keep the descriptor, the lock of a killed parent would
//! stay held for as long as the child lives. So nothing else in the process owns such a descriptor, and nobody opens, uses or closes
//! one without the table's lock, which [`fork`](super::fork) takes around each fork.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};

use super::record::LONGEST_RECORD;
use super::watch::Hub;

static TABLE: Mutex<Table> = Mutex::new(Table { next: 1, files: BTreeMap::new(), hub: Hub::new() });

/// The process's lock files and watches.
#[derive(Debug)]
pub(super) struct Table {
    /// Numbers are never used twice, so one from before a fork finds nothing.
    next: u64,
    files: BTreeMap<u64, File>,
    pub(super) hub: Hub,
}

impl Table {
    /// Closes what a fork inherited. Closing does not unlock: the parent's descriptors still keep the same open files.
    pub(super) fn abandon(&mut self) {
        self.files.clear();
        self.hub.abandon();
    }

    fn insert(&mut self, file: File) -> u64 {
        let number = self.next;
        self.next += 1;
        self.files.insert(number, file);
        number
    }
}

/// The table. Held only across short system calls, never across an await.
pub(super) fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many descriptors the table owns.
#[cfg(test)]
pub(super) fn open_files() -> usize {
    table().files.len()
}

/// Which file a path or descriptor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl Identity {
    fn of(stat: &rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }

    /// The file at `path`, if there is one.
    pub(super) fn at(path: &Path) -> io::Result<Option<Self>> {
        match rustix::fs::lstat(path) {
            Ok(stat) => Ok(Some(Self::of(&stat))),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// One descriptor in the table. Dropping it closes the file, which unlocks it unless a fork shares it.
#[derive(Debug)]
pub(super) struct Descriptor {
    number: u64,
    identity: Identity,
    writable: bool,
}

impl Descriptor {
    /// Creates a file; `None` if there is one.
    pub(super) fn create(path: &Path) -> io::Result<Option<Self>> {
        match Self::new(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, true) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            other => other.map(Some),
        }
    }

    /// Opens a file to lock, watch or read it; `None` if there is none.
    ///
    /// Read-only, since the end of a writable descriptor is the event by which waiters notice that a holder died.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        Self::existing(path, OFlags::RDONLY, false)
    }

    /// Opens a file to write to it; `None` if there is none.
    pub(super) fn open_writable(path: &Path) -> io::Result<Option<Self>> {
        Self::existing(path, OFlags::RDWR, true)
    }

    /// Opens a file that is never removed, and makes it if need be.
    pub(super) fn open_or_create(path: &Path) -> io::Result<Self> {
        Self::new(path, OFlags::RDWR | OFlags::CREATE, true)
    }

    fn existing(path: &Path, flags: OFlags, writable: bool) -> io::Result<Option<Self>> {
        match Self::new(path, flags, writable) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    fn new(path: &Path, flags: OFlags, writable: bool) -> io::Result<Self> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut table = table();
        let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
        let identity = Identity::of(&rustix::fs::fstat(&file)?);
        Ok(Self { number: table.insert(file), identity, writable })
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether `path` still names this file.
    pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
        Ok(Identity::at(path)? == Some(self.identity))
    }

    /// Takes the kernel lock; false if somebody else has it.
    pub(super) fn try_lock(&self) -> io::Result<bool> {
        self.with(|file| match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        })
    }

    /// Gives the kernel lock up for everybody who shares this open file, forked children included.
    pub(super) fn unlock(&self) -> io::Result<()> {
        self.with(File::unlock)
    }

    /// Replaces what the file holds.
    pub(super) fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        self.with(|file| {
            file.set_len(0)?;
            file.write_all_at(bytes, 0)
        })
    }

    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|file| file.write_all_at(bytes, offset))
    }

    /// Reads the file from its beginning, up to the length of the longest record.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        self.with(|file| {
            let mut bytes = vec![0; 1024];
            let mut filled = 0;
            loop {
                let read = file.read_at(&mut bytes[filled..], filled as u64)?;
                filled += read;
                if read == 0 || filled == LONGEST_RECORD {
                    bytes.truncate(filled);
                    return Ok(bytes);
                }
                if filled == bytes.len() {
                    bytes.resize((filled * 4).min(LONGEST_RECORD), 0);
                }
            }
        })
    }

    /// The same open file under another number, which is the caller's and unknown to the table.
    pub(super) fn copy(&self) -> io::Result<OwnedFd> {
        self.with(|file| file.try_clone().map(OwnedFd::from))
    }

    /// Changes the file's times, for the event that this causes at its watchers.
    pub(super) fn touch(&self) -> io::Result<()> {
        self.with(|file| file.set_modified(std::time::SystemTime::now()))
    }

    fn with<T>(&self, call: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        match table().files.get(&self.number) {
            Some(file) => call(file),
            None => Err(io::Error::other("the file was let go at a fork")),
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // Closed while the table is locked: a fork in between would share a descriptor that nobody knows.
        table().files.remove(&self.number);
    }
}
