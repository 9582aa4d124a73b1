//! The directory where a user's processes meet when nobody names one.
//!
//! Each of them must come to the same one, whatever it may write and whatever its mount namespace shows (docs/adr/0013). So:
//!
//! - A base counts by what is the same for everybody: it is there, sticky, and its mode lets everybody write.
//! - The first that counts is chosen. If this process cannot write there, it is refused: to go on to the next would part it from the
//!   user's others.
//! - While it runs, a process says in *every* base that counts which one it uses, in a file that it keeps locked. Who comes later, and sees
//!   other bases than it, finds that in one that both see, and goes there too, or is refused where it cannot.
//! - All this is done with the user's directories locked in every base, in one order: so one process chooses at a time.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode};

use super::directory::{ChosenDirectory, VARIABLE, failed, make, prepare, refused};
use super::in_use::{self, Candidate, InUse, identity};
use crate::error::{BackendError, Failure};

/// Where it is looked for. They depend on the machine alone: `XDG_RUNTIME_DIR`, `TMPDIR` and `HOME` differ between cron and a login shell,
/// which would then not exclude each other.
pub(super) const BASES: [&str; 3] = ["/run/lock", "/dev/shm", "/tmp"];

/// How long to wait for another process that chooses.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(1);

/// Finds the directory, and makes it if it is not there.
pub(super) fn resolve(bases: &[&Path]) -> Result<ChosenDirectory, BackendError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // `None`: somebody chooses at this moment, or removed what we looked at.
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
    for base in bases.iter().filter(|base| counts(base)) {
        // Where one is a link to another, that is one directory under two names.
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
    // The last first: it is the one that most have in common, and everybody locks in the same order.
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
        // It could not be made before, and was now.
        return Ok(None);
    }
    // Also in bases that count no more.
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
        match candidate.say(&path) {
            Ok(file) => kept.push(file),
            // Nobody can say it here, and nobody who sees the same can hold anything here.
            Err(_) if !is_chosen => {}
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            // Somebody removed it at this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unlockable(&path, error)),
        }
    }
    Ok(Some(ChosenDirectory { path, in_use: kept }))
}

/// Whether a base counts: nothing here depends on who asks.
fn counts(base: &Path) -> bool {
    rustix::fs::stat(base).is_ok_and(|stat| {
        let mode = Mode::from_raw_mode(stat.st_mode);
        FileType::from_raw_mode(stat.st_mode) == FileType::Directory && mode.contains(Mode::SVTX | Mode::WOTH | Mode::XOTH)
    })
}

/// What everybody uses who runs; `None` if nobody does.
fn agreed(seen: &[Candidate]) -> Result<Option<PathBuf>, BackendError> {
    let mut agreed: Option<(&Candidate, &InUse)> = None;
    for (candidate, said) in seen.iter().filter_map(|candidate| Some((candidate, candidate.said.as_ref()?))) {
        match agreed {
            Some((other, before)) if before.path != said.path => {
                return Err(refused(format!(
                    "local: processes of this user keep their locks in two directories ({} says {}, {} says {}): {}",
                    other.path.display(),
                    before.path.display(),
                    candidate.path.display(),
                    said.path.display(),
                    advice(),
                )));
            }
            _ => agreed = Some((candidate, said)),
        }
        if said.was_covered() {
            return Err(refused(format!(
                "local: processes of this user keep their locks in {}, which something was mounted over since: end them first, or {}",
                said.path.display(),
                advice(),
            )));
        }
    }
    Ok(agreed.map(|(_, said)| said.path.clone()))
}

fn elsewhere(path: &Path, seen: &[Candidate]) -> BackendError {
    let by: Vec<_> = seen.iter().filter(|candidate| candidate.said.is_some()).map(|said| said.path.display().to_string()).collect();
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
    fn it_is_in_the_first_base_that_everybody_may_write_to() {
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
    fn two_names_of_one_base_are_one() {
        let scratch = Scratch::new();
        let (first, link) = (base(&scratch, "first", 0o1777), scratch.path().join("link"));
        symlink(&first, &link).unwrap();
        let chosen = resolve(&[&first, &link]).unwrap();
        assert_eq!(*chosen.path, own(&first));
        assert_eq!(resolve(&[&first, &link]).unwrap().path, chosen.path);
    }

    #[test]
    fn one_that_somebody_planted_is_refused_rather_than_passed_over() {
        let scratch = Scratch::new();
        let (first, second) = (base(&scratch, "first", 0o1777), base(&scratch, "second", 0o1777));
        std::fs::DirBuilder::new().mode(0o700).create(scratch.path().join("real")).unwrap();
        symlink(scratch.path().join("real"), own(&first)).unwrap();
        assert!(refusal(&[&first, &second]).contains("is not a directory"));
        std::fs::remove_file(own(&first)).unwrap();
        std::fs::remove_dir_all(own(&second)).unwrap();
        symlink(scratch.path().join("real"), own(&second)).unwrap();
        assert_eq!(*resolve(&[&first, &second]).unwrap().path, own(&first), "further down it stands in nobody's way");
    }

    /// As where `/run/lock` is mounted late.
    #[test]
    fn r01_a_base_that_appears_later_parts_nobody() {
        let _nobody_is_born = STARTING.lock();
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
        assert_eq!(*resolve(&bases).unwrap().path, own(&late), "then it is the first again");
    }

    /// As in a unit whose mount namespace hides `/run/lock`.
    #[test]
    fn r01_a_process_that_does_not_see_where_the_others_are_is_refused_by_name() {
        let _nobody_is_born = STARTING.lock();
        let scratch = Scratch::new();
        let (first, second) = (base(&scratch, "first", 0o1777), base(&scratch, "second", 0o1777));
        let others = resolve(&[&first, &second]).unwrap();
        let refusal = refusal(&[&second]);
        assert!(refusal.contains("DLOCK_DIR") && refusal.contains(own(&first).to_str().unwrap()), "{refusal}");
        drop(others);
        let alone = resolve(&[&second]).unwrap();
        assert_eq!(resolve(&[&first, &second]).unwrap().path, alone.path, "in the other order they meet");
    }

    #[test]
    fn r01_a_base_that_something_was_mounted_over_is_refused_while_the_one_below_is_in_use() {
        let _nobody_is_born = STARTING.lock();
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
    fn r01_those_who_see_different_bases_and_start_at_once_never_part() {
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
            assert!(all.is_ok(), "who sees all is never refused: {all:?}");
            for base in [&first, &second] {
                std::fs::remove_dir_all(own(base)).unwrap();
            }
        }
    }

    #[test]
    fn r01_an_earlier_version_that_holds_elsewhere_is_waited_for() {
        let _nobody_is_born = STARTING.lock();
        let scratch = Scratch::new();
        let (first, second) = (base(&scratch, "first", 0o1777), base(&scratch, "second", 0o1777));
        // It counted for the earlier version.
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
            assert_eq!(*resolve(&[&group, &first, &second]).unwrap().path, own(&first), "what a crash left is in nobody's way");
        }
    }
}
