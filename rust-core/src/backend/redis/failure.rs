//! Reads from an error of the client library what became of the request.

use std::error::Error;
use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError, Value};
use tokio_rustls::rustls;

use super::answers::{self, REPEATED, codes};
use crate::error::{BackendError, Failure, NO_ANSWER};

/// Codes of a server that cannot serve now and may do so soon: nothing was executed.
const TRANSIENT: [&str; 8] = ["LOADING", "READONLY", "MASTERDOWN", "TRYAGAIN", "BUSY", "CLUSTERDOWN", "NOREPLICAS", "MISCONF"];

/// The codes after which another connection may do better: by now the name may lead to the new master.
const DEMOTED: [&str; 2] = ["READONLY", "MASTERDOWN"];

/// The kind with which rustls reports a fault of the other side.
const OF_RUSTLS: io::ErrorKind = io::ErrorKind::InvalidData;

const PLAIN: &str = "does it want no TLS, redis://? ";

/// The failure of a request that was sent.
pub(super) fn of_request(error: RedisError) -> BackendError {
    because(answered(&error).unwrap_or(Failure::Unknown), error)
}

/// The failure to connect: no request was sent.
pub(super) fn of_connecting(error: RedisError) -> BackendError {
    // HELLO carries the password, which the cause would show as well.
    if let Some((message, _)) = error.to_string().split_once(REPEATED) {
        let needed =
            if message.contains("HELLO") { ": Redis 6 or newer is needed, and this command under its own name" } else { "" };
        return BackendError::new(refused_or_transient(&error), format!("{message}{needed}"));
    }
    let failure = match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::RESP3NotSupported | ErrorKind::InvalidClientConfig => {
            refused_or_transient(&error)
        }
        _ => match answered(&error) {
            Some(failure) => failure,
            // No server will be ready in a moment: there is none, or it hangs up.
            None => return because(Failure::NotSent, error).definite(),
        },
    };
    because(failure, error)
}

/// The failure in plain words, with the error as its cause.
fn because(failure: Failure, error: RedisError) -> BackendError {
    let words = answers::in_words(&error);
    let failed = BackendError::because(failure, error);
    match words {
        Some(words) => failed.reworded(|_| words),
        None => failed,
    }
}

/// The failure to log in over the network, where the other side may expect another protocol.
pub(super) fn of_login(error: RedisError, secure: bool) -> BackendError {
    let hung_up = error.is_connection_dropped() && !error.is_connection_refusal();
    let hint = match (secure, hung_up) {
        (true, true) => "it hung up: does it want another certificate of its clients?",
        (false, true) => "it hung up: does it want TLS, rediss://?",
        // With TLS 1.3 the server refuses our certificate only now.
        (true, false) if is_of_rustls(&error) => return of_tls(Failure::Refused, "", error),
        _ if error.kind() == ErrorKind::Parse => "it does not speak as Redis does: is the port right, and the scheme?",
        _ => return of_connecting(error),
    };
    reworded(of_connecting(error), |words| format!("{hint} ({words})"))
}

/// The failure to agree on TLS.
pub(super) fn of_handshake(error: io::Error) -> BackendError {
    let refused = error.kind() == OF_RUSTLS;
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    if refused && !matches!(cause, Some(rustls::Error::InvalidMessage(_))) {
        return of_tls(Failure::Refused, "", error);
    }
    of_tls(if refused { Failure::Refused } else { Failure::NotSent }, PLAIN, error).definite()
}

