//! One attempt's lock file: finding it, locking it, holding it, letting it go.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::files::Descriptor;
use super::record::{DEADLINE_OFFSET, PASSED_OFFSET, Record, encode_deadline};
use super::turns::Turns;
use super::watch::{Notify, Watch, watch};
use crate::clock::Instant;
use crate::fencing::Token;

/// How often a file may vanish under an attempt before the attempt yields: each time means that somebody else made progress.
const LONGEST_CHASE: u32 = 100;

/// A file that is waited for. It is kept open: opening it for each try would cost the others an event each time.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) file: Descriptor,
    pub(super) watch: Option<Watch>,
}

impl Place {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match Descriptor::create(path)? {
            Some(file) => Some(file),
            None => Descriptor::open(path)?,
        };
        Ok(file.map(|file| Self { file, watch: None }))
    }

    /// Whether the holder's descriptor was closed a moment ago, so that the lock is about to be free.
    pub(super) fn take_closed(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::take_closed)
    }

    fn is_watched(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::is_alive)
    }
}

/// What came of looking for a lock.
#[derive(Debug)]
pub(super) enum Found {
    /// The lock of this file is ours. Whether the file is still the one at its path is not known yet.
    Locked(Descriptor),
    /// Somebody else has it.
    Blocked(Place),
}

/// Tries the lock of the file at `path`, making the file if there is none; `None` if it kept vanishing.
///
/// With `notify`, a blocked place is watched. The order is what makes it safe: watch, then see that the path names this very file, then
/// try. Whatever frees the file after that causes an event.
pub(super) fn seek(path: &Path, mut place: Option<Place>, notify: Option<&Notify>) -> io::Result<Option<Found>> {
    for _ in 0..LONGEST_CHASE {
        let current = match place.take() {
            Some(current) if current.file.is_at(path)? => current,
            _ => match Place::open(path)? {
                Some(opened) => opened,
                None => continue,
            },
        };
        if current.file.try_lock()? {
            return Ok(Some(Found::Locked(current.file)));
        }
        let Some(notify) = notify.filter(|_| !current.is_watched()) else {
            if current.file.is_at(path)? {
                return Ok(Some(Found::Blocked(current)));
            }
            continue;
        };
        // Before the watch, which would report it.
        current.file.mark_waited()?;
        let watch = watch(path, notify.clone());
        if watch.is_none() {
            return Ok(Some(Found::Blocked(current)));
        }
        place = Some(Place { watch, ..current });
    }
    Ok(None)
}

/// A lock that is held.
#[derive(Debug)]
pub(super) struct Holding {
    file: Descriptor,
    /// For writing, where the lock was taken on a file that somebody else had made. Open until the end: its closing is what tells
    /// waiters of a crash.
    writer: Option<Descriptor>,
    pub(super) token: Token,
    pub(super) deadline: Instant,
    /// When this client's turn at the key began.
    began: std::time::Instant,
}

impl Holding {
    /// Writes the record into a locked file; `None` if the file is no longer the one at `path`: then the lock is worth nothing.
    ///
    /// Called with the key's [`Slot`](super::tokens::Slot) locked: in between nobody may unlink the file for that of a dead holder.
    pub(super) fn begin(path: &Path, file: Descriptor, mut record: Record, turns: &mut Turns) -> io::Result<Option<Self>> {
        let Some(empty) = file.empty_at(path)? else { return Ok(None) };
        let writer = if file.is_writable() { None } else { Descriptor::open_writable(path)? };
        if !file.is_writable() && writer.as_ref().is_none_or(|writer| writer.identity() != file.identity()) {
            return Ok(None);
        }
        record.shown = u8::from(file.show_held()?);
        let bytes = record.encode();
        let target = writer.as_ref().unwrap_or(&file);
        // A new file is the common case, and a truncation makes ext4 flush the file when it is closed.
        if !empty {
            target.truncate()?;
        }
        target.write_at(&bytes, 0)?;
        let began = turns.begin(&record.key, std::time::Instant::now());
        Ok(Some(Self { file, writer, token: record.token, deadline: record.deadline, began }))
    }

    pub(super) fn began(&self) -> std::time::Instant {
        self.began
    }

