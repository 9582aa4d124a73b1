//! The directory that all processes of a user share when nobody names one.
//!
//! Every process must arrive at the same directory, whatever it may write to and whatever its mount namespace shows (docs/adr/0013):
//!
//! - A base is *eligible* by properties that are the same for every process: it exists, it is sticky, and its mode lets everybody write.
//! - A process uses the first eligible base. If it cannot write there, it is refused: going on to the next base would separate it from the
//!   user's other processes.
//! - While it runs, a process records in *every* eligible base which one it uses, in a file that it keeps locked. A later process that sees
//!   other bases finds this file in a base that both see, and uses the recorded directory too, or is refused where it cannot.
//! - A process does all this while it has the user's directories locked in every base, always in the same order: so one process chooses at
//!   a time.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode};

use super::directory::{ChosenDirectory, VARIABLE, failed, make, prepare, refused};
use super::in_use::{self, Candidate, InUse, identity};
use crate::error::{BackendError, Failure};

/// The bases. They are the same everywhere on a machine, unlike `XDG_RUNTIME_DIR`, `TMPDIR` and `HOME`, which differ between cron and a login
/// shell: those two would then not exclude each other.
pub(super) const BASES: [&str; 3] = ["/run/lock", "/dev/shm", "/tmp"];

/// How long to wait while another process chooses.
const LONGEST_CHOICE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(1);

/// Finds the directory, and makes it if there is none.
pub(super) fn resolve(bases: &[&Path]) -> Result<ChosenDirectory, BackendError> {
    let deadline = Instant::now() + LONGEST_CHOICE;
    loop {
        // `None`: another process chooses at this moment, or removed a file under our eyes.
        if let Some(chosen) = choose(bases)? {
            return Ok(chosen);
        }
        if Instant::now() >= deadline {
            return Err(BackendError::new(
                Failure::NotSent,
                "local: another process of this user keeps the choice of the directory busy",
            ));
        }
        std::thread::sleep(PAUSE);
    }
}

fn choose(bases: &[&Path]) -> Result<Option<ChosenDirectory>, BackendError> {
    let name = format!("dlock-{}", rustix::process::geteuid().as_raw());
    let mut known = Vec::new();
    let mut candidates = Vec::new();
    for base in bases.iter().filter(|base| is_eligible(base)) {
        // One base may be a link to another: that is one directory under two names.
        if let Some(identity) = identity(base).filter(|identity| !known.contains(identity)) {
            known.push(identity);
            candidates.push(base.join(&name));
        }
    }
    let Some(first) = candidates.first() else {
        let bases: Vec<_> = bases.iter().map(|base| base.display().to_string()).collect();
        return Err(refused(format!(
            "local: none of {} is a sticky directory that everybody may write to: set {VARIABLE}",
            bases.join(", ")
        )));
    };
    let mut seen = Vec::new();
    // From the last to the first: most processes have the last one in common, and all lock in the same order.
    for path in candidates.iter().rev() {
        match Candidate::lock(path) {
            Ok(Some(candidate)) => seen.push(candidate),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(unlockable(path, error)),
        }
    }
    let agreed = agreed(&seen)?;
    let path: &Path = agreed.as_deref().unwrap_or(first);
    if !candidates.iter().any(|candidate| candidate == path) {
        return Err(elsewhere(path, &seen));
    }
    if let Err(errno) = make(path) {
        let error = failed(path, "cannot be made", errno);
        return Err(BackendError { message: format!("{}; {}", error.message, advice()).into(), ..error });
    }
    let path = prepare(path)?;
    if !seen.iter().any(|candidate| *candidate.path == *path) {
        // It could not be made before, and somebody has made it since: choose again.
        return Ok(None);
    }
    // This looks also into bases that are not eligible any more.
    let others = bases.iter().map(|base| base.join(&name)).filter(|other| identity(other) != identity(&path));
    for other in others {
        if in_use::holds_any(&other).map_err(|error| unlockable(&other, error))? {
            return Err(refused(format!(
                "local: an earlier version of dlock holds a lock of this user in {}, and this one would use {}: end the earlier one first, \
                 or {}",
                other.display(),
                path.display(),
                advice(),
            )));
        }
    }
    let mut kept = Vec::new();
    for candidate in seen {
        let is_chosen = *candidate.path == *path;
        match candidate.record(&path) {
            Ok(file) => kept.push(file),
            // Nobody can record a choice here, and so nobody can hold a key here either.
            Err(_) if !is_chosen => {}
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            // Somebody removed the file at this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unlockable(&path, error)),
        }
    }
    Ok(Some(ChosenDirectory { path, in_use: kept }))
}