/// True if TLS ended the login, and not the network below it.
fn is_of_rustls(error: &RedisError) -> bool {
    // The client library wraps the error in an `Arc`, which it returns as the source.
    let shared = error.source().and_then(|source| source.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    let inner = shared.and_then(|error| error.downcast_ref::<io::Error>());
    inner.is_some_and(|error| error.kind() == OF_RUSTLS)
}

/// The failure to get any answer to the TLS handshake.
pub(super) fn of_silence() -> BackendError {
    of_tls(Failure::NotSent, PLAIN, io::Error::new(io::ErrorKind::TimedOut, NO_ANSWER))
}

fn of_tls(failure: Failure, hint: &str, cause: impl std::error::Error + Send + Sync + 'static) -> BackendError {
    reworded(BackendError::because(failure, cause), |words| format!("the TLS handshake failed: {hint}{words}"))
}

/// The same failure in other words.
pub(super) fn reworded(failed: BackendError, words: impl FnOnce(&str) -> String) -> BackendError {
    BackendError { message: words(&failed.message).into(), ..failed }
}

/// The error that a script caught for one request of a batch, from the text that the server gave it.
pub(super) fn of_text(text: &str) -> RedisError {
    let line = text.split(['\r', '\n']).next().unwrap_or_default();
    let answer = redis::parse_redis_value(format!("-{}\r\n", line.trim_start_matches('-')).as_bytes());
    answer.and_then(Value::extract_error).err().unwrap_or_else(|| (ErrorKind::Extension, "an error without a text").into())
}

/// True if another connection may do better: this one is broken, or leads to a server that is no longer the master.
pub(super) fn is_of_the_connection(error: &RedisError) -> bool {
    answered(error).is_none() || codes(error).iter().any(|code| DEMOTED.contains(code))
}

/// True if the error is the server's own answer.
pub(super) fn is_of_the_server(error: &RedisError) -> bool {
    answered(error).is_some()
}

/// What became of the request by the server's own answer; `None` if the error is not the server's answer.
fn answered(error: &RedisError) -> Option<Failure> {
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => Some(refused_or_transient(error)),
        _ => None,
    }
}

fn refused_or_transient(error: &RedisError) -> Failure {
    if codes(error).iter().any(|code| TRANSIENT.contains(code)) { Failure::NotSent } else { Failure::Refused }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(answer: &str) -> Failure {
        of_request(of_text(answer)).failure
    }

    #[test]
    fn a_server_that_cannot_serve_yet_executed_nothing() {
        assert_eq!(failure("LOADING Redis is loading the dataset in memory"), Failure::NotSent);
        assert_eq!(failure("READONLY You can't write against a read only replica."), Failure::NotSent);
        assert_eq!(failure("BUSY Redis is busy running a script"), Failure::NotSent);
        let old = "ERR Error running script (call to f_0): @user_script:8: -READONLY You can't write against a read only replica.";
        assert_eq!(failure(old), Failure::NotSent);
    }

    #[test]
    fn an_error_that_a_script_caught_keeps_its_meaning() {
        let demoted = of_text("@user_script: 8: -READONLY You can't write against a read only replica.\r\n");
        assert!(is_of_the_connection(&demoted));
        assert_eq!(of_request(demoted).failure, Failure::NotSent);
        let wrong = of_text("WRONGTYPE Operation against a key holding the wrong kind of value");
        assert!(!is_of_the_connection(&wrong));
        assert_eq!(of_request(of_text("")).failure, Failure::Refused);
        assert_eq!(of_request(wrong).failure, Failure::Refused);
    }

    #[test]
    fn what_will_not_help_is_refused() {
        assert_eq!(failure("WRONGTYPE Operation against a key holding the wrong kind of value"), Failure::Refused);
        assert_eq!(failure("NOPERM this user has no permissions to run the 'evalsha' command"), Failure::Refused);
        assert_eq!(failure("OOM command not allowed when used memory > 'maxmemory'."), Failure::Refused);
    }

    #[test]
    fn a_network_that_fails_in_a_login_through_tls_is_worth_another_try() {
        let failed = |error: io::Error| of_login(error.into(), true);
        for kind in [io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable, io::ErrorKind::TimedOut] {
            let failed = failed(kind.into());
            assert!(failed.failure == Failure::NotSent && !failed.message.contains("TLS"), "{failed}");
        }
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        let failed = failed(io::Error::new(io::ErrorKind::InvalidData, alert));
        assert!(failed.failure == Failure::Refused && failed.message.contains("TLS handshake"), "{failed}");
    }

    #[test]
    fn r18_a_server_that_repeats_what_it_was_sent_is_cut_short() {
        for answer in [
            "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 's3cretpw' ",
            "ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `s3cretpw`, ",
        ] {
            for failed in [of_connecting(of_text(answer)), of_login(of_text(answer), false), of_login(of_text(answer), true)] {
                assert_eq!((failed.failure, failed.cause.is_none()), (Failure::Refused, true));
                assert!(failed.message.contains("HELLO") && !failed.message.contains("s3cretpw"), "{failed}");
            }
        }
    }

    #[test]
    fn a_broken_connection_leaves_the_outcome_unknown() {
        let broken = RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert!(is_of_the_connection(&broken));
        assert_eq!(of_request(broken.clone()).failure, Failure::Unknown);
        assert_eq!(of_connecting(broken).failure, Failure::NotSent);
    }
}
