//! Lock files that only a dead holder's child keeps locked.
//!
//! A fork that the language's hooks do not see gives the child a copy of the open file, and with it the lock, which then outlives its holder.
//! The child never uses the lock. So once the holder is proved dead, the file is unlinked, and the next holder makes a new one.
//!
//! Nobody can become the holder of a file that is unlinked here. A new holder finds the file at its path and writes its record into it, both
//! while it has the key's slot locked ([`HeldLock::begin`](super::lock_file::HeldLock::begin)). Here the same slot is
//! locked while the record at the path is read, its writer is proved dead, and the file is unlinked. In between the path can at most come to
//! name a new file, whose maker has yet to lock the slot and will then find the file gone.

use std::io;
use std::path::Path;

use super::files::Descriptor;
use super::locks;
use super::process::Process;
use super::record::HolderRecord;
use super::tokens::TokenSlot;
use crate::observe::logs::target;

/// Unlinks the file at `path` if its holder is dead; false if not, or while another process is in the slot.
pub(super) fn free(directory: &Path, slot: u8, path: &Path, this: Process) -> io::Result<bool> {
    let Some(_slot) = TokenSlot::lock(directory, slot)? else { return Ok(false) };
    let Some(file) = Descriptor::open(path)? else { return Ok(false) };
    let Some(record) = HolderRecord::decode(&file.read()?) else { return Ok(false) };
    // A holder without the second lock is of an earlier version, and may be about to write its own record.
    if !file.is_shown_held()? || !locks::is_left_behind(&record, this) || !file.is_at(path)? {
        return Ok(false);
    }
    std::fs::remove_file(path)?;
    tracing::debug!(
        target: target::LOCAL_LEFT_BEHIND,
        key = %record.key,
        pid = record.pid,
        "local: freed a key whose holder is dead: a child of the holder keeps the lock file open"
    );
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::scratch::{STARTING, Scratch};
    use super::*;

    /// A lock whose holder has ended while a child of it keeps the file open.
    fn leave(path: &Path, record: &HolderRecord) -> Descriptor {
        let childs = Descriptor::create(path).unwrap().unwrap();
        assert!(childs.try_lock().unwrap());
        if record.shown != 0 {
            childs.show_held().unwrap();
        }
        childs.write_at(&record.encode(), 0).unwrap();
        childs
    }

    fn dead(this: Process) -> HolderRecord {
        // No process has this number: Linux ends at 2^22.
        let Process { boot, pid_namespace, time_namespace, .. } = this;
        HolderRecord {
            owner: "s:1".into(),
            token: 1,
            pid: 99_999_999,
            shown: 1,
            boot,
            pid_namespace,
            time_namespace,
            ..HolderRecord::default()
        }
    }

    #[test]
    fn only_a_lock_that_a_dead_holder_passed_to_nobody_is_freed() {
        let _no_process_starts = STARTING.lock();
        let this = Process::this();
        let kept = [
            ("its holder lives", HolderRecord { pid: this.pid, started: this.started, ..dead(this) }),
            ("it was passed on", HolderRecord { passed: 1, ..dead(this) }),
            ("of an earlier version", HolderRecord { shown: 0, ..dead(this) }),
            ("of another pid namespace", HolderRecord { pid_namespace: this.pid_namespace + 1, ..dead(this) }),
        ];
        for (why, record) in kept {
            let scratch = Scratch::new();
            let path = scratch.path().join("lock");
            let childs = leave(&path, &record);
            assert!(!free(scratch.path(), 7, &path, this).unwrap() && path.exists(), "{why}");
            let reader = Descriptor::open(&path).unwrap().unwrap();
            assert!(locks::is_held(&reader, &record, this).unwrap(), "{why}: and it is shown so");
            drop(childs);
        }
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        let childs = leave(&path, &dead(this));
        let slot = TokenSlot::lock(scratch.path(), 7).unwrap();
        assert!(!free(scratch.path(), 7, &path, this).unwrap() && path.exists(), "somebody is about to become the holder");
        drop(slot);
        assert!(free(scratch.path(), 7, &path, this).unwrap() && !path.exists());
        drop(childs);
    }

    /// Somebody else may be an earlier version that took the stale file over and is about to write its record.
    #[test]
    fn a_lock_of_somebody_else_than_the_dead_holder_is_not_freed() {
        let _no_process_starts = STARTING.lock();
        let (scratch, this) = (Scratch::new(), Process::this());
        let path = scratch.path().join("lock");
        std::fs::write(&path, dead(this).encode()).unwrap();
        let successor = std::fs::File::open(&path).unwrap();
        successor.try_lock().unwrap();
        assert!(!free(scratch.path(), 7, &path, this).unwrap() && path.exists());
    }
}
