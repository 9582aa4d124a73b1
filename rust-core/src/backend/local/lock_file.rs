//! The lock file of one attempt: find it, lock it, hold it, unlock it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::files::Descriptor;
use super::hub::Notify;
use super::recent_holds::RecentHolds;
use super::record::{DEADLINE_OFFSET, HolderRecord, PASSED_OFFSET, encode_deadline};
use super::watch::{Watch, watch};
use crate::clock::Instant;
use crate::fencing::Token;

/// How often a file may vanish during one search before the attempt yields. Each time means that somebody else made progress.
const LONGEST_CHASE: u32 = 100;

/// A lock file that an attempt waits for. It stays open, because opening it for each try would wake the other waiters each time.
#[derive(Debug)]
pub(super) struct LockFile {
    pub(super) descriptor: Descriptor,
    pub(super) watch: Option<Watch>,
}

impl LockFile {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let descriptor = match Descriptor::create(path)? {
            Some(created) => Some(created),
            None => Descriptor::open(path)?,
        };
        Ok(descriptor.map(|descriptor| Self { descriptor, watch: None }))
    }

    /// Whether the holder's descriptor was closed since the last call, so that the lock is about to be free.
    pub(super) fn take_writer_closed(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::take_writer_closed)
    }

    fn is_watched(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::is_alive)
    }
}

/// The result of a search for a lock.
#[derive(Debug)]
pub(super) enum Found {
    /// We have the lock of this file. Whether the path still names the file is not known yet.
    Locked(Descriptor),
    /// Somebody else has the lock.
    Blocked(LockFile),
}

/// Tries the lock of the file at `path`, and makes the file if there is none; `None` if the file kept vanishing.
///
/// With `notify`, a blocked file is watched. The order makes this safe: watch the file, then check that the path still names it, then try
/// the lock. Whatever frees the file after that causes an event.
pub(super) fn seek(path: &Path, mut waited_for: Option<LockFile>, notify: Option<&Notify>) -> io::Result<Option<Found>> {
    for _ in 0..LONGEST_CHASE {
        let current = match waited_for.take() {
            Some(current) if current.descriptor.is_at(path)? => current,
            _ => match LockFile::open(path)? {
                Some(opened) => opened,
                None => continue,
            },
        };
        if current.descriptor.try_lock()? {
            return Ok(Some(Found::Locked(current.descriptor)));
        }
        let Some(notify) = notify.filter(|_| !current.is_watched()) else {
            if current.descriptor.is_at(path)? {
                return Ok(Some(Found::Blocked(current)));
            }
            continue;
        };
        // Marked before it is watched, since the watch would report the mark.
        current.descriptor.mark_waited()?;
        let watch = watch(path, notify.clone());
        if watch.is_none() {
            return Ok(Some(Found::Blocked(current)));
        }
        waited_for = Some(LockFile { watch, ..current });
    }
    Ok(None)
}

/// A lock that we hold.
#[derive(Debug)]
pub(super) struct HeldLock {
    file: Descriptor,
    /// A descriptor that can write, where the lock was taken on a file that somebody else had made. It stays open until the end, because
    /// its closing notifies waiters of a crash.
    writer: Option<Descriptor>,
    pub(super) token: Token,
    pub(super) deadline: Instant,
    run_began: std::time::Instant,
}

impl HeldLock {
    /// Writes the record into a locked file; `None` if the path no longer names the file, whose lock is then worth nothing.
    ///
    /// The caller has the key's [`TokenSlot`](super::tokens::TokenSlot) locked, so nobody can unlink the file meanwhile as that of a dead
    /// holder.
    pub(super) fn begin(
        path: &Path,
        file: Descriptor,
        mut record: HolderRecord,
        recent_holds: &mut RecentHolds,
    ) -> io::Result<Option<Self>> {
        let Some(empty) = file.empty_at(path)? else { return Ok(None) };
        let writer = if file.is_writable() { None } else { Descriptor::open_writable(path)? };
        if !file.is_writable() && writer.as_ref().is_none_or(|writer| writer.identity() != file.identity()) {
            return Ok(None);
        }
        record.shown = u8::from(file.show_held()?);
        let bytes = record.encode();
        let target = writer.as_ref().unwrap_or(&file);
        // Most files are new and empty, and a truncation makes ext4 flush the file when it is closed.
        if !empty {
            target.truncate()?;
        }
        target.write_at(&bytes, 0)?;
        let run_began = recent_holds.run_began(&record.key, std::time::Instant::now());
        Ok(Some(Self { file, writer, token: record.token, deadline: record.deadline, run_began }))
    }

    /// When the run of holds began that this one belongs to: see [`RecentHolds`].
    pub(super) fn run_began(&self) -> std::time::Instant {
        self.run_began
    }

