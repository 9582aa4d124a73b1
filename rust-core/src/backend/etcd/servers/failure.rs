//! What an error of the client library means: was the request executed, and may another server serve it?

use std::error::Error as StdError;
use std::io;

use etcd_client::Error;
use tonic::{Code, ConnectError, Status};

use super::address::Endpoint;
use crate::error::{BackendError, Failure};

/// What has failed, and so who may do better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureScope {
    /// This server, or the way to it. Another server may do better.
    Server,
    /// This server does not answer. Another server may, or this one when it is asked again.
    Silent,
    /// This server sees no leader. Another server may see one, or this one soon.
    Leaderless,
    /// The cluster cannot serve at this moment. It may soon.
    Moment,
    /// The login is not valid any more, and must be repeated.
    Login,
    /// The request itself. No server will do better.
    Request,
}

/// A failure that names its server.
#[derive(Clone, Debug)]
pub(super) struct ServerFailure {
    pub(super) scope: FailureScope,
    pub(super) error: BackendError,
}

impl ServerFailure {
    /// A failure that this client found by itself.
    pub(super) fn new(server: &Endpoint, scope: FailureScope, failure: Failure, message: &str) -> Self {
        Self { scope, error: BackendError::new(failure, format!("{server}: {message}")) }
    }

    /// The failure of a client that has closed its connections.
    pub(super) fn closed(server: &Endpoint) -> Self {
        let error = BackendError::closed().reworded(|message| format!("{server}: {message}"));
        Self { scope: FailureScope::Request, error }
    }

    fn because(server: &Endpoint, (scope, failure, message): FailureReading, cause: impl StdError + Send + Sync + 'static) -> Self {
        let error = BackendError::because(failure, cause).reworded(|_| format!("{server}: {message}"));
        Self { scope, error }
    }

    /// The failure of a request that was sent.
    pub(super) fn of_request(server: &Endpoint, error: Error) -> Self {
        Self::because(server, of_request(&error), error)
    }

    /// The failure to connect or to log in: no request of a caller was sent.
    pub(super) fn of_connecting(server: &Endpoint, error: Error) -> Self {
        let failed = Self::because(server, of_connecting(&error, server.is_secure()), error);
        // Nobody listens there, or the server is not etcd. An answer of etcd itself is not definite, as it may change in a moment.
        let definite = failed.scope == FailureScope::Server && failed.error.failure == Failure::NotSent;
        Self { error: BackendError { definite, ..failed.error }, ..failed }
    }
}

type FailureReading = (FailureScope, Failure, String);

fn of_request(error: &Error) -> FailureReading {
    match error {
        Error::GRpcStatus(status) if is_from_etcd(status) => answered(status),
        Error::GRpcStatus(status) => {
            let failure = if is_unconnected(status) { Failure::NotSent } else { Failure::Unknown };
            (FailureScope::Server, failure, innermost(status))
        }
        // These are errors in the request itself, which was not sent.
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) | Error::Utf8Error(_) => {
            (FailureScope::Request, Failure::Refused, error.to_string())
        }
        Error::TransportError(error) => (FailureScope::Server, Failure::Unknown, innermost(error)),
        _ => (FailureScope::Server, Failure::Unknown, error.to_string()),
    }
}

