//! The one table that owns every descriptor which a forked child must close.
//!
//! A kernel lock belongs to the open file, which a forked child shares. If the child kept the descriptor, the lock of a killed parent would
//! stay held for as long as the child lives. Therefore nothing else in the process owns such a descriptor, and nobody opens, uses or closes
//! one without the table's lock, which [`forking`](super::forking) takes around each fork.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, Mode, OFlags};

use super::hub::Hub;
use super::ofd;

/// Enough for a key of 512 bytes and generous metadata. A longer record is cut, and then cannot be read.
const LONGEST_RECORD: usize = 256 * 1024;

static TABLE: Mutex<DescriptorTable> = Mutex::new(DescriptorTable { next: 1, files: BTreeMap::new(), hub: Hub::new() });

/// The process's lock files and watches.
#[derive(Debug)]
pub(super) struct DescriptorTable {
    /// No number is used twice, so one from before a fork finds nothing.
    next: u64,
    files: BTreeMap<u64, File>,
    pub(super) hub: Hub,
}

impl DescriptorTable {
    /// Closes what a forked child inherited. Closing does not unlock: the parent's descriptors still keep the same open files.
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

/// Locks the table. The guard is held only across short system calls, never across an await.
pub(super) fn table() -> MutexGuard<'static, DescriptorTable> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The permission bit with which waiters mark a lock file. It means nothing else on a file that nobody executes, and a descriptor that
/// cannot write can set it.
const WAITED: Mode = Mode::XUSR;

/// Which file a path or descriptor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileIdentity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl FileIdentity {
    fn of(stat: &rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }

    /// The file at `path`, if there is one.
    pub(super) fn at(path: &Path) -> io::Result<Option<Self>> {
        Ok(stat_at(path)?.map(|stat| Self::of(&stat)))
    }
}

fn stat_at(path: &Path) -> io::Result<Option<rustix::fs::Stat>> {
    match rustix::fs::lstat(path) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// One descriptor in the table. Dropping it closes the file, which unlocks it unless a fork shares it.
#[derive(Debug)]
pub(super) struct Descriptor {
    number: u64,
    identity: FileIdentity,
    writable: bool,
    regular: bool,
    /// True if a waiter had marked the file when it was opened.
    marked: bool,
}

impl Descriptor {
    /// Creates a file; `None` if there is one already.
    pub(super) fn create(path: &Path) -> io::Result<Option<Self>> {
        match Self::new(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, true) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            other => other.map(Some),
        }
    }

    /// Opens a file to lock, watch or read it; `None` if there is none.
    ///
    /// It is read-only, since waiters notice a holder's death by the closing of a writable descriptor.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        Self::existing(path, OFlags::RDONLY, false)
    }

    /// Opens a file to write to it; `None` if there is none.
    pub(super) fn open_writable(path: &Path) -> io::Result<Option<Self>> {
        Self::existing(path, OFlags::RDWR, true)
    }

    /// Opens a file that is never removed, and creates it if there is none.
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
        let stat = rustix::fs::fstat(&file)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(Self { number: table.insert(file), identity: FileIdentity::of(&stat), writable, regular, marked: is_waited(&stat) })
    }

    pub(super) fn identity(&self) -> FileIdentity {
        self.identity
    }

    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether `path` still names this file.
    pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
        Ok(FileIdentity::at(path)? == Some(self.identity))
    }

    /// Whether the file is empty; `None` if `path` no longer names it.
    pub(super) fn empty_at(&self, path: &Path) -> io::Result<Option<bool>> {
        Ok(stat_at(path)?.filter(|stat| FileIdentity::of(stat) == self.identity).map(|stat| stat.st_size == 0))
    }

    /// Whether a waiter has marked the file; `None` if `path` no longer names it.
    pub(super) fn waited_at(&self, path: &Path) -> io::Result<Option<bool>> {
        Ok(stat_at(path)?.filter(|stat| FileIdentity::of(stat) == self.identity).map(|stat| is_waited(&stat)))
    }

    /// Leaves the mark of a waiter, unless somebody else has left it.
    pub(super) fn mark_waited(&self) -> io::Result<()> {
        if self.marked {
            return Ok(());
        }
        self.with(|file| Ok(rustix::fs::fchmod(file, Mode::RUSR | Mode::WUSR | WAITED)?))
    }

    /// Takes the kernel lock; false if somebody else has it.
    pub(super) fn try_lock(&self) -> io::Result<bool> {
        self.with(|file| match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        })
    }

    /// Takes the kernel lock in shared mode; false if somebody has it alone.
    pub(super) fn try_lock_shared(&self) -> io::Result<bool> {
        self.with(|file| match file.try_lock_shared() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        })
    }

    /// Shows other processes that this open file is held; false where the file system has no way to show it.
    pub(super) fn show_held(&self) -> io::Result<bool> {
        self.with(ofd::lock)
    }

    /// Whether another open file of this path is shown as held.
    pub(super) fn is_shown_held(&self) -> io::Result<bool> {
        self.with(ofd::is_locked)
    }

    /// Unlocks the file for everybody who shares this open file, forked children included.
    pub(super) fn unlock(&self) -> io::Result<()> {
        self.with(File::unlock)
    }

    /// Whether it is a regular file, not a directory or a pipe.
    pub(super) fn is_regular(&self) -> bool {
        self.regular
    }

    pub(super) fn truncate(&self) -> io::Result<()> {
        self.with(|file| file.set_len(0))
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
                filled += file.read_at(&mut bytes[filled..], filled as u64)?;
                // A short read of a regular file means that its end was reached.
                if filled < bytes.len() || filled == LONGEST_RECORD {
                    bytes.truncate(filled);
                    return Ok(bytes);
                }
                bytes.resize((filled * 4).min(LONGEST_RECORD), 0);
            }
        })
    }

    /// Another descriptor of the same open file. The caller owns it, and the table does not know it.
    pub(super) fn copy(&self) -> io::Result<OwnedFd> {
        self.with(|file| file.try_clone().map(OwnedFd::from))
    }

    /// Changes the file's times, which notifies its watchers.
    pub(super) fn touch(&self) -> io::Result<()> {
        self.with(|file| file.set_modified(std::time::SystemTime::now()))
    }

    /// Another descriptor of the same open file, as a forked child has it.
    #[cfg(test)]
    pub(super) fn share(&self) -> File {
        table().files[&self.number].try_clone().unwrap()
    }

    fn with<T>(&self, call: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        match table().files.get(&self.number) {
            Some(file) => call(file),
            None => Err(io::Error::other("the file was closed at a fork")),
        }
    }
}

