//! A temporary directory for one test.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Locked by tests that start a process, and by tests that check when a file's lock ends: until a new process executes another program, it
/// shares all open files of this one, and their locks.
pub(super) static STARTING: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Removed with its contents when dropped.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dlock-unit-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}