    /// Whether `path` still names the held file. If not, the key was taken away.
    pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.file.is_at(path)
    }

    /// Shows others a new deadline.
    pub(super) fn show_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
        let writer = self.writer.as_ref().unwrap_or(&self.file);
        // The deadline is for display: a full disk must not cost a lease.
        let _ = writer.write_at(encode_deadline(deadline).as_bytes(), DEADLINE_OFFSET);
    }

    /// The open files again, for another process: the one with the lock, and the one whose closing tells waiters of a crash.
    pub(super) fn pass_on(&self) -> io::Result<Vec<OwnedFd>> {
        // Written first: from now on our end does not prove that nobody is inside.
        self.writer.as_ref().unwrap_or(&self.file).write_at(b"1", PASSED_OFFSET)?;
        std::iter::once(&self.file).chain(&self.writer).map(Descriptor::copy).collect()
    }

    /// Frees the key; `Some(true)` if others wait for it, `None` if it had been taken away.
    pub(super) fn end(self, path: &Path) -> io::Result<Option<bool>> {
        let waited = self.file.waited_at(path)?;
        let_go(path, &self.file, waited.is_some());
        Ok(waited)
    }
}

/// Unlocks a file of ours, unlinking it first if `path` names it.
///
/// Unlinked first: waiters are told of that, see that the path no longer names their file, and make a new one; so the key changes hands
/// even where a forked child shares our open file. Were it unlocked first, somebody could take it before it is unlinked.
pub(super) fn let_go(path: &Path, file: &Descriptor, at_path: bool) {
    let unlinked = at_path && std::fs::remove_file(path).is_ok();
    // Not left to closing: a child that was forked past our hooks may share the file.
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

    fn held(path: &Path) -> Option<Holding> {
        let record = Record {
            owner: "s:1".into(),
            token: 1,
            pid: std::process::id(),
            started: 0,
            namespace: "n".into(),
            key: "k".into(),
            note: "{}".into(),
            ..Record::default()
        };
        Holding::begin(path, locked(path), record, &mut Turns::default()).unwrap()
    }

    #[test]
    fn r13_a_release_frees_the_key_though_a_child_shares_the_open_file() {
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        let file = locked(&path);
        let childs = file.share();
        let waiting = match seek(&path, None, None).unwrap().unwrap() {
            Found::Blocked(place) => place,
            Found::Locked(_) => panic!("held twice"),
        };
        let_go(&path, &file, true);
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
        let Some(Found::Blocked(place)) = seek(&path, None, None).unwrap() else { panic!("held twice") };
        assert_eq!(first.end(&path).unwrap(), Some(false));
        let second = held(&path).unwrap();
        let before = place.file.identity();
        let Some(Found::Blocked(place)) = seek(&path, Some(place), None).unwrap() else { panic!("held twice") };
        assert_ne!(place.file.identity(), before);
        assert_eq!(second.end(&path).unwrap(), Some(false));
    }

    #[test]
    fn a_file_that_a_crash_left_is_taken_over_and_written_anew() {
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        std::fs::write(&path, "x".repeat(5_000)).unwrap();
        let holding = held(&path).unwrap();
        assert!(holding.writer.is_some());
        assert_eq!(Record::decode(&std::fs::read(&path).unwrap()).unwrap().token, 1);
        assert_eq!(holding.end(&path).unwrap(), Some(false));
        assert!(!path.exists());
    }

    /// Freed before the watch is there, nobody would be told: so the lock is tried once more after.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn r08_what_frees_the_key_while_it_is_sought_is_seen() {
        let scratch = Scratch::new();
        for round in 0..600 {
            let path = scratch.path().join(format!("lock-{round}"));
            let (holder, start) = (locked(&path), Arc::new(Barrier::new(2)));
            let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
            let notify: Notify = Arc::new(move || {
                let _ = told.send(());
            });
            let releasing = std::thread::spawn({
                let start = start.clone();
                move || {
                    start.wait();
                    // A little later each time, over what a search takes. As when its process dies: the file stays.
                    (0..round % 100 * 20).for_each(|_| std::hint::spin_loop());
                    drop(holder);
                }
            });
            start.wait();
            // Where the file vanished before it could be watched, the waiter polls.
            if let Found::Blocked(Place { watch: Some(_watch), .. }) = seek(&path, None, Some(&notify)).unwrap().unwrap() {
                tokio::time::timeout(Duration::from_secs(5), heard.recv()).await.expect("it is told");
            }
            releasing.join().unwrap();
        }
    }
}
