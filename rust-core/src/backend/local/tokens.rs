//! Fencing tokens that rise across processes, crashes and deleted lock files.
//!
//! The last token is stored in one of 256 slot files, which keys share by hash, so that nothing is left behind for each key.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::files::Descriptor;
use crate::fencing::{Token, next_token};

/// A locked slot. Dropping it unlocks the slot.
///
/// It also serialises two steps: a process becomes the holder of a key only while it has the key's slot locked, and so does one that unlinks
/// the lock file of a dead holder.
#[derive(Debug)]
pub(super) struct TokenSlot(Descriptor);

impl TokenSlot {
    /// Locks a slot; `None` while another process has it locked.
    ///
    /// A slot is locked for a few system calls only, but a process may be stopped within them: therefore nobody waits for it here.
    pub(super) fn lock(directory: &Path, slot: u8) -> io::Result<Option<Self>> {
        let path = directory.join(format!("slot-{slot:02x}"));
        let file = match Descriptor::open_or_create(&path) {
            Ok(file) if file.is_regular() => file,
            // A directory, a link, a pipe, or a file that its owner may not read: dlock makes no slot like that.
            Ok(_) | Err(_) if is_spoilt(&path) => {
                clear(&path)?;
                Descriptor::open_or_create(&path)?
            }
            Ok(_) => return Err(io::Error::other(format!("{} is no regular file", path.display()))),
            Err(error) => return Err(error),
        };
        Ok(file.try_lock()?.then_some(Self(file)))
    }

    /// Draws the next token, stores it as the last one, and returns it.
    pub(super) fn raise(&self, floor: Token, wall: SystemTime) -> io::Result<Token> {
        let stored = self.0.read()?;
        // Text that is no token counts as none: the clock and the client's floor then keep the token rising.
        let last = read(&stored).unwrap_or(0);
        let token = next_token(last, floor, wall).ok_or_else(|| io::Error::other("no fencing token is above the last one"))?;
        let text = format!("{token:020}\n");
        if stored.len() > text.len() {
            self.0.truncate()?;
        }
        self.0.write_at(text.as_bytes(), 0)?;
        Ok(token)
    }
}

impl Drop for TokenSlot {
    fn drop(&mut self) {
        // Closing would not be enough: a child that was forked past our hooks may share the file.
        let _ = self.0.unlock();
    }
}

/// The number in the first line.
fn read(stored: &[u8]) -> Option<Token> {
    let line = stored.split(|byte| *byte == b'\n').next()?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

/// Whether `path` names something that cannot be a slot: no regular file, or one that its owner may not read and write.
fn is_spoilt(path: &Path) -> bool {
    use rustix::fs::{FileType, Mode};
    rustix::fs::lstat(path).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            || !Mode::from_raw_mode(stat.st_mode).contains(Mode::RUSR | Mode::WUSR)
    })
}

/// Moves whatever is at `path` out of the way. A directory that is not empty belongs to somebody else, and is kept under another name.
fn clear(path: &Path) -> io::Result<()> {
    let removed = if std::fs::symlink_metadata(path)?.is_dir() { std::fs::remove_dir(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            std::fs::rename(path, path.with_extension(format!("spoilt-{}", now.as_micros())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::scratch::Scratch;
    use super::*;
    use crate::fencing::MAX_TOKEN;

    fn at(micros: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
    }

    fn raise(scratch: &Scratch, floor: Token, wall: u64) -> Token {
        TokenSlot::lock(scratch.path(), 7).unwrap().unwrap().raise(floor, at(wall)).unwrap()
    }

    #[test]
    fn r07_tokens_rise_when_the_wall_clock_steps_back() {
        let scratch = Scratch::new();
        assert_eq!(raise(&scratch, 0, 1_000), 1_000);
        assert_eq!(raise(&scratch, 0, 500), 1_001);
        assert_eq!(raise(&scratch, 9_000, 500), 9_001);
        assert_eq!(raise(&scratch, 0, 0), 9_002);
    }

    #[test]
    fn r07_a_spoilt_slot_counts_as_none_and_is_repaired() {
        let above = (1_u64 << 52).to_string();
        let unsafe_in_javascript = ((1_u64 << 53) + 1).to_string();
        let (huge, garbage) = (vec![b'7'; 3_000_000], [b'x'; 4_096]);
        let spoilt: [&[u8]; 12] = [
            b"",
            b"not a number",
            b"-5\n",
            b"1.5e15\n",
            b"\xff\xfe\n",
            b"\n\n1\n",
            b"18446744073709551615\n",
            b"99999999999999999999999\n",
            above.as_bytes(),
            unsafe_in_javascript.as_bytes(),
            &huge,
            &garbage,
        ];
        for content in spoilt {
            let scratch = Scratch::new();
            assert_eq!(raise(&scratch, 0, 1_000), 1_000);
            std::fs::write(scratch.path().join("slot-07"), content).unwrap();
            assert_eq!(raise(&scratch, 0, 2_000), 2_000);
            assert_eq!(raise(&scratch, 0, 0), 2_001, "the spoilt text is not remembered");
        }
    }

    #[test]
    fn r07_something_that_is_no_file_in_place_of_a_slot_is_moved_out_of_the_way() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let spoil: [fn(&Path); 6] = [
            |path| std::fs::remove_file(path).unwrap(),
            |path| (std::fs::remove_file(path).unwrap(), std::fs::create_dir(path).unwrap()).1,
            |path| {
                std::fs::remove_file(path).unwrap();
                std::fs::create_dir_all(path.join("somebody's/things")).unwrap();
            },
            |path| (std::fs::remove_file(path).unwrap(), symlink("nowhere", path).unwrap()).1,
            |path| {
                std::fs::remove_file(path).unwrap();
                drop(std::os::unix::net::UnixListener::bind(path).unwrap());
            },
            |path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o000)).unwrap(),
        ];
        for spoil in spoil {
            let scratch = Scratch::new();
            assert_eq!(raise(&scratch, 0, 1_000), 1_000);
            spoil(&scratch.path().join("slot-07"));
            assert_eq!(raise(&scratch, 0, 2_000), 2_000);
            assert_eq!(raise(&scratch, 0, 0), 2_001);
        }
    }

    #[test]
    fn r07_a_floor_that_is_no_token_is_none() {
        let scratch = Scratch::new();
        assert_eq!(raise(&scratch, MAX_TOKEN + 1, 1_000), 1_000);
        assert_eq!(raise(&scratch, u64::MAX, 500), 1_001);
    }

    #[test]
    fn r07_a_token_that_cannot_rise_is_refused_and_not_stored() {
        let scratch = Scratch::new();
        std::fs::write(scratch.path().join("slot-07"), format!("{MAX_TOKEN:020}\n")).unwrap();
        let slot = TokenSlot::lock(scratch.path(), 7).unwrap().unwrap();
        for floor in [0, 5, MAX_TOKEN] {
            assert!(slot.raise(floor, at(1_000)).unwrap_err().to_string().contains("no fencing token is above"));
        }
        assert_eq!(read(&std::fs::read(scratch.path().join("slot-07")).unwrap()), Some(MAX_TOKEN));
    }

    #[test]
    fn a_slot_in_use_is_not_waited_for() {
        let scratch = Scratch::new();
        let stopped = std::fs::File::create(scratch.path().join("slot-07")).unwrap();
        stopped.try_lock().unwrap();
        assert!(TokenSlot::lock(scratch.path(), 7).unwrap().is_none());
        drop(stopped);
        assert!(TokenSlot::lock(scratch.path(), 7).unwrap().is_some());
    }
}
