//! A second kernel lock beside the first, because it can be queried.
//!
//! A process cannot query a `flock` without taking it. A lock of the open file description (`F_OFD_SETLK`) lives exactly as long: it belongs
//! to the same open file, ends when the last copy of that is closed, however the process ended, and forked children and passed copies share
//! it. The kernel answers a query in every pid namespace, while `/proc/locks` hides locks whose process has no number there.

use std::fs::File;
use std::io;

#[cfg(target_os = "linux")]
pub(super) use linux::{is_locked, lock};
#[cfg(not(target_os = "linux"))]
pub(super) use none::{is_locked, lock};

#[cfg(target_os = "linux")]
mod linux {
    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    use super::{File, io};

    /// Takes the lock for as long as the open file lives; false where the file system has no such locks.
    ///
    /// It is a shared lock: a descriptor that cannot write may take it, and the `flock` already excludes.
    pub(in super::super) fn lock(file: &File) -> io::Result<bool> {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&whole(libc::F_RDLCK))) {
            Ok(_) => Ok(true),
            Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether another open file has the lock. This takes nothing.
    pub(in super::super) fn is_locked(file: &File) -> io::Result<bool> {
        let mut found = whole(libc::F_WRLCK);
        match fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)) {
            Ok(_) => Ok(i32::from(found.l_type) != libc::F_UNLCK),
            Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The whole file, whatever its length. The constants are small, but their type is wider than the fields.
    #[allow(clippy::cast_possible_truncation)]
    fn whole(kind: i32) -> libc::flock {
        libc::flock { l_type: kind as libc::c_short, l_whence: libc::SEEK_SET as libc::c_short, l_start: 0, l_len: 0, l_pid: 0 }
    }
}

#[cfg(not(target_os = "linux"))]
mod none {
    use super::{File, io};

    #[allow(clippy::unnecessary_wraps)]
    pub(in super::super) fn lock(_file: &File) -> io::Result<bool> {
        Ok(false)
    }

    #[allow(clippy::unnecessary_wraps)]
    pub(in super::super) fn is_locked(_file: &File) -> io::Result<bool> {
        Ok(false)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::super::scratch::{STARTING, Scratch};
    use super::*;

    #[test]
    fn the_lock_lives_as_long_as_the_last_copy_of_its_open_file_and_a_query_takes_nothing() {
        let _no_process_starts = STARTING.lock();
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        let holders = File::create_new(&path).unwrap();
        drop(holders);
        let holders = File::open(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert!(!is_locked(&reader).unwrap());
        assert!(lock(&holders).unwrap());
        assert!(is_locked(&reader).unwrap());
        assert!(is_locked(&File::options().write(true).open(&path).unwrap()).unwrap());
        // A traditional POSIX lock would end here, with the first descriptor of the process that is closed.
        drop(File::open(&path).unwrap());
        assert!(is_locked(&reader).unwrap());
        let passed = holders.try_clone().unwrap();
        drop(holders);
        assert!(is_locked(&reader).unwrap(), "a copy keeps it");
        drop(passed);
        assert!(!is_locked(&reader).unwrap());
    }
}
