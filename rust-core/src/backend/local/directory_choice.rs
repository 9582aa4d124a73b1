//! Which directory a user chose, by the URL or by the environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use url::Url;

use super::default_directory;
use super::directory::{ChosenDirectory, VARIABLE, prepare};
use crate::backend::hosts::shown;
use crate::error::{BackendError, Error, Failure};

/// The user's choice, before anything was read from disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DirectoryChoice {
    /// This directory, named in the URL.
    Named(PathBuf),
    /// What [`VARIABLE`] names when the directory is first needed, or else the user's own: see [`default_directory`]. It stays the same for
    /// all sessions of a client.
    OfUser(Arc<OnceLock<Option<PathBuf>>>),
}

impl DirectoryChoice {
    /// Reads `local:` or `local:///path`. A path in the URL takes precedence over [`VARIABLE`]. No I/O.
    pub(super) fn new(url: &Url, variable: Option<OsString>) -> Result<Self, Error> {
        let invalid = |allowed: &str| Err(Error::invalid("url", shown(url.as_str()), allowed));
        if url.query().is_some() || url.fragment().is_some() {
            return invalid("local: takes no parameters");
        }
        if url.host_str().is_some_and(|host| !host.is_empty()) || !url.username().is_empty() {
            return invalid("local: has no host; a directory is written local:///path");
        }
        match url.path() {
            "" => {}
            path if path.starts_with('/') && path != "/" => return Self::named(path, url),
            _ => return invalid("local: or local:///path with an absolute path"),
        }
        // A bad one is refused early. A program may still set another before it takes its first lock.
        named_by(variable).map(|_| Self::OfUser(Arc::default()))
    }

    /// As [`DirectoryChoice::new`], with the variable of this process.
    pub(super) fn of(url: &Url) -> Result<Self, Error> {
        Self::new(url, std::env::var_os(VARIABLE))
    }

    fn named(path: &str, url: &Url) -> Result<Self, Error> {
        let file = Url::parse(&format!("file://{path}")).ok().and_then(|file| file.to_file_path().ok());
        file.map(Self::Named).ok_or_else(|| Error::invalid("url", shown(url.as_str()), "a path of this machine"))
    }

    /// Finds the directory, and makes it if there is none.
    pub(super) fn resolve(&self) -> Result<ChosenDirectory, BackendError> {
        match self {
            Self::Named(path) => Ok(ChosenDirectory { path: prepare(path)?, in_use: Vec::new() }),
            Self::OfUser(named) => {
                if named.get().is_none() {
                    let now = named_by(std::env::var_os(VARIABLE));
                    let _ = named.set(now.map_err(|invalid| BackendError::new(Failure::Refused, invalid.to_string()))?);
                }
                match named.get().and_then(Option::as_ref) {
                    Some(path) => Ok(ChosenDirectory { path: prepare(path)?, in_use: Vec::new() }),
                    None => default_directory::resolve(&default_directory::BASES.map(Path::new)),
                }
            }
        }
    }
}

/// The directory that the variable names, if it is set.
fn named_by(variable: Option<OsString>) -> Result<Option<PathBuf>, Error> {
    let Some(variable) = variable.filter(|variable| !variable.is_empty()) else { return Ok(None) };
    let directory = PathBuf::from(variable);
    if directory.is_absolute() {
        Ok(Some(directory))
    } else {
        Err(Error::invalid(VARIABLE, directory.display().to_string(), "an absolute path"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(url: &str, variable: Option<&str>) -> Result<DirectoryChoice, Error> {
        DirectoryChoice::new(&Url::parse(url).unwrap(), variable.map(Into::into))
    }

    #[test]
    fn the_url_goes_before_the_variable_and_the_variable_before_the_default() {
        assert_eq!(choice("local:", None).unwrap(), DirectoryChoice::OfUser(Arc::default()));
        assert_eq!(choice("local:", Some("/a")).unwrap(), DirectoryChoice::OfUser(Arc::default()));
        assert_eq!(named_by(None).unwrap(), None);
        assert_eq!(named_by(Some("".into())).unwrap(), None);
        assert_eq!(named_by(Some("/a".into())).unwrap(), Some("/a".into()));
        assert_eq!(choice("local:///b%20c", Some("/a")).unwrap(), DirectoryChoice::Named("/b c".into()));
    }

    #[test]
    fn r15_a_url_that_cannot_be_meant_is_invalid() {
        for url in ["local://host/a", "local:relative", "local:///a?x=1", "local:///a#b", "local:///"] {
            assert_eq!(choice(url, None).unwrap_err().code(), "INVALID_OPTIONS", "{url}");
        }
        assert!(choice("local:", Some("relative")).unwrap_err().to_string().starts_with("DLOCK_DIR: relative is not valid"));
    }

    #[test]
    fn r18_a_password_that_does_not_belong_here_is_not_shown() {
        for url in ["local://me:secret@h/a", "local://me:12?secret@h", "local:me:secret@h"] {
            let error = choice(url, None).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
