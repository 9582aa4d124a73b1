//! Whether a lock file is held, found out without touching the lock.
//!
//! To try a lock and give it back would make the try of somebody else fail in between. But a release unlinks the file; so one that is
//! still there is held for as long as the process that wrote its record lives.

use super::files::Identity;
use super::record::Record;

/// The kernel's list is not read in one piece: while others lock and unlock, an entry can be missed.
const READS: u32 = 3;

/// A process, told apart from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// When it started, in clock ticks since boot; zero where that cannot be read.
    pub(super) started: u64,
}

impl Process {
    pub(super) fn this() -> Self {
        let pid = std::process::id();
        Self { pid, started: state(pid).map_or(0, |(_, started)| started) }
    }

    /// Whether it still runs. A zombie does not: its files are closed.
    pub(super) fn is_alive(self) -> bool {
        is_running(self.pid)
            && state(self.pid).is_none_or(|(state, started)| state != 'Z' && (self.started == 0 || self.started == started))
    }
}

/// Whether there is a process with this number, at the cost of one system call.
pub(super) fn is_running(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // A process that may not be signalled is there nevertheless.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Whether `file`, from which `record` was read, is held.
pub(super) fn is_held(file: Identity, record: &Record) -> bool {
    // The lock of a dead process lives on where a child shares its file, forked past our hooks.
    record.process().is_alive() || (0..READS).any(|_| is_listed(file))
}

/// Whether the kernel lists a lock on `file`. Overlays and btrfs show other numbers there, so that none is found.
fn is_listed(file: Identity) -> bool {
    let wanted = (rustix::fs::major(file.device), rustix::fs::minor(file.device), file.inode);
    std::fs::read_to_string("/proc/locks").is_ok_and(|list| list.lines().filter_map(locked).any(|locked| locked == wanted))
}

/// Reads a line such as `1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF`; those who wait have an arrow after the number.
fn locked(line: &str) -> Option<(u32, u32, u64)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    if words.next()? != "FLOCK" {
        return None;
    }
    let mut place = words.nth(3)?.split(':');
    let mut device = || u32::from_str_radix(place.next()?, 16).ok();
    let device = (device()?, device()?);
    Some((device.0, device.1, place.next()?.parse().ok()?))
}

/// A process's state and when it started, from `/proc`.
fn state(pid: u32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, brackets and spaces included.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_understood() {
        assert_eq!(locked("2: FLOCK  ADVISORY  WRITE 2001 00:1a:1864554 0 EOF"), Some((0, 0x1a, 1_864_554)));
        assert_eq!(locked("1: POSIX  ADVISORY  READ 5433 08:01:7864448 128 128"), None);
        assert_eq!(locked("2: -> FLOCK  ADVISORY  WRITE 2002 00:1a:99 0 EOF"), None);
        assert_eq!(locked("nonsense"), None);
    }

    #[test]
    fn a_process_is_not_taken_for_a_later_one_with_its_number() {
        let this = Process::this();
        assert!(this.started > 0 && this.is_alive());
        assert!(!Process { started: this.started + 1, ..this }.is_alive());
        assert!(!Process { pid: u32::MAX, started: 0 }.is_alive());
    }

    #[test]
    fn a_zombie_holds_nothing() {
        let starting = super::super::scratch::STARTING.lock();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        drop(starting);
        let process = Process { pid: child.id(), started: 0 };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while process.is_alive() {
            assert!(std::time::Instant::now() < deadline, "it never ended");
            std::thread::yield_now();
        }
        assert!(is_running(process.pid), "it was not waited for yet");
        child.wait().unwrap();
    }
}
