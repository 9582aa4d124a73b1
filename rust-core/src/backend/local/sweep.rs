//! Removes lock files that crashes left behind.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::files::Descriptor;
use super::names::is_lock_file;
use super::record::HolderRecord;

/// A sweep ends after this long; the next client that starts goes on.
const BUDGET: Duration = Duration::from_millis(200);

/// A younger file without a record may have been made a moment ago, and its maker may be about to lock it.
const SETTLING_TIME: Duration = Duration::from_secs(10);

/// Removes the lock files whose holders are dead.
pub(super) fn sweep(directory: &Path) {
    let started = Instant::now();
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten().take_while(|_| started.elapsed() < BUDGET) {
        if entry.file_name().to_str().is_some_and(is_lock_file) {
            // A file that cannot be removed is left for the next sweep, since it does no harm.
            let _ = remove_abandoned(&entry.path());
        }
    }
}

fn remove_abandoned(path: &Path) -> io::Result<()> {
    let Some(file) = Descriptor::open(path)? else { return Ok(()) };
    // The record is read before the file is locked: our lock would make the try of a live attempt fail.
    let abandoned = match HolderRecord::decode(&file.read()?) {
        Some(record) if record.shown != 0 => !file.is_shown_held()?,
        Some(record) => !record.process().seems_alive(),
        None => is_old(path),
    };
    if !abandoned || !file.try_lock()? {
        return Ok(());
    }
    // In between somebody may have taken the file over and released it, which unlinks it.
    if file.is_at(path)? {
        std::fs::remove_file(path)?;
    }
    file.unlock()
}

fn is_old(path: &Path) -> bool {
    let modified = std::fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|age| age > SETTLING_TIME))
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    /// No process has this number: Linux ends at 2^22.
    const DEAD: u32 = 99_999_999;

    fn leave(path: &Path, pid: u32) -> std::fs::File {
        let record = HolderRecord {
            owner: "s:1".into(),
            token: 1,
            pid,
            started: 0,
            namespace: "n".into(),
            key: "k".into(),
            note: "{}".into(),
            ..HolderRecord::default()
        };
        std::fs::write(path, record.encode()).unwrap();
        std::fs::File::open(path).unwrap()
    }

    #[test]
    fn only_files_of_dead_holders_are_removed() {
        let scratch = Scratch::new();
        let path = |name: &str| scratch.path().join(name);
        leave(&path("lock,n,dead"), DEAD);
        leave(&path("lock,n,alive"), std::process::id());
        // A forked child still keeps the lock of its dead parent.
        let inherited = leave(&path("lock,n,inherited"), DEAD);
        inherited.try_lock().unwrap();
        std::fs::write(path("lock,n,just-made"), "").unwrap();
        std::fs::File::create(path("lock,n,old-empty")).unwrap().set_modified(SystemTime::now() - 2 * SETTLING_TIME).unwrap();
        leave(&path("slot-00"), DEAD);
        sweep(scratch.path());
        let mut left: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["lock,n,alive", "lock,n,inherited", "lock,n,just-made", "slot-00"]);
    }
}