fn is_waited(stat: &rustix::fs::Stat) -> bool {
    Mode::from_raw_mode(stat.st_mode).contains(WAITED)
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // Closed while the table is locked: otherwise a fork in between could share a descriptor that is in no table.
        table().files.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::{STARTING, Scratch};
    use super::*;

    #[test]
    fn r13_a_forked_child_closes_what_it_inherits_and_unlocks_nothing() {
        let _no_process_starts = STARTING.lock();
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        let parents = File::create(&path).unwrap();
        parents.try_lock().unwrap();
        let mut childs = DescriptorTable { next: 1, files: BTreeMap::new(), hub: Hub::new() };
        childs.insert(parents.try_clone().unwrap());
        childs.abandon();
        let other = File::open(&path).unwrap();
        assert!(other.try_lock().is_err(), "the parent still holds");
        drop(parents);
        other.try_lock().expect("the parent's end frees it at once");
    }

    #[test]
    fn r13_a_child_that_unlocked_would_free_its_parents_lock() {
        let scratch = Scratch::new();
        let parents = Descriptor::create(&scratch.path().join("lock")).unwrap().unwrap();
        assert!(parents.try_lock().unwrap());
        parents.share().unlock().unwrap();
        let other = File::open(scratch.path().join("lock")).unwrap();
        other.try_lock().expect("which is why the hook only closes");
    }

    #[test]
    fn programs_that_are_started_inherit_nothing() {
        let scratch = Scratch::new();
        let file = Descriptor::create(&scratch.path().join("lock")).unwrap().unwrap();
        let flags = file.with(|file| Ok(rustix::io::fcntl_getfd(file)?)).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn a_symbolic_link_in_place_of_a_lock_file_is_not_followed() {
        let scratch = Scratch::new();
        let (victim, path) = (scratch.path().join("victim"), scratch.path().join("lock"));
        std::fs::write(&victim, "data").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(Descriptor::create(&path).unwrap().is_none());
        assert!(Descriptor::open(&path).is_err());
        assert_eq!(std::fs::read(&victim).unwrap(), b"data");
    }
}