/// Whether a base is eligible. Nothing here depends on the process that asks.
fn is_eligible(base: &Path) -> bool {
    rustix::fs::stat(base).is_ok_and(|stat| {
        let mode = Mode::from_raw_mode(stat.st_mode);
        FileType::from_raw_mode(stat.st_mode) == FileType::Directory && mode.contains(Mode::SVTX | Mode::WOTH | Mode::XOTH)
    })
}

/// The directory that all running processes use; `None` if none runs.
fn agreed(seen: &[Candidate]) -> Result<Option<PathBuf>, BackendError> {
    let mut agreed: Option<(&Candidate, &InUse)> = None;
    for (candidate, in_use) in seen.iter().filter_map(|candidate| Some((candidate, candidate.recorded.as_ref()?))) {
        match agreed {
            Some((other, before)) if before.path != in_use.path => {
                return Err(refused(format!(
                    "local: processes of this user keep their locks in two directories ({} says {}, {} says {}): {}",
                    other.path.display(),
                    before.path.display(),
                    candidate.path.display(),
                    in_use.path.display(),
                    advice(),
                )));
            }
            _ => agreed = Some((candidate, in_use)),
        }
        if in_use.was_covered() {
            return Err(refused(format!(
                "local: processes of this user keep their locks in {}, which something was mounted over since: end them first, or {}",
                in_use.path.display(),
                advice(),
            )));
        }
    }
    Ok(agreed.map(|(_, in_use)| in_use.path.clone()))
}

fn elsewhere(path: &Path, seen: &[Candidate]) -> BackendError {
    let by: Vec<_> = seen
        .iter()
        .filter(|candidate| candidate.recorded.is_some())
        .map(|candidate| candidate.path.display().to_string())
        .collect();
    refused(format!(
        "local: processes of this user keep their locks in {} (says {}), which this process does not see: {}",
        path.display(),
        by.join(", "),
        advice(),
    ))
}

fn unlockable(path: &Path, error: io::Error) -> BackendError {
    let message = format!("local: {}: {error}; {}", path.display(), advice());
    BackendError { message: message.into(), ..BackendError::because(Failure::Refused, error) }
}

