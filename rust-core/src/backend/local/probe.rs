//! Whether a lock file can be made, written and locked.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// As many bytes as the record of a holder and a slot file take at most.
const ENOUGH: [u8; 4096] = [0; 4096];

/// Fails where taking a key would fail. The file has no name, or loses it at once: nobody sees it, and it is gone after this call.
pub(super) fn probe(directory: &Path) -> io::Result<()> {
    let mut file = File::from(nameless(directory)?);
    file.write_all(&ENOUGH)?;
    file.try_lock().map_err(io::Error::from)
}

fn nameless(directory: &Path) -> io::Result<rustix::fd::OwnedFd> {
    let (access, mode) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    match rustix::fs::open(directory, access | OFlags::TMPFILE, mode) {
        // Some file systems have no files without a name.
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => {}
        opened => return Ok(opened?),
    }
    let path = directory.join(format!("probe-{}", std::process::id()));
    let file = rustix::fs::open(&path, access | OFlags::CREATE, mode)?;
    match std::fs::remove_file(&path) {
        // Another probe of this process has removed it.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(file),
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let scratch = Scratch::new();
        probe(scratch.path()).unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_probe_fails_where_no_file_can_be_made() {
        let scratch = Scratch::new();
        let error = probe(&scratch.path().join("gone")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        // A file system on which nobody can create files.
        assert!(probe(Path::new("/proc/self")).is_err());
    }
}
