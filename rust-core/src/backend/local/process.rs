//! Whether a process that wrote a record is still alive.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// A process, told apart from a later one with the same number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// When it started, in clock ticks since boot; zero where that cannot be read.
    pub(super) started: u64,
    /// The scope of these two numbers: one boot of one machine, and its namespaces. Zero where that cannot be read.
    pub(super) boot: u64,
    pub(super) pid_namespace: u64,
    pub(super) time_namespace: u64,
}

impl Process {
    pub(super) fn this() -> Self {
        let pid = std::process::id();
        // `/proc` may show another namespace, in which our number belongs to another process.
        let is_ours = std::fs::read_link("/proc/self").is_ok_and(|link| link.to_str() == Some(&pid.to_string()));
        let started = if is_ours { state(pid).map_or(0, |(_, started)| started) } else { 0 };
        Self { pid, started, boot: boot(), pid_namespace: namespace("pid"), time_namespace: namespace("time") }
    }

    /// Whether it seems to run. A zombie does not, since its files are closed. Good enough for display, not to take a lock away.
    pub(super) fn seems_alive(self) -> bool {
        is_running(self.pid)
            && state(self.pid).is_none_or(|(state, started)| state != 'Z' && (self.started == 0 || self.started == started))
    }

    /// Whether `this` process can prove that it has ended, with all its threads. False where that cannot be proved.
    pub(super) fn has_ended(self, this: Self) -> bool {
        let scope = |process: Self| (process.boot, process.pid_namespace, process.time_namespace);
        // A number that no process has here may be that of a live process elsewhere.
        if self.boot == 0 || self.pid_namespace == 0 || scope(self) != scope(this) {
            return false;
        }
        let Some(pid) = as_pid(self.pid) else { return false };
        if is_gone(pid) {
            return true;
        }
        // The number may belong to a later process.
        self.started != 0 && this.started != 0 && state(self.pid).is_some_and(|(_, started)| started != self.started)
    }
}

/// Whether the process with this number has ended, including its last thread, whether or not its parent has waited for it.
#[cfg(target_os = "linux")]
fn is_gone(pid: Pid) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, pidfd_open};
    match pidfd_open(pid, PidfdFlags::empty()) {
        // The descriptor becomes readable when the last thread has ended. A zombie in `/proc` may be the first thread only.
        Ok(process) => {
            let mut ended = [PollFd::new(&process, PollFlags::IN)];
            poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
        }
        // No such process, or no such system call here, or the number now belongs to a thread.
        Err(_) => test_kill_process(pid) == Err(Errno::SRCH),
    }
}

#[cfg(not(target_os = "linux"))]
fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid) == Err(Errno::SRCH)
}

/// Whether there is a process with this number, at the cost of one system call.
pub(super) fn is_running(pid: u32) -> bool {
    // A process that we may not signal exists all the same.
    as_pid(pid).is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

fn as_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// A number for this boot of this machine.
fn boot() -> u64 {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// The number of this process's namespace of that kind.
pub(super) fn namespace(kind: &str) -> u64 {
    rustix::fs::stat(format!("/proc/self/ns/{kind}")).map_or(0, |stat| stat.st_ino)
}

/// A process's state and when it started, from `/proc`.
fn state(pid: u32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The process's name comes before and may contain anything, brackets and spaces included.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(is_running(process.pid), "its parent has not waited for it");
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
