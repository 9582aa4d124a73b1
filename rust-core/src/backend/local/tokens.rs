//! Fencing tokens that rise across processes, crashes and deleted lock files.
//!
//! A number of slot files hold the last token; keys share them by hash, so nothing stays behind per key.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::files::Descriptor;
use crate::fencing::{Token, next_token};

/// Raises the last token of a slot and answers it; `None` while another process is about to do the same.
///
/// The slot has a lock of its own since two keys may share it. It is held for four system calls, yet its holder may be stopped within
/// them: so nobody waits for it here.
pub(super) fn raise(directory: &Path, slot: u8, floor: Token, wall: SystemTime) -> io::Result<Option<Token>> {
    let file = Descriptor::open_or_create(&directory.join(format!("slot-{slot:02x}")))?;
    if !file.try_lock()? {
        return Ok(None);
    }
    // What cannot be read counts as nothing: then the clock and the client's floor keep the token rising.
    let last = std::str::from_utf8(&file.read()?).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let token = next_token(last, floor, wall).ok_or_else(|| io::Error::other("no fencing token is above the last one"))?;
    file.write_at(format!("{token:020}\n").as_bytes(), 0)?;
    // Said aloud, not left to closing: a child that was forked past our hooks may share the file.
    file.unlock()?;
    Ok(Some(token))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::scratch::Scratch;
    use super::*;

    fn at(micros: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
    }

    #[test]
    fn r07_tokens_rise_when_the_wall_clock_steps_back() {
        let scratch = Scratch::new();
        let raise = |floor, wall| raise(scratch.path(), 7, floor, at(wall)).unwrap().unwrap();
        assert_eq!(raise(0, 1_000), 1_000);
        assert_eq!(raise(0, 500), 1_001);
        assert_eq!(raise(9_000, 500), 9_001);
        assert_eq!(raise(0, 0), 9_002);
    }

    #[test]
    fn r07_tokens_rise_when_the_slot_was_deleted_or_spoilt() {
        let scratch = Scratch::new();
        let raise = |wall| raise(scratch.path(), 7, 0, at(wall)).unwrap().unwrap();
        assert_eq!(raise(1_000), 1_000);
        std::fs::write(scratch.path().join("slot-07"), "not a number").unwrap();
        assert_eq!(raise(2_000), 2_000);
        std::fs::remove_file(scratch.path().join("slot-07")).unwrap();
        assert_eq!(raise(3_000), 3_000);
    }

    #[test]
    fn a_slot_in_use_is_not_waited_for() {
        let scratch = Scratch::new();
        let stopped = std::fs::File::create(scratch.path().join("slot-07")).unwrap();
        stopped.try_lock().unwrap();
        assert_eq!(raise(scratch.path(), 7, 0, at(1)).unwrap(), None);
        drop(stopped);
        assert!(raise(scratch.path(), 7, 0, at(1)).unwrap().is_some());
    }
}