    /// Whether `path` still names the held file. If not, the key was taken away.
    pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.file.is_at(path)
    }

    /// Shows others a new deadline.
    pub(super) fn show_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
        let writer = self.writer.as_ref().unwrap_or(&self.file);
        // An error is ignored: the deadline is for display, and a full disk must not cost a lease.
        let _ = writer.write_at(encode_deadline(deadline).as_bytes(), DEADLINE_OFFSET);
    }

    /// Copies of the open files for another process: the one with the lock, and the one whose closing notifies waiters of a crash.
    pub(super) fn pass_on(&self) -> io::Result<Vec<OwnedFd>> {
        // Written first: from now on the end of our process does not prove that nobody is in the critical section.
        self.writer.as_ref().unwrap_or(&self.file).write_at(b"1", PASSED_OFFSET)?;
        std::iter::once(&self.file).chain(&self.writer).map(Descriptor::copy).collect()
    }

    /// Frees the key; `Some(true)` if others wait for it, `None` if it had been taken away.
    pub(super) fn release(self, path: &Path) -> io::Result<Option<bool>> {
        let waited_for = self.file.waited_at(path)?;
        unlock(path, &self.file, waited_for.is_some());
        Ok(waited_for)
    }
}

/// Unlocks a file of ours, and unlinks it first if `path` names it.
///
/// The unlink comes first: it notifies the waiters, who see that the path no longer names their file and make a new one. So the key changes
/// hands even where a forked child shares our open file. If the unlock came first, somebody could lock the file before it is unlinked.
pub(super) fn unlock(path: &Path, file: &Descriptor, at_path: bool) {
    let unlinked = at_path && std::fs::remove_file(path).is_ok();
    // Closing the file would not be enough: a child that was forked past our hooks may share it.
    let _ = file.unlock();
    if at_path && !unlinked {
        let _ = file.touch();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};
    use std::time::Duration;

    use super::super::scratch::Scratch;
    use super::*;

    fn locked(path: &Path) -> Descriptor {
        match seek(path, None, None).unwrap().unwrap() {
            Found::Locked(file) => file,
            Found::Blocked(_) => panic!("blocked"),
        }
    }

    fn held(path: &Path) -> Option<HeldLock> {
        let record = HolderRecord {
            owner: "s:1".into(),
            token: 1,
            pid: std::process::id(),
            started: 0,
            namespace: "n".into(),
            key: "k".into(),
            note: "{}".into(),
            ..HolderRecord::default()
        };
        HeldLock::begin(path, locked(path), record, &mut RecentHolds::default()).unwrap()
    }

    #[test]
    fn r13_a_release_frees_the_key_though_a_child_shares_the_open_file() {
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        let file = locked(&path);
        let childs = file.share();
        let waiting = match seek(&path, None, None).unwrap().unwrap() {
            Found::Blocked(file) => file,
            Found::Locked(_) => panic!("held twice"),
        };
        unlock(&path, &file, true);
        drop(file);
        assert!(matches!(seek(&path, Some(waiting), None).unwrap(), Some(Found::Locked(_))));
        drop(childs);
    }

    #[test]
    fn a_lock_on_a_file_that_was_unlinked_meanwhile_is_no_grant() {
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        let file = locked(&path);
        std::fs::remove_file(&path).unwrap();
        let successor = held(&path).expect("the key is free");
        assert!(!file.is_at(&path).unwrap());
        drop(file);
        assert!(successor.is_at(&path).unwrap());
    }

    #[test]
    fn a_waiter_finds_the_file_that_replaced_its_own() {
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        let first = held(&path).unwrap();
        let Some(Found::Blocked(file)) = seek(&path, None, None).unwrap() else { panic!("held twice") };
        assert_eq!(first.release(&path).unwrap(), Some(false));
        let second = held(&path).unwrap();
        let before = file.descriptor.identity();
        let Some(Found::Blocked(file)) = seek(&path, Some(file), None).unwrap() else { panic!("held twice") };
        assert_ne!(file.descriptor.identity(), before);
        assert_eq!(second.release(&path).unwrap(), Some(false));
    }

    #[test]
    fn a_file_that_a_crash_left_is_taken_over_and_written_anew() {
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        std::fs::write(&path, "x".repeat(5_000)).unwrap();
        let lock = held(&path).unwrap();
        assert!(lock.writer.is_some());
        assert_eq!(HolderRecord::decode(&std::fs::read(&path).unwrap()).unwrap().token, 1);
        assert_eq!(lock.release(&path).unwrap(), Some(false));
        assert!(!path.exists());
    }

    /// A release before the watch exists would notify nobody, so the lock is tried once more after it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn r08_a_release_during_the_search_is_noticed() {
        let scratch = Scratch::new();
        for round in 0..600 {
            let path = scratch.path().join(format!("lock-{round}"));
            let (holder, start) = (locked(&path), Arc::new(Barrier::new(2)));
            let (notified, mut notifications) = tokio::sync::mpsc::unbounded_channel();
            let notify: Notify = Arc::new(move || {
                let _ = notified.send(());
            });
            let releasing = std::thread::spawn({
                let start = start.clone();
                move || {
                    start.wait();
                    // A little later each time, over the time that a search takes. As when the holder's process dies, the file stays.
                    (0..round % 100 * 20).for_each(|_| std::hint::spin_loop());
                    drop(holder);
                }
            });
            start.wait();
            // A waiter polls if the file vanished before it could be watched.
            if let Found::Blocked(LockFile { watch: Some(_watch), .. }) = seek(&path, None, Some(&notify)).unwrap().unwrap() {
                tokio::time::timeout(Duration::from_secs(5), notifications.recv()).await.expect("a notification");
            }
            releasing.join().unwrap();
        }
    }
}
