//! Reads who holds a lock file, and takes a key away from its holder.

use std::path::Path;
use std::time::Duration;

use super::files::{Descriptor, FileIdentity};
use super::process::Process;
use super::record::HolderRecord;
use super::{locks, names, tokens};
use crate::backend::Whom;
use crate::clock::Instant;
use crate::holder::Holder;

/// How often a record that seems half written is read, and the pause between.
const READS: u32 = 4;
const READ_PAUSE: Duration = Duration::from_millis(1);

/// How often a forced release asks for the key's slot, with the same pause.
const SLOT_TRIES: u32 = 200;

/// A lock file that somebody holds.
pub(super) struct HeldFile {
    identity: FileIdentity,
    /// `None` if it cannot be read.
    record: Option<HolderRecord>,
}

impl HeldFile {
    /// The holder, as far as its record shows.
    pub(super) fn holder(self, now: Instant) -> Holder {
        match self.record {
            Some(record) => record.holder(now),
            None => Holder { owner: "unknown".to_owned(), ..Holder::default() },
        }
    }
}

/// The file at `path`, if somebody holds it.
pub(super) fn read_held(path: &Path, this: Process) -> std::io::Result<Option<HeldFile>> {
    for round in 0..READS {
        let Some(file) = Descriptor::open(path)? else { return Ok(None) };
        let identity = file.identity();
        if let Some(record) = HolderRecord::decode(&file.read()?) {
            return Ok(locks::is_held(&file, &record, this)?.then_some(HeldFile { identity, record: Some(record) }));
        }
        if round + 1 < READS {
            // The record is half written, and its holder finishes within microseconds. This thread may block.
            std::thread::sleep(READ_PAUSE);
        } else if file.is_shown_held()? {
            return Ok(Some(HeldFile { identity, record: None }));
        }
    }
    Ok(None)
}

/// The records of all held lock files, by key.
pub(super) fn read_all(directory: &Path, this: Process) -> std::io::Result<Vec<HolderRecord>> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(names::is_lock_file) {
            records.extend(read_held(&entry.path(), this)?.and_then(|held| held.record));
        }
    }
    records.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(records)
}

/// Unlinks the file that `whom` holds; false if `whom` does not hold it.
pub(super) fn take_away(directory: &Path, slot: u8, path: &Path, whom: &Whom, this: Process) -> std::io::Result<bool> {
    // With the slot locked nobody can become the holder between the look and the unlink. If the slot stays busy we go on without it: a
    // process that is stopped while it has the slot must not protect a holder.
    let mut locked = tokens::TokenSlot::lock(directory, slot)?;
    for _ in 0..SLOT_TRIES {
        if locked.is_some() {
            break;
        }
        std::thread::sleep(READ_PAUSE);
        locked = tokens::TokenSlot::lock(directory, slot)?;
    }
    let Some(HeldFile { identity, record: Some(record) }) = read_held(path, this)? else { return Ok(false) };
    let is_meant = match whom {
        Whom::Token(token) => record.token == *token,
        Whom::Owner(owner) => record.owner == *owner,
    };
    // Checked once more right before the unlink, which must not hit the file of a successor.
    if !is_meant || FileIdentity::at(path)? != Some(identity) {
        return Ok(false);
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        other => other.map(|()| true),
    }
}
