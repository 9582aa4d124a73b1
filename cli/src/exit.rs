//! Exit codes, and the errors that lead to them.

use std::fmt::Display;
use std::process::ExitCode;

use dlock::Error;

use crate::json;

/// The arguments are wrong: `EX_USAGE` of sysexits.h.
pub(crate) const USAGE: u8 = 64;
/// The backend cannot be reached, or cannot serve now: `EX_UNAVAILABLE`.
pub(crate) const UNAVAILABLE: u8 = 69;
/// A fault that should not happen: `EX_SOFTWARE`.
pub(crate) const SOFTWARE: u8 = 70;
/// The operating system refused a request: `EX_OSERR`.
pub(crate) const SYSTEM: u8 = 71;
/// The answer cannot be written: `EX_IOERR`.
pub(crate) const UNWRITTEN: u8 = 74;
/// Somebody else holds the lock: `EX_TEMPFAIL`, after which cron and mail tools try again.
pub(crate) const NOT_ACQUIRED: u8 = 75;
/// The lock was lost while the command ran.
pub(crate) const LOST: u8 = 76;
/// The backend refused (login, rights, limits): `EX_NOPERM`.
pub(crate) const REFUSED: u8 = 77;
/// The command was found but cannot be executed, as in a shell.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// The command was not found, as in a shell.
pub(crate) const NOT_FOUND: u8 = 127;

/// The code for an end by a signal, as in a shell.
pub(crate) fn of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Why dlock itself fails, in one line, and its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Display) -> Self {
        Self { code, message: Some(message.to_string()) }
    }

    pub(crate) fn usage(message: impl Display) -> Self {
        Self::new(USAGE, message)
    }

    /// The operating system refused `what`.
    pub(crate) fn system(what: &str, error: impl Display) -> Self {
        Self::new(SYSTEM, format_args!("{what}: {error}"))
    }

    /// The answer cannot be written to stdout. A closed pipe needs no message: its reader, such as `head`, has read enough.
    pub(crate) fn unwritten(error: &std::io::Error) -> Self {
        let is_closed = error.kind() == std::io::ErrorKind::BrokenPipe;
        Self { code: UNWRITTEN, message: (!is_closed).then(|| format!("the answer cannot be written: {error}")) }
    }

    /// A signal ended dlock. Its sender needs no message.
    pub(crate) fn signalled(signal: i32) -> Self {
        Self { code: of_signal(signal), message: None }
    }

    /// Prints the message and returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        if let Some(message) = self.message {
            print("error", &message, Some(self.code));
        }
        self.code.into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::InvalidOptions { .. } => USAGE,
            Error::BackendUnavailable { .. } => UNAVAILABLE,
            Error::BackendRefused { .. } => REFUSED,
            Error::AcquireTimeout { .. } | Error::LockBusy { .. } | Error::RetriesExhausted { .. } => NOT_ACQUIRED,
            Error::LockLost { .. } => LOST,
            _ => SOFTWARE,
        };
        Self::new(code, error)
    }
}

/// Prints a warning, one line on stderr.
pub(crate) fn warn(message: impl Display) {
    print("warn", &message, None);
}

/// An error is ignored: a closed stderr is no reason to stop.
fn print(level: &str, message: &dyn Display, code: Option<u8>) {
    use std::io::Write;
    let line = if json::wanted() { json::message(level, message, code) } else { format!("dlock: {message}\n") };
    let _ = std::io::stderr().write_all(line.as_bytes());
}
