//! What can go wrong: errors that a program can act on and a person can read.

use std::sync::Arc;

use crate::holder::Holder;
use crate::printable::{self, LONGEST_ANSWER};

/// The result of an engine call.
pub type Result<T> = std::result::Result<T, Error>;

/// Every failure that the engine reports.
///
/// Each variant is one class in Python and Node, of the same name in both; [`Error::code`] is the same in all languages and never
/// changes.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The lock was not acquired within `wait`: another holder has the key. If the backend fails when `wait` ends, or gave no
    /// answer all the time, the error is [`Error::BackendUnavailable`]. Class: `AcquireTimeout`, in Python also a `TimeoutError`.
    #[error("{}: not acquired within {} ms{}", quoted(key), waited.as_millis(), held_by(holder.as_deref()))]
    AcquireTimeout {
        /// The key asked for.
        key: Arc<str>,
        /// How long the caller waited.
        waited: std::time::Duration,
        /// Who held the key when last seen.
        holder: Option<Box<Holder>>,
    },

    /// A single try found the key held. Class: `LockBusy`.
    #[error("{} is held{}", quoted(key), by(holder.as_deref()))]
    LockBusy {
        /// The key asked for.
        key: Arc<str>,
        /// Who holds it.
        holder: Option<Box<Holder>>,
    },

    /// Every attempt of a `retry` found the key held. Class: `RetriesExhausted`.
    #[error("{}: not acquired in {attempts} attempt{}{}", quoted(key), if *attempts == 1 { "" } else { "s" }, held_by(holder.as_deref()))]
    RetriesExhausted {
        /// The key asked for.
        key: Arc<str>,
        /// How many attempts were made.
        attempts: u32,
        /// Who held the key when last seen.
        holder: Option<Box<Holder>>,
    },

    /// The lease ended before its holder released it. Class: `LockLost`.
    #[error("{}: the lease with token {token} was lost: {reason}", quoted(key))]
    LockLost {
        /// The key that was held.
        key: Arc<str>,
        /// The lost lease's token.
        token: u64,
        /// Why it ended.
        reason: LossReason,
    },

    /// The lease was already released. Class: `NotHeld`.
    #[error("{}: {operation}: not held, it was released before", quoted(key))]
    NotHeld {
        /// The key.
        key: Arc<str>,
        /// The call that needs a held lease.
        operation: &'static str,
    },

    /// The lock has several leases outstanding, and the call does not say which one it means. Class: `LockError`.
    #[error("{}: {operation}: {leases} leases are outstanding; call it on the lease", quoted(key))]
    Ambiguous {
        /// The key.
        key: Arc<str>,
        /// The call that needs one lease.
        operation: &'static str,
        /// How many there are.
        leases: usize,
    },

    /// The backend could not be reached or cannot serve the request now. Class: `BackendUnavailable`, in Python also a
    /// `ConnectionError`.
    #[error("{operation}{}: {server} is unavailable: {source}", key.as_ref().map(|key| format!(" {}", quoted(key))).unwrap_or_default())]
    BackendUnavailable {
        /// The key, if the operation is about one.
        key: Option<Arc<str>>,
        /// What was tried.
        operation: &'static str,
        /// The server's address without its password.
        server: Arc<str>,
        /// What went wrong underneath.
        source: BackendError,
    },

    /// The backend answers and refuses: login, rights, a limit, a value that is not a lock's. Trying again will not help. Class:
    /// `BackendRefused`.
    #[error("{operation}{}: {server} refused: {source}", key.as_ref().map(|key| format!(" {}", quoted(key))).unwrap_or_default())]
    BackendRefused {
        /// The key, if the operation is about one.
        key: Option<Arc<str>>,
        /// What was tried.
        operation: &'static str,
        /// The server's address without its password.
        server: Arc<str>,
        /// Why it refuses.
        source: BackendError,
    },

    /// An option, key or URL that cannot be used; found before any I/O. Class: `InvalidOptions`, in Python also a `ValueError`.
    #[error("{field}: {value} is not valid: {allowed}")]
    InvalidOptions {
        /// The option's name as the user wrote it.
        field: String,
        /// The value given, without secrets.
        value: String,
        /// What is allowed instead.
        allowed: String,
    },

    /// The client was closed. Class: `ClientClosed`.
    #[error("{operation}: {CLOSED}")]
    ClientClosed {
        /// The call that was refused.
        operation: &'static str,
    },

    /// The default client can be configured only before its first operation. Class: `LockError`.
    #[error("{operation}: the default client is already in use")]
    InUse {
        /// The call that comes too late.
        operation: &'static str,
    },

    /// The handle was made by the parent process, before a fork. Class: `ForkedError`.
    #[error("this handle belongs to process {parent}: make a new Client after fork")]
    Forked {
        /// The process that made it.
        parent: u32,
    },
}

