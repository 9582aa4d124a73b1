//! Whether a lock file is held, and whether its holder is dead, found out without touching the lock.
//!
//! A check that took the lock and released it would make another process's try fail in between. Therefore a holder has a second lock, which
//! can be queried ([`ofd`](super::ofd)). Holders of an earlier version have none: for those the writer of the record is looked up, and a
//! process that cannot be seen from here counts as alive.

use super::files::{Descriptor, FileIdentity};
use super::process::Process;
use super::record::HolderRecord;

/// The kernel's list is not read atomically: while others lock and unlock, a read can miss an entry. So it is read this often.
const READS: u32 = 3;

/// The number that the kernel gives to the pid namespace of the machine, from which every process is seen.
const WHOLE_MACHINE: u64 = 0xefff_fffc;

/// Whether `file`, from which `record` was read, is held.
pub(super) fn is_held(file: &Descriptor, record: &HolderRecord, this: Process) -> std::io::Result<bool> {
    if file.is_shown_held()? {
        return Ok(!is_left_behind(record, this));
    }
    if record.shown != 0 {
        return Ok(false);
    }
    // Written by an earlier version. Its lock outlives it where a child, forked past our hooks, shares its file.
    let unseen = cfg!(target_os = "linux") && this.pid_namespace != WHOLE_MACHINE;
    Ok(record.process().seems_alive() || unseen || (0..READS).any(|_| is_listed(file.identity())))
}

/// Whether only a child of a dead holder still keeps the lock, and the holder never passed the lock on to it.
///
/// A child never uses the leases of its parent, so nobody is in the critical section.
pub(super) fn is_left_behind(record: &HolderRecord, this: Process) -> bool {
    record.shown != 0 && record.passed == 0 && record.process().has_ended(this)
}

/// Whether the kernel lists a lock on `file`. Overlay file systems and btrfs list other numbers, so there none is found.
fn is_listed(file: FileIdentity) -> bool {
    let wanted = (rustix::fs::major(file.device), rustix::fs::minor(file.device), file.inode);
    std::fs::read_to_string("/proc/locks").is_ok_and(|list| list.lines().filter_map(locked).any(|locked| locked == wanted))
}

/// Reads a line such as `1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF`. In the line of a waiter an arrow follows the number.
fn locked(line: &str) -> Option<(u32, u32, u64)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    if words.next()? != "FLOCK" {
        return None;
    }
    let mut numbers = words.nth(3)?.split(':');
    let mut device = || u32::from_str_radix(numbers.next()?, 16).ok();
    let device = (device()?, device()?);
    Some((device.0, device.1, numbers.next()?.parse().ok()?))
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
}
