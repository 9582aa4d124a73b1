//! Whether a lock file is locked, found out without touching the lock.
//!
//! To try a lock and give it back would make the try of somebody else fail in between. The kernel's list of locks can be read.

use std::collections::HashSet;

use super::files::Identity;
use super::record::Record;

/// The locked files of this machine, as far as the kernel shows them.
#[derive(Debug)]
pub(super) struct Locked(Option<HashSet<(u32, u32, u64)>>);

impl Locked {
    /// Reads the kernel's list; `plain_inodes` as in [`Directory`](super::directory::Directory).
    pub(super) fn read(plain_inodes: bool) -> Self {
        Self(std::fs::read_to_string("/proc/locks").ok().filter(|_| plain_inodes).map(|text| parse(&text)))
    }

    /// Whether `file`, with the record that was read from it, is held.
    ///
    /// Without the kernel's list the record decides: a release unlinks the file, so one that is still there was left by a crash or is
    /// held, and its process tells which.
    pub(super) fn holds(&self, file: Identity, record: &Record) -> bool {
        match &self.0 {
            Some(list) => list.contains(&(rustix::fs::major(file.device), rustix::fs::minor(file.device), file.inode)),
            None => is_alive(record.pid),
        }
    }
}

/// Whether a process with this number runs.
pub(super) fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // A process that may not be signalled is there nevertheless.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Lines such as `1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF`; those who wait have an arrow after the number.
fn parse(text: &str) -> HashSet<(u32, u32, u64)> {
    let locked = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        if words.next()? != "FLOCK" {
            return None;
        }
        let mut place = words.nth(3)?.split(':');
        let mut device = || u32::from_str_radix(place.next()?, 16).ok();
        let device = (device()?, device()?);
        Some((device.0, device.1, place.next()?.parse().ok()?))
    };
    text.lines().filter_map(locked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_understood() {
        let text = "1: POSIX  ADVISORY  READ 5433 08:01:7864448 128 128\n\
                    2: FLOCK  ADVISORY  WRITE 2001 00:1a:1864554 0 EOF\n\
                    2: -> FLOCK  ADVISORY  WRITE 2002 00:1a:99 0 EOF\n\
                    nonsense\n";
        assert_eq!(parse(text), HashSet::from([(0, 0x1a, 1_864_554)]));
    }

    #[test]
    fn this_process_is_alive_and_none_is_not() {
        assert!(is_alive(std::process::id()));
        assert!(is_alive(1));
        assert!(!is_alive(0));
        assert!(!is_alive(u32::MAX));
    }
}