impl Error {
    /// A short name that never changes, the same in every language.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AcquireTimeout { .. } => "ACQUIRE_TIMEOUT",
            Self::LockBusy { .. } => "LOCK_BUSY",
            Self::RetriesExhausted { .. } => "RETRIES_EXHAUSTED",
            Self::LockLost { .. } => "LOCK_LOST",
            Self::NotHeld { .. } => "NOT_HELD",
            Self::Ambiguous { .. } => "AMBIGUOUS",
            Self::BackendUnavailable { .. } => "BACKEND_UNAVAILABLE",
            Self::BackendRefused { .. } => "BACKEND_REFUSED",
            Self::InvalidOptions { .. } => "INVALID_OPTIONS",
            Self::ClientClosed { .. } => "CLIENT_CLOSED",
            Self::InUse { .. } => "ALREADY_CONFIGURED",
            Self::Forked { .. } => "FORKED",
        }
    }

    /// The key that the error is about, if there is one.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::AcquireTimeout { key, .. }
            | Self::LockBusy { key, .. }
            | Self::RetriesExhausted { key, .. }
            | Self::LockLost { key, .. }
            | Self::NotHeld { key, .. }
            | Self::Ambiguous { key, .. } => Some(key),
            Self::BackendUnavailable { key, .. } | Self::BackendRefused { key, .. } => key.as_deref(),
            _ => None,
        }
    }

    /// Who held the key, if that is known.
    pub fn holder(&self) -> Option<&Holder> {
        match self {
            Self::AcquireTimeout { holder, .. } | Self::LockBusy { holder, .. } | Self::RetriesExhausted { holder, .. } => {
                holder.as_deref()
            }
            _ => None,
        }
    }

    /// The error of a caller whose request the backend at `server` failed: it says whether trying again will help.
    pub(crate) fn of_backend(operation: &'static str, key: Option<Arc<str>>, server: Arc<str>, source: BackendError) -> Self {
        match source.failure {
            Failure::Refused => Self::BackendRefused { key, operation, server, source },
            Failure::Unknown | Failure::NotSent => Self::BackendUnavailable { key, operation, server, source },
        }
    }

    /// The error of a call for which no engine can be started.
    pub(crate) fn engine_not_started(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        let source = BackendError::because(Failure::NotSent, cause);
        Self::BackendUnavailable { key: None, operation: "start", server: "engine".into(), source }
    }

    pub(crate) fn invalid(field: impl Into<String>, value: impl Into<String>, allowed: impl Into<String>) -> Self {
        let value = value.into();
        let value = if printable::is_harmless(&value, LONGEST_ANSWER) { value } else { printable::cut(&value, LONGEST_ANSWER) };
        Self::InvalidOptions { field: field.into(), value, allowed: allowed.into() }
    }
}

/// Why a lease ended without its holder releasing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossReason {
    /// `valid_until` passed: renewal was off, or no renewal was acknowledged in time. Or the engine's thread has ended, and nobody renews it.
    Expired,
    /// The backend says that the lease is gone: forced away, flushed, evicted or expired there.
    Gone,
    /// It was held for `max_hold`.
    MaxHold,
    /// Its holder sent no heartbeat for `max_stall`.
    MaxStall,
    /// The client was closed while the lease was held.
    Closed,
}

impl LossReason {
    /// A word that never changes, the same in every language.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Gone => "gone",
            Self::MaxHold => "max_hold",
            Self::MaxStall => "max_stall",
            Self::Closed => "closed",
        }
    }
}

impl std::fmt::Display for LossReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Expired => "it ran out before a renewal was acknowledged",
            Self::Gone => "the backend no longer knows it",
            Self::MaxHold => "it was held for max_hold",
            Self::MaxStall => "its holder sent no heartbeat for max_stall",
            Self::Closed => "the client was closed",
        })
    }
}

/// What users read of a client that is closed, or is being closed.
pub(crate) const CLOSED: &str = "the client is closed";

