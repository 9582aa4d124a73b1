//! What an error of the client library says about the request, and about who else might do better.

use std::error::Error as StdError;
use std::io;

use etcd_client::Error;
use tonic::{Code, ConnectError, Status};

use super::address::Endpoint;
use crate::error::{BackendError, Failure};

/// Whose failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// This server's, or that of the way to it: another one may do better.
    Server,
    /// This server's, which does not answer: another one may, or this one when it is asked again.
    Silent,
    /// This server's, which sees no leader: another one may, or this one soon.
    Leaderless,
    /// The cluster's, at this moment: it may do better soon.
    Moment,
    /// The login's: it must be done again.
    Login,
    /// The request's own: no server will do better.
    Request,
}

/// A failure that names its server.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub(super) scope: Scope,
    pub(super) error: BackendError,
}

impl Failed {
    /// A failure found on this side.
    pub(super) fn new(server: &Endpoint, scope: Scope, failure: Failure, told: &str) -> Self {
        Self { scope, error: BackendError::new(failure, format!("{server}: {told}")) }
    }

    fn because(server: &Endpoint, (scope, failure, told): Reading, cause: impl StdError + Send + Sync + 'static) -> Self {
        let error = BackendError::because(failure, cause).reworded(|_| format!("{server}: {told}"));
        Self { scope, error }
    }

    /// The failure of a request that was sent.
    pub(super) fn of_request(server: &Endpoint, error: Error) -> Self {
        Self::because(server, of_request(&error), error)
    }

    /// The failure to connect or to log in: no request of a caller was sent.
    pub(super) fn of_connecting(server: &Endpoint, error: Error) -> Self {
        let failed = Self::because(server, of_connecting(&error, server.is_secure()), error);
        // Nobody listens there, or it is not etcd. What etcd itself answers may be another thing in a moment.
        let definite = failed.scope == Scope::Server && failed.error.failure == Failure::NotSent;
        Self { error: BackendError { definite, ..failed.error }, ..failed }
    }
}

type Reading = (Scope, Failure, String);

fn of_request(error: &Error) -> Reading {
    match error {
        Error::GRpcStatus(status) if is_from_etcd(status) => answered(status),
        Error::GRpcStatus(status) => {
            let failure = if is_unconnected(status) { Failure::NotSent } else { Failure::Unknown };
            (Scope::Server, failure, innermost(status))
        }
        // Nothing of these was sent: they are about the request itself.
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) | Error::Utf8Error(_) => {
            (Scope::Request, Failure::Refused, error.to_string())
        }
        Error::TransportError(error) => (Scope::Server, Failure::Unknown, innermost(error)),
        _ => (Scope::Server, Failure::Unknown, error.to_string()),
    }
}

