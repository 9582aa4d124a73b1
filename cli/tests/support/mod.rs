//! Runs the real binary in a temporary directory.

// Every test file is a separate crate and uses a part of this.
#![allow(dead_code, unreachable_pub)]

pub mod redis;
#[path = "../../../rust-core/tests/support/starting.rs"]
pub mod starting;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Long enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
const DLOCK: &str = env!("CARGO_BIN_EXE_dlock");

/// Waits until a condition holds.
pub fn eventually(what: impl Display, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A directory for files and, with `local:`, for locks.
pub struct Scratch {
    path: PathBuf,
    url: String,
}

impl Scratch {
    /// A scratch directory on `local:`.
    pub fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dlock-cli-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let url = format!("local://{}", path.join("locks").display());
        Self { path, url }
    }

    /// A scratch directory on another backend.
    pub fn on(url: impl Into<String>) -> Self {
        let mut scratch = Self::new();
        scratch.url = url.into();
        scratch
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The content of a file; empty if there is none.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn wait_for(&self, name: &str) {
        eventually(format_args!("{name} appears"), || self.path(name).exists());
    }

    /// `dlock` with these arguments, working here.
    pub fn dlock(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(DLOCK);
        command.args(arguments);
        self.prepare(command)
    }

    /// `dlock run k` with options and a shell script as the command.
    pub fn run(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.dlock(&["run", "k"]);
        command.args(options).args(["--", "sh", "-c", script]);
        command
    }

    /// Another program, which finds the binary in `$DLOCK`.
    pub fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        self.prepare(command)
    }

    fn prepare(&self, mut command: Command) -> Command {
        command.current_dir(&self.path).env("DLOCK_URL", &self.url).env("DLOCK", DLOCK).env_remove("DLOCK_LOG");
        command.stdin(Stdio::null());
        command
    }

    /// The token of the holder of `k`.
    pub fn token(&self) -> String {
        let shown = self.dlock(&["inspect", "k"]).output().unwrap();
        let shown = text(&shown.stdout);
        shown.split("token ").nth(1).unwrap_or_else(|| panic!("not held: {shown}")).split(')').next().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A process that does not outlive its test.
pub struct Process {
    child: Child,
    said: PathBuf,
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        // A file, since the end of a pipe comes only when all descendants have ended.
        let said = format!("dlock-cli-stderr-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let said = std::env::temp_dir().join(said);
        let stderr = std::fs::File::create(&said).unwrap();
        Self { child: command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap(), said }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Whether it has blocked its signals, as `dlock run` does before it asks for the key.
    pub fn blocks_signals(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_nonzero())).unwrap();
        status.lines().any(|line| line.strip_prefix("SigBlk:\t").is_some_and(|mask| mask != "0000000000000000"))
    }

    /// Waits for its end; the exit code and stderr.
    pub fn end(mut self) -> (ExitStatus, String) {
        eventually("the process ends", || self.child.try_wait().unwrap().is_some());
        (self.child.wait().unwrap(), std::fs::read_to_string(&self.said).unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.said);
    }
}

/// Exit code, stdout, stderr.
pub fn outcome(mut command: Command) -> (i32, String, String) {
    outcome_of(&mut command)
}

/// The [`outcome`] of a command, with changes to it first.
pub fn outcome_of(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap_or(-1), text(&stdout), text(&stderr))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether the process named in a file runs.
pub fn is_alive(file: &Path) -> bool {
    let number = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    let Some(pid) = Pid::from_raw(number) else { return false };
    // A zombie does not run any more.
    let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
    test_kill_process(pid).is_ok() && !stat.contains(") Z ")
}
