//! The directory of the lock files: whether it is safe to use, and made if there is none.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::files::Descriptor;
use crate::error::{BackendError, Failure};

/// The environment variable that chooses another directory.
pub(super) const VARIABLE: &str = "DLOCK_DIR";

/// A directory, and the locked files that show other processes that it is in use. Dropping it unlocks those.
#[derive(Debug)]
pub(super) struct ChosenDirectory {
    pub(super) path: Arc<Path>,
    pub(super) in_use: Vec<Descriptor>,
}

/// Fails if the kernel would not let this process make files in `path`.
pub(super) fn check_writable(path: &Path) -> Result<(), BackendError> {
    use rustix::fs::Access;
    rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| failed(path, "cannot be written to", error))
}

/// Makes the directory, unless there is one.
pub(super) fn make(path: &Path) -> Result<(), Errno> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Makes the directory if there is none, and checks that its locks exclude and that nobody else can write to it.
pub(super) fn prepare(path: &Path) -> Result<Arc<Path>, BackendError> {
    make(path).map_err(|error| failed(path, "cannot be made", error))?;
    // A symbolic link is not followed: it could lead anywhere, and somewhere else tomorrow.
    let stat = rustix::fs::lstat(path).map_err(|error| failed(path, "cannot be read", error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(refused(format!("local: {} is not a directory (a symbolic link is not followed)", path.display())));
    }
    let user = rustix::process::geteuid().as_raw();
    if stat.st_uid != user {
        return Err(refused(format!("local: {} belongs to user {}, not to user {user}", path.display(), stat.st_uid)));
    }
    if Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
        return Err(refused(format!("local: {} can be written to by other users: chmod go-w it", path.display())));
    }
    let kind = file_system(path).map_err(|error| failed(path, "cannot be read", error))?;
    if let Some(name) = network_name(kind) {
        return Err(refused(format!(
            "local: {} is on {name}, a network or user-space file system, whose locks do not exclude reliably: choose a local disk",
            path.display()
        )));
    }
    Ok(path.into())
}

/// File systems on which a kernel lock may exclude only the processes of this machine, or nobody. The numbers are those of statfs(2).
fn network_name(kind: u64) -> Option<&'static str> {
    Some(match kind {
        0x6969 => "NFS",
        0x517b | 0xfe53_4d42 | 0xff53_4d42 => "SMB",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x00c3_6400 => "Ceph",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x7461_636f => "OCFS2",
        0x0116_1970 => "GFS2",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x786f_4256 => "a VirtualBox share",
        _ => return None,
    })
}

#[cfg(target_os = "linux")]
fn file_system(path: &Path) -> Result<u64, Errno> {
    // The width and sign of the field differ between platforms; the numbers fit into 32 bits.
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
    rustix::fs::statfs(path).map(|stat| stat.f_type as u64 & 0xffff_ffff)
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_wraps)]
fn file_system(_path: &Path) -> Result<u64, Errno> {
    Ok(0)
}

/// The error that a directory cannot be used, which no retry mends.
pub(super) fn refused(message: String) -> BackendError {
    BackendError::new(Failure::Refused, message)
}

/// The error that the system refused something about a directory.
pub(super) fn failed(path: &Path, what: &str, error: Errno) -> BackendError {
    let error = io::Error::from(error);
    BackendError::because(Failure::Refused, error).reworded(|words| format!("local: {} {what}: {words}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::super::scratch::Scratch;
    use super::*;

    #[test]
    fn the_directory_is_made_for_its_user_alone() {
        let scratch = Scratch::new();
        let directory = prepare(&scratch.path().join("locks")).unwrap();
        assert_eq!(std::fs::metadata(&directory).unwrap().mode() & 0o7777, 0o700);
        assert!(prepare(&scratch.path().join("locks")).is_ok(), "a second process finds it there");
    }

    #[test]
    fn a_symbolic_link_is_refused_by_name() {
        let scratch = Scratch::new();
        std::fs::create_dir(scratch.path().join("real")).unwrap();
        symlink(scratch.path().join("real"), scratch.path().join("link")).unwrap();
        let error = prepare(&scratch.path().join("link")).unwrap_err();
        assert_eq!(error.failure, Failure::Refused);
        assert!(error.message.contains("link is not a directory"), "{error}");
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let scratch = Scratch::new();
        let foreign = scratch.path().join("foreign");
        std::fs::create_dir(&foreign).unwrap();
        // Only root can give a directory away; anybody else tests with one that belongs to root.
        let foreign = if std::os::unix::fs::chown(&foreign, Some(1), None).is_ok() { foreign } else { "/usr".into() };
        let error = prepare(&foreign).unwrap_err();
        assert_eq!(error.failure, Failure::Refused);
        assert!(error.message.contains("belongs to user"), "{error}");
    }

    #[test]
    fn a_directory_that_others_write_to_is_refused() {
        let scratch = Scratch::new();
        let open = scratch.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(prepare(&open).unwrap_err().message.contains("other users"));
    }

    #[test]
    fn a_missing_parent_is_refused_with_the_path() {
        let scratch = Scratch::new();
        let error = prepare(&scratch.path().join("no/locks")).unwrap_err();
        assert!(error.message.contains("no/locks cannot be made"), "{error}");
    }

    #[test]
    fn network_file_systems_are_known_by_number() {
        assert_eq!(network_name(0x6969), Some("NFS"));
        assert_eq!(network_name(0xff53_4d42), Some("SMB"));
        let local = file_system(Path::new("/")).unwrap();
        assert_eq!(network_name(local), None, "the tests run on a local disk: {local:x}");
    }
}