pub(super) fn advice() -> String {
    format!("set {VARIABLE} to one directory that all processes of this user can write to")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};

    use super::super::scratch::{STARTING, Scratch};
    use super::*;

    fn base(scratch: &Scratch, name: &str, mode: u32) -> PathBuf {
        let path = scratch.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path
    }

    fn own(base: &Path) -> PathBuf {
        base.join(format!("dlock-{}", rustix::process::geteuid().as_raw()))
    }

    fn refusal(bases: &[&Path]) -> String {
        let error = resolve(bases).unwrap_err();
        assert_eq!(error.failure, Failure::Refused);
        error.message.to_string()
    }

    #[test]
    fn the_first_base_that_everybody_may_write_to_is_used() {
        let scratch = Scratch::new();
        let (none, plain) = (scratch.path().join("none"), base(&scratch, "plain", 0o777));
        let (group, first, second) =
            (base(&scratch, "group", 0o1775), base(&scratch, "first", 0o1777), base(&scratch, "second", 0o1777));
        let chosen = resolve(&[&none, &plain, &group, &first, &second]).unwrap();
        assert_eq!(*chosen.path, own(&first));
        for other in [plain, group] {
            assert!(std::fs::read_dir(&other).unwrap().next().is_none());
            assert!(refusal(&[&other]).contains("DLOCK_DIR"));
        }
    }

    #[test]
    fn two_names_of_one_base_count_once() {
        let scratch = Scratch::new();
        let (first, link) = (base(&scratch, "first", 0o1777), scratch.path().join("link"));
        symlink(&first, &link).unwrap();
        let chosen = resolve(&[&first, &link]).unwrap();
        assert_eq!(*chosen.path, own(&first));
        assert_eq!(resolve(&[&first, &link]).unwrap().path, chosen.path);
    }

    #[test]
    fn a_planted_directory_is_refused_rather_than_passed_over() {
        let scratch = Scratch::new();
        let (first, second) = (base(&scratch, "first", 0o1777), base(&scratch, "second", 0o1777));
        std::fs::DirBuilder::new().mode(0o700).create(scratch.path().join("real")).unwrap();
        symlink(scratch.path().join("real"), own(&first)).unwrap();
        assert!(refusal(&[&first, &second]).contains("is not a directory"));
        std::fs::remove_file(own(&first)).unwrap();
        std::fs::remove_dir_all(own(&second)).unwrap();
        symlink(scratch.path().join("real"), own(&second)).unwrap();
        assert_eq!(*resolve(&[&first, &second]).unwrap().path, own(&first), "a planted directory further down bothers nobody");
    }

    /// For example `/run/lock`, mounted late.
    #[test]
    fn r01_a_base_that_appears_later_separates_nobody() {
        let _no_process_starts = STARTING.lock();
        let scratch = Scratch::new();
        let (late, second) = (scratch.path().join("late"), base(&scratch, "second", 0o1777));
        let bases: [&Path; 2] = [&late, &second];
        let before = resolve(&bases).unwrap();
        assert_eq!(*before.path, own(&second));
        base(&scratch, "late", 0o1777);
        let after = resolve(&bases).unwrap();
        assert_eq!(after.path, before.path);
        drop(before);
        assert_eq!(resolve(&bases).unwrap().path, after.path, "as long as one of them runs");
        drop(after);
        assert_eq!(*resolve(&bases).unwrap().path, own(&late), "then the first one is used again");
    }

    /// For example a systemd unit whose mount namespace hides `/run/lock`.
    #[test]
    fn r01_a_process_that_does_not_see_the_directory_of_the_others_is_refused_by_name() {
        let _no_process_starts = STARTING.lock();
        let scratch = Scratch::new();
        let (first, second) = (base(&scratch, "first", 0o1777), base(&scratch, "second", 0o1777));
        let others = resolve(&[&first, &second]).unwrap();
        let refusal = refusal(&[&second]);
        assert!(refusal.contains("DLOCK_DIR") && refusal.contains(own(&first).to_str().unwrap()), "{refusal}");
        drop(others);
        let alone = resolve(&[&second]).unwrap();
        assert_eq!(resolve(&[&first, &second]).unwrap().path, alone.path, "in the other order both use the same one");
    }

    #[test]
    fn r01_a_base_that_something_was_mounted_over_is_refused_while_the_one_below_is_in_use() {
        let _no_process_starts = STARTING.lock();
        let scratch = Scratch::new();
        let (first, second) = (base(&scratch, "first", 0o1777), base(&scratch, "second", 0o1777));
        let before = resolve(&[&first, &second]).unwrap();
        std::fs::rename(&first, scratch.path().join("below")).unwrap();
        base(&scratch, "first", 0o1777);
        assert!(refusal(&[&first, &second]).contains("mounted over"));
        drop(before);
        assert_eq!(*resolve(&[&first, &second]).unwrap().path, own(&first));
    }

    #[test]
    fn r01_processes_that_see_different_bases_and_start_at_once_are_never_separated() {
        let scratch = Scratch::new();
        let (first, second) = (base(&scratch, "first", 0o1777), base(&scratch, "second", 0o1777));
        for round in 0..200 {
            let start = std::sync::Barrier::new(2);
            let begin = |bases: &[&Path]| {
                start.wait();
                resolve(bases)
            };
            let (all, some) = std::thread::scope(|scope| {
                let all = scope.spawn(|| begin(&[&first, &second]));
                let some = begin(&[&second]);
                (all.join().unwrap(), some)
            });
            if let (Ok(all), Ok(some)) = (&all, &some) {
                assert_eq!(all.path, some.path, "round {round}");
            }
            assert!(all.is_ok(), "a process that sees all bases is never refused: {all:?}");
            for base in [&first, &second] {
                std::fs::remove_dir_all(own(base)).unwrap();
            }
        }
    }

    #[test]
    fn r01_an_earlier_version_that_holds_elsewhere_is_waited_for() {
        let _no_process_starts = STARTING.lock();
        let scratch = Scratch::new();
        let (first, second) = (base(&scratch, "first", 0o1777), base(&scratch, "second", 0o1777));
        // The earlier version used it.
        let group = base(&scratch, "group", 0o1775);
        for other in [second.clone(), group.clone()] {
            std::fs::create_dir_all(own(&other)).unwrap();
            let path = own(&other).join("lock,dlock,k");
            std::fs::write(&path, "").unwrap();
            let holder = std::fs::File::open(&path).unwrap();
            holder.try_lock().unwrap();
            let refusal = refusal(&[&group, &first, &second]);
            assert!(refusal.contains("earlier version") && refusal.contains(own(&other).to_str().unwrap()), "{refusal}");
            drop(holder);
            assert_eq!(*resolve(&[&group, &first, &second]).unwrap().path, own(&first), "a leftover of a crash bothers nobody");
        }
    }
}
