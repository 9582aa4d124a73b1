//! Whether a lock file is held, and whether its holder is dead, found out without touching the lock.
//!
//! To try a lock and give it back would make the try of somebody else fail in between. So a holder has a second lock that can be asked for
//! ([`ofd`](super::ofd)). One of an earlier version has not: there the process that wrote the record is looked for, and what cannot be seen
//! from here counts as held.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::files::{Descriptor, Identity};
use super::record::Record;

/// The kernel's list is not read in one piece: while others lock and unlock, an entry can be missed.
const READS: u32 = 3;

/// The number that the kernel gives to the pid namespace of the machine, from which every process is seen.
const WHOLE_MACHINE: u64 = 0xefff_fffc;

/// A process, told apart from a later one with the same number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// When it started, in clock ticks since boot; zero where that cannot be read.
    pub(super) started: u64,
    /// Where these two mean something: a run of a machine, and namespaces of it. Zero where that cannot be read.
    pub(super) boot: u64,
    pub(super) pid_namespace: u64,
    pub(super) time_namespace: u64,
}

impl Process {
    pub(super) fn this() -> Self {
        let pid = std::process::id();
        // `/proc` may be that of another namespace, where our number is another process.
        let is_ours = std::fs::read_link("/proc/self").is_ok_and(|link| link.to_str() == Some(&pid.to_string()));
        let started = if is_ours { state(pid).map_or(0, |(_, started)| started) } else { 0 };
        Self { pid, started, boot: boot(), pid_namespace: namespace("pid"), time_namespace: namespace("time") }
    }

    /// Whether it seems to run. A zombie does not: its files are closed. For those who only look.
    pub(super) fn seems_alive(self) -> bool {
        is_running(self.pid)
            && state(self.pid).is_none_or(|(state, started)| state != 'Z' && (self.started == 0 || self.started == started))
    }

    /// Whether `this` process can prove that it has ended, with all its threads. What cannot be proved is no.
    pub(super) fn has_ended(self, this: Self) -> bool {
        let place = |process: Self| (process.boot, process.pid_namespace, process.time_namespace);
        // A number that means nobody here may be a live process elsewhere.
        if self.boot == 0 || self.pid_namespace == 0 || place(self) != place(this) {
            return false;
        }
        let Some(pid) = as_pid(self.pid) else { return false };
        if is_gone(pid) {
            return true;
        }
        // Its number may be that of a later one.
        self.started != 0 && this.started != 0 && state(self.pid).is_some_and(|(_, started)| started != self.started)
    }
}

/// Whether the process with this number has ended, with its last thread, waited for or not.
#[cfg(target_os = "linux")]
fn is_gone(pid: Pid) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, pidfd_open};
    match pidfd_open(pid, PidfdFlags::empty()) {
        // It can be read once the last thread has ended. A zombie in `/proc` may be the first thread only.
        Ok(process) => {
            let mut ended = [PollFd::new(&process, PollFlags::IN)];
            poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
        }
        // No such process, or no such call here, or the number is now that of a thread.
        Err(_) => test_kill_process(pid) == Err(Errno::SRCH),
    }
}

#[cfg(not(target_os = "linux"))]
fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid) == Err(Errno::SRCH)
}

/// Whether there is a process with this number, at the cost of one system call.
pub(super) fn is_running(pid: u32) -> bool {
    // A process that may not be signalled is there nevertheless.
    as_pid(pid).is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

fn as_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Whether `file`, from which `record` was read, is held.
pub(super) fn is_held(file: &Descriptor, record: &Record, this: Process) -> std::io::Result<bool> {
    if file.is_shown_held()? {
        return Ok(!is_left_behind(record, this));
    }
    if record.shown != 0 {
        return Ok(false);
    }
    // Of an earlier version. The lock of a dead process lives on where a child shares its file, forked past our hooks.
    let unseen = cfg!(target_os = "linux") && this.pid_namespace != WHOLE_MACHINE;
    Ok(record.process().seems_alive() || unseen || (0..READS).any(|_| is_listed(file.identity())))
}

/// Whether a lock that is held is worth nothing: its holder is dead, and only a child that it never passed it to keeps the file open.
///
/// A child never uses the leases of its parent, so nobody is inside.
pub(super) fn is_left_behind(record: &Record, this: Process) -> bool {
    record.shown != 0 && record.passed == 0 && record.process().has_ended(this)
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

/// A number of this run of this machine.
fn boot() -> u64 {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// The number of this process's namespace of a kind.
pub(super) fn namespace(kind: &str) -> u64 {
    rustix::fs::stat(format!("/proc/self/ns/{kind}")).map_or(0, |stat| stat.st_ino)
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
        assert!(this.started > 0 && this.seems_alive() && !this.has_ended(this));
        let earlier = Process { started: this.started + 1, ..this };
        assert!(!earlier.seems_alive() && earlier.has_ended(this));
        assert!(!Process { pid: u32::MAX, ..this }.seems_alive());
    }

    #[test]
    fn a_zombie_holds_nothing() {
        let starting = super::super::scratch::STARTING.lock();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        drop(starting);
        let this = Process::this();
        let process = Process { pid: child.id(), started: 0, ..this };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while process.seems_alive() || !process.has_ended(this) {
            assert!(std::time::Instant::now() < deadline, "it never ended");
            std::thread::yield_now();
        }
        assert!(is_running(process.pid), "it was not waited for yet");
        child.wait().unwrap();
        assert!(process.has_ended(this));
    }

    #[test]
    fn a_number_of_another_namespace_proves_nothing() {
        // No process has this number: Linux ends at 2^22.
        let this = Process::this();
        let dead = Process { pid: 99_999_999, ..this };
        assert!(dead.has_ended(this));
        assert!(
            this.boot > 1 && !Process { boot: this.boot - 1, ..dead }.has_ended(this),
            "of another machine that shares the directory"
        );
        assert!(!Process { pid_namespace: this.pid_namespace + 1, ..dead }.has_ended(this));
        assert!(!Process { time_namespace: this.time_namespace + 1, ..dead }.has_ended(this));
        assert!(!Process { pid_namespace: 0, ..dead }.has_ended(Process { pid_namespace: 0, ..this }), "not known is not the same");
    }

    #[test]
    fn a_process_lives_until_its_last_thread_has_ended() {
        // The first thread of this one ends; `/proc` calls it a zombie while the other sleeps.
        let code = "import ctypes,threading,time\nthreading.Thread(target=time.sleep,args=(60,)).start()\nctypes.CDLL(None).pthread_exit(None)";
        let starting = super::super::scratch::STARTING.lock();
        let mut child = std::process::Command::new("python3").args(["-c", code]).spawn().unwrap();
        drop(starting);
        let this = Process::this();
        let process = Process { pid: child.id(), started: 0, ..this };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while state(process.pid).is_none_or(|(state, _)| state != 'Z') {
            assert!(std::time::Instant::now() < deadline, "its first thread never ended");
            std::thread::yield_now();
        }
        assert!(!process.has_ended(this));
        child.kill().unwrap();
        while !process.has_ended(this) {
            assert!(std::time::Instant::now() < deadline, "killed");
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