/// What users read of a server that is silent.
pub(crate) const NO_ANSWER: &str = "no answer in time";

/// The cause of a failure of a backend that was closed, by which the engine recognises it.
#[derive(Debug, thiserror::Error)]
#[error("{CLOSED}")]
struct BackendClosed;

/// A request that a backend could not answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct BackendError {
    /// What the failure says about the request.
    pub failure: Failure,
    /// What went wrong: short, without secrets, and safe to be printed.
    pub message: Arc<str>,
    /// Another try will fail in the same way until somebody mends something: nothing listens at that address, or the host does not
    /// exist. A single try ends with this failure; other callers go on trying.
    pub definite: bool,
    /// The error underneath.
    #[source]
    pub cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl BackendError {
    /// A failure without an error underneath.
    pub fn new(failure: Failure, message: impl Into<Arc<str>>) -> Self {
        Self { failure, message: harmless(message.into()), definite: false, cause: None }
    }

    /// A failure with the error that caused it; the message is that error's.
    pub fn because(failure: Failure, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        let message = cause.to_string();
        Self { cause: Some(Arc::new(cause)), ..Self::new(failure, message) }
    }

    /// The failure of a request for which the time is up.
    pub(crate) fn no_answer(failure: Failure) -> Self {
        Self::new(failure, NO_ANSWER)
    }

    /// The failure of a backend that was closed.
    pub(crate) fn closed() -> Self {
        Self::because(Failure::Refused, BackendClosed)
    }

    /// Whether the backend was closed while the request was under way.
    pub(crate) fn is_closed(&self) -> bool {
        self.cause.as_ref().is_some_and(|cause| cause.is::<BackendClosed>())
    }

    /// The same failure, known to last.
    pub(crate) fn definite(self) -> Self {
        Self { definite: true, ..self }
    }

    /// The same failure with another message.
    pub(crate) fn reworded(self, words: impl FnOnce(&str) -> String) -> Self {
        Self { message: harmless(words(&self.message).into()), ..self }
    }
}

/// What a failed request may have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may have been executed: the answer is missing. Retrying with the same owner id is safe.
    Unknown,
    /// It was certainly not executed and may be tried again: no connection, a server that is starting up.
    NotSent,
    /// It was certainly not executed and trying again will not help: wrong password, wrong type, forbidden command.
    Refused,
}

/// The text of a server may hold anything.
fn harmless(message: Arc<str>) -> Arc<str> {
    if printable::is_harmless(&message, LONGEST_ANSWER) { message } else { printable::cut(&message, LONGEST_ANSWER).into() }
}

fn quoted(key: &str) -> String {
    format!("lock {}", printable::quoted(key))
}

fn by(holder: Option<&Holder>) -> String {
    holder.map(|holder| format!(" by {holder}")).unwrap_or_default()
}

fn held_by(holder: Option<&Holder>) -> String {
    holder.map(|holder| format!(", held by {holder}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r16_errors_name_key_and_holder() {
        let holder = Holder { owner: "x".into(), ..Holder::default() };
        let error = Error::LockBusy { key: "k".into(), holder: Some(Box::new(holder)) };
        assert_eq!(error.to_string(), "lock \"k\" is held by x");
        assert_eq!((error.code(), error.key()), ("LOCK_BUSY", Some("k")));
    }

    #[test]
    fn r16_an_unavailable_backend_keeps_its_cause() {
        let cause = std::io::Error::other("refused");
        let error = Error::BackendUnavailable {
            key: Some("k".into()),
            operation: "acquire",
            server: "redis://localhost:1".into(),
            source: BackendError::because(Failure::NotSent, cause),
        };
        assert_eq!(error.to_string(), "acquire lock \"k\": redis://localhost:1 is unavailable: refused");
        assert!(std::error::Error::source(&error).unwrap().source().is_some());
    }

    #[test]
    fn r16_a_refusal_is_told_from_an_unavailable_backend() {
        let error = |failure| Error::of_backend("ping", None, "redis://h:1".into(), BackendError::new(failure, "no"));
        let refused = error(Failure::Refused);
        assert_eq!((refused.code(), &*refused.to_string()), ("BACKEND_REFUSED", "ping: redis://h:1 refused: no"));
        for failure in [Failure::NotSent, Failure::Unknown] {
            assert_eq!(error(failure).code(), "BACKEND_UNAVAILABLE");
        }
    }
}