fn of_connecting(error: &Error, secure: bool) -> FailureReading {
    let (cause, connected): (&(dyn StdError + 'static), bool) = match error {
        Error::GRpcStatus(status) if is_from_etcd(status) => {
            let (scope, failure, message) = answered(status);
            // At most a login was executed, and none of the caller's requests.
            let failure = if failure == Failure::Unknown { Failure::NotSent } else { failure };
            return (scope, failure, message);
        }
        Error::GRpcStatus(status) => (status, true),
        Error::TransportError(error) => (error, false),
        other => return (FailureScope::Server, Failure::Refused, other.to_string()),
    };
    let message = innermost(cause);
    let kind = chain(cause).find_map(|cause| cause.downcast_ref()).map(io::Error::kind);
    let (failure, message) = match (kind, is_unspoken(cause), connected, secure) {
        // rustls reports what it rejects about the other side in this way.
        (Some(io::ErrorKind::InvalidData), ..) => (Failure::Refused, format!("the TLS handshake failed: {message}")),
        (Some(io::ErrorKind::UnexpectedEof), _, false, true) => {
            (Failure::NotSent, format!("the TLS handshake failed: does it want no TLS, etcd://? ({message})"))
        }
        (_, true, ..) => {
            (Failure::Refused, format!("it does not speak as etcd does: is the port right, and the scheme? ({message})"))
        }
        (_, _, true, true) => {
            (Failure::NotSent, format!("it hung up: does it want another certificate of its clients? ({message})"))
        }
        (_, _, true, false) => (Failure::NotSent, format!("it hung up: does it want TLS, etcds://? ({message})")),
        _ => (Failure::NotSent, format!("cannot connect: {message}")),
    };
    (FailureScope::Server, failure, message)
}

/// Reads an answer of etcd itself. It is matched by its text, because one code stands for many things.
fn answered(status: &Status) -> FailureReading {
    let text = status.message();
    let is = |known: &str| text.contains(known);
    let message = || text.to_owned();
    match status.code() {
        Code::Unauthenticated => (FailureScope::Login, Failure::NotSent, message()),
        Code::Unknown if is("invalid auth token") => (FailureScope::Login, Failure::NotSent, message()),
        Code::InvalidArgument if is("revision of auth store is old") => (FailureScope::Login, Failure::NotSent, message()),
        Code::InvalidArgument if is("user name is empty") => (
            FailureScope::Login,
            Failure::NotSent,
            format!("the server wants a user and a password, and the URL has none ({text})"),
        ),
        Code::InvalidArgument if is("authentication failed") => {
            (FailureScope::Request, Failure::Refused, format!("the server does not know this user with this password ({text})"))
        }
        Code::PermissionDenied if is("permission denied") => {
            (FailureScope::Request, Failure::Refused, format!("the user has no right to this key ({text})"))
        }
        Code::ResourceExhausted if is("database space exceeded") => (
            FailureScope::Request,
            Failure::Refused,
            format!("the server's database is full, and it takes no writes (NOSPACE: {text})"),
        ),
        Code::Unavailable if is("no leader") => {
            (FailureScope::Leaderless, Failure::NotSent, "it sees no leader of the cluster".to_owned())
        }
        Code::Unavailable | Code::FailedPrecondition if is("learner") => (FailureScope::Server, Failure::NotSent, message()),
        Code::ResourceExhausted if is("too many requests") => (FailureScope::Moment, Failure::NotSent, message()),
        // The leader changed, the log is slow, or the server stops: the request may have been executed.
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted => {
            (FailureScope::Moment, Failure::Unknown, message())
        }
        _ => (FailureScope::Request, Failure::Refused, message()),
    }
}

/// True for an answer of etcd itself. Other answers come from the client library, a proxy, or another kind of server.
fn is_from_etcd(status: &Status) -> bool {
    ["etcdserver: ", "mvcc: ", "auth: ", "raft: "].iter().any(|own| status.message().starts_with(own))
}

/// True if there was no connection to send the request on.
fn is_unconnected(status: &Status) -> bool {
    chain(status).any(<dyn StdError>::is::<ConnectError>)
}

/// True if the other side answers something that is not gRPC.
fn is_unspoken(cause: &(dyn StdError + 'static)) -> bool {
    let texts = [
        "frame with invalid size",
        "invalid compression flag",
        "mapped from HTTP status",
        "HTTP/2 was not negotiated",
        "protocol error",
    ];
    chain(cause).any(|cause| texts.iter().any(|text| cause.to_string().contains(text)))
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The text of the innermost error. The errors around it only say `transport error`.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let bottom = chain(error).last().unwrap_or(error);
    match bottom.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => bottom.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(code: Code, text: &str) -> (FailureScope, Failure) {
        let (scope, failure, _) = of_request(&Error::GRpcStatus(Status::new(code, text)));
        (scope, failure)
    }

    #[test]
    fn a_request_that_may_have_been_executed_is_never_called_unsent() {
        for text in [
            "etcdserver: request timed out",
            "etcdserver: request timed out, possibly due to previous leader failure",
            "etcdserver: request timed out, possibly due to connection lost",
            "etcdserver: leader changed",
            "etcdserver: server stopped",
            "etcdserver: request timed out, waiting for the applied index took too long",
            "raft: stopped",
        ] {
            assert_eq!(reading(Code::Unavailable, text), (FailureScope::Moment, Failure::Unknown), "{text}");
        }
        assert_eq!(reading(Code::Unavailable, "the connection is draining"), (FailureScope::Server, Failure::Unknown));
        assert_eq!(reading(Code::Unknown, "h2 protocol error"), (FailureScope::Server, Failure::Unknown));
    }

    #[test]
    fn what_etcd_did_not_do_differs_from_what_it_will_not_do() {
        assert_eq!(reading(Code::Unavailable, "etcdserver: no leader"), (FailureScope::Leaderless, Failure::NotSent));
        assert_eq!(reading(Code::ResourceExhausted, "etcdserver: too many requests"), (FailureScope::Moment, Failure::NotSent));
        for (code, text) in [
            (Code::Unauthenticated, "etcdserver: invalid auth token"),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
            (Code::InvalidArgument, "etcdserver: user name is empty"),
        ] {
            assert_eq!(reading(code, text), (FailureScope::Login, Failure::NotSent), "{text}");
        }
        for (code, text) in [
            (Code::PermissionDenied, "etcdserver: permission denied"),
            (Code::NotFound, "etcdserver: requested lease not found"),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            (Code::InvalidArgument, "etcdserver: too many operations in txn request"),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
        ] {
            assert_eq!(reading(code, text), (FailureScope::Request, Failure::Refused), "{text}");
        }
    }
}