fn of_connecting(error: &Error, secure: bool) -> Reading {
    let (cause, connected): (&(dyn StdError + 'static), bool) = match error {
        Error::GRpcStatus(status) if is_from_etcd(status) => {
            let (scope, failure, told) = answered(status);
            // What may have been executed is a login.
            let failure = if failure == Failure::Unknown { Failure::NotSent } else { failure };
            return (scope, failure, told);
        }
        Error::GRpcStatus(status) => (status, true),
        Error::TransportError(error) => (error, false),
        other => return (Scope::Server, Failure::Refused, other.to_string()),
    };
    let told = innermost(cause);
    let kind = chain(cause).find_map(|cause| cause.downcast_ref()).map(io::Error::kind);
    let (failure, told) = match (kind, is_unspoken(cause), connected, secure) {
        // What rustls does not like about the other side comes as this.
        (Some(io::ErrorKind::InvalidData), ..) => (Failure::Refused, format!("the TLS handshake failed: {told}")),
        (Some(io::ErrorKind::UnexpectedEof), _, false, true) => {
            (Failure::NotSent, format!("the TLS handshake failed: does it want no TLS, etcd://? ({told})"))
        }
        (_, true, ..) => (Failure::Refused, format!("it does not speak as etcd does: is the port right, and the scheme? ({told})")),
        (_, _, true, true) => (Failure::NotSent, format!("it hung up: does it want another certificate of its clients? ({told})")),
        (_, _, true, false) => (Failure::NotSent, format!("it hung up: does it want TLS, etcds://? ({told})")),
        _ => (Failure::NotSent, format!("cannot connect: {told}")),
    };
    (Scope::Server, failure, told)
}

/// What etcd itself says. Matched by its texts: one code stands for many things.
fn answered(status: &Status) -> Reading {
    let text = status.message();
    let is = |known: &str| text.contains(known);
    let told = || text.to_owned();
    match status.code() {
        Code::Unauthenticated => (Scope::Login, Failure::NotSent, told()),
        Code::Unknown if is("invalid auth token") => (Scope::Login, Failure::NotSent, told()),
        Code::InvalidArgument if is("revision of auth store is old") => (Scope::Login, Failure::NotSent, told()),
        Code::InvalidArgument if is("user name is empty") => {
            (Scope::Login, Failure::NotSent, format!("the server wants a user and a password, and the URL has none ({text})"))
        }
        Code::InvalidArgument if is("authentication failed") => {
            (Scope::Request, Failure::Refused, format!("the server does not know this user with this password ({text})"))
        }
        Code::PermissionDenied if is("permission denied") => {
            (Scope::Request, Failure::Refused, format!("the user has no right to this key ({text})"))
        }
        Code::ResourceExhausted if is("database space exceeded") => {
            (Scope::Request, Failure::Refused, format!("the server's database is full, and it takes no writes (NOSPACE: {text})"))
        }
        Code::Unavailable if is("no leader") => {
            (Scope::Leaderless, Failure::NotSent, "it sees no leader of the cluster".to_owned())
        }
        Code::Unavailable | Code::FailedPrecondition if is("learner") => (Scope::Server, Failure::NotSent, told()),
        Code::ResourceExhausted if is("too many requests") => (Scope::Moment, Failure::NotSent, told()),
        // Leaders change, the log is slow, a server stops: the request may have got through.
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted => {
            (Scope::Moment, Failure::Unknown, told())
        }
        _ => (Scope::Request, Failure::Refused, told()),
    }
}

/// True for an answer of etcd; anything else was made up on the way: by this side's library, a proxy, another kind of server.
fn is_from_etcd(status: &Status) -> bool {
    ["etcdserver: ", "mvcc: ", "auth: ", "raft: "].iter().any(|own| status.message().starts_with(own))
}

/// True if there was no connection to send it on.
fn is_unconnected(status: &Status) -> bool {
    chain(status).any(<dyn StdError>::is::<ConnectError>)
}

/// True if the other side answers with something that is not gRPC.
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

/// The text of the error at the bottom: those above say `transport error`.
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

    fn reading(code: Code, text: &str) -> (Scope, Failure) {
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
            assert_eq!(reading(Code::Unavailable, text), (Scope::Moment, Failure::Unknown), "{text}");
        }
        assert_eq!(reading(Code::Unavailable, "the connection is draining"), (Scope::Server, Failure::Unknown));
        assert_eq!(reading(Code::Unknown, "h2 protocol error"), (Scope::Server, Failure::Unknown));
    }

    #[test]
    fn what_etcd_did_not_do_is_told_from_what_it_will_not_do() {
        assert_eq!(reading(Code::Unavailable, "etcdserver: no leader"), (Scope::Leaderless, Failure::NotSent));
        assert_eq!(reading(Code::ResourceExhausted, "etcdserver: too many requests"), (Scope::Moment, Failure::NotSent));
        for (code, text) in [
            (Code::Unauthenticated, "etcdserver: invalid auth token"),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
            (Code::InvalidArgument, "etcdserver: user name is empty"),
        ] {
            assert_eq!(reading(code, text), (Scope::Login, Failure::NotSent), "{text}");
        }
        for (code, text) in [
            (Code::PermissionDenied, "etcdserver: permission denied"),
            (Code::NotFound, "etcdserver: requested lease not found"),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            (Code::InvalidArgument, "etcdserver: too many operations in txn request"),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
        ] {
            assert_eq!(reading(code, text), (Scope::Request, Failure::Refused), "{text}");
        }
    }
}
