//! `redis://`: spoilt tokens count as none, and do no harm to other keys.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use dlock::backend::Outcome;
use dlock::error::Failure;
use dlock::fencing::{MAX_TOKEN, is_token};
use dlock::{Client, Error};
use support::eventually;
use support::redis::{Cli, PROGRAMS, Server, Session, TIMEOUT};

/// Texts that are no integer from 1 to 2^52 - 1.
const SPOILT: [&str; 25] = [
    "",
    "abc",
    "0",
    "-1",
    "-1790000000000000",
    "1e5",
    "1e15",
    "4e15",
    "inf",
    "-inf",
    "nan",
    "0x10",
    "0x7fffffffffffff",
    "12.5",
    "3000000000000000.5",
    " 4000000000000000",
    "4000000000000000 ",
    "4000000000000000\n",
    "+4000000000000000",
    "04000000000000000",
    "4503599627370496",
    "9007199254740993",
    "9223372036854775807",
    "9999999999999999999999",
    "4000000000000000\0",
];

/// The key of the last token of the only slot in use.
async fn slot(cli: &Cli) -> String {
    cli.run::<Vec<String>>(&["KEYS", "dlock:t:*"]).await.pop().unwrap()
}

async fn take(session: &Session, sequence: u64) -> u64 {
    let token = session.granted("k", sequence).await.token;
    assert_eq!(session.release("k", sequence).await, Outcome::Released);
    token
}

#[tokio::test]
async fn r07_a_last_token_that_was_spoilt_is_none() {
    for program in PROGRAMS {
        let server = Server::start_program(program, &[]).await;
        let (cli, session) = (server.cli().await, Session::new(&server));
        let mut last = take(&session, 1).await;
        let slot = slot(&cli).await;
        for (number, spoilt) in SPOILT.iter().enumerate() {
            cli.run::<()>(&["SET", &slot, spoilt]).await;
            for each in 0..3 {
                let token = take(&session, 2 + 3 * number as u64 + each).await;
                assert!(last < token && token <= cli.time().await, "{program}: {token} after {last}, {spoilt:?}");
                last = token;
            }
            assert_eq!(cli.run::<String>(&["GET", &slot]).await, last.to_string(), "{program}: mended");
        }
        for other in [["RPUSH", "x"], ["SADD", "x"]] {
            cli.run::<i64>(&["DEL", &slot]).await;
            cli.run::<i64>(&[other[0], &slot, other[1]]).await;
            let token = take(&session, 900).await;
            assert!(token > last, "{program}: {token} after {last}, a value of another type");
            last = token;
        }
    }
}

/// The tokens rise exactly up to the largest one, and then an acquire fails with a plain sentence.
#[tokio::test]
async fn r07_tokens_rise_to_the_last_one_and_then_no_further() {
    for program in PROGRAMS {
        let server = Server::start_program(program, &[]).await;
        let (cli, session) = (server.cli().await, Session::new(&server));
        take(&session, 1).await;
        let slot = slot(&cli).await;
        cli.run::<()>(&["SET", &slot, &(MAX_TOKEN - 3).to_string()]).await;
        for (sequence, expected) in [(2, MAX_TOKEN - 2), (3, MAX_TOKEN - 1), (4, MAX_TOKEN)] {
            assert_eq!(take(&session, sequence).await, expected, "{program}");
        }
        let error = session.backend.acquire(session.request("k", 5)).await.unwrap_err();
        assert_eq!(error.failure, Failure::Refused);
        assert!(error.message.starts_with("no fencing token is above the last one") && error.message.contains(&slot), "{error}");
        assert_eq!(cli.run::<i64>(&["EXISTS", "ns/k"]).await, 0, "nothing remains");
        cli.run::<()>(&["DEL", &slot]).await;
        assert!(is_token(take(&session, 6).await));
    }
}

/// In a batch, where one floor counts for all requests, and for the next waiter of a release.
#[tokio::test]
async fn r07_what_cannot_be_granted_for_want_of_a_token_keeps_nobody_out() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, Session::new(&server));
    take(&session, 1).await;
    session.granted("k", 2).await;
    cli.run::<()>(&["SET", &slot(&cli).await, &MAX_TOKEN.to_string()]).await;
    let error = session.release_to("k", 2, Some(session.request("k", 3))).await.unwrap_err();
    assert_eq!(error.failure, Failure::Refused, "the next one is told");
    assert_eq!(session.release("k", 2).await, Outcome::Released, "and the key is released without it");
    assert_eq!(cli.run::<i64>(&["EXISTS", "ns/k"]).await, 0);
}

#[tokio::test]
async fn r07_a_lock_whose_own_token_was_spoilt_is_confirmed_with_a_new_one() {
    for program in PROGRAMS {
        let server = Server::start_program(program, &[]).await;
        let (cli, session) = (server.cli().await, Session::new(&server));
        let mut last = 0;
        for (number, spoilt) in SPOILT.iter().chain(&["00", "|"]).enumerate() {
            let owner = session.owner(number as u64 + 1);
            cli.run::<()>(&["SET", "ns/k", &format!("{owner}|1|{spoilt}|note"), "PX", "5000"]).await;
            let seen = session.backend.inspect("k".into(), TIMEOUT).await.unwrap().holder.unwrap();
            assert!(seen.token.is_none_or(is_token), "{program}: {seen:?}");
            let confirmed = session.granted("k", number as u64 + 1).await.token;
            assert!(last < confirmed && is_token(confirmed), "{program}: {confirmed} after {last}, {spoilt:?}");
            assert_eq!(session.granted("k", number as u64 + 1).await.token, confirmed, "{program}: the same answer again");
            assert_eq!(session.release("k", number as u64 + 1).await, Outcome::Released);
            last = confirmed;
        }
    }
}

/// The value of a key names its holder and token. A value whose token somebody has set back must not be believed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r07_a_grant_that_does_not_rise_is_refused_and_released() {
    let server = Server::start().await;
    let (cli, client) = (server.cli().await, Client::new(&server.url()).unwrap());
    let first = client.lock("k").acquire().await.unwrap();
    let waiting = tokio::spawn({
        let client = Client::new(&server.url()).unwrap();
        async move {
            // So that it has a token to compare with.
            client.lock("other").acquire().await.unwrap().release().await.unwrap();
            client.lock("k").acquire().await
        }
    });
    eventually("somebody waits", || async { !client.inspect("k").await.unwrap().queue.is_empty() }).await;
    let owner = client.inspect("k").await.unwrap().queue.remove(0);
    // As after a grant long ago.
    cli.run::<()>(&["SET", "dlock/k", &format!("{owner}|1|77|{{}}"), "PX", "30000"]).await;
    cli.run::<i64>(&["PUBLISH", &format!("dlock:s:{}", owner.split(':').next().unwrap()), &format!("{owner} dlock/k")]).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("the token 77, which is not above the last one"), "{error}");
    assert!(!matches!(error, Error::LockLost { .. }), "{error:?}");
    eventually("it was released", || async { cli.run::<i64>(&["EXISTS", "dlock/k"]).await == 0 }).await;
    assert!(client.lock("k").acquire().await.unwrap().token() > first.token());
}

/// The case that was found: one bad value, and its effect on other keys and other clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r07_no_client_carries_a_spoilt_token_on() {
    let server = Server::start().await;
    let (cli, a, b) = (server.cli().await, Client::new(&server.url()).unwrap(), Client::new(&server.url()).unwrap());
    let token = async |client: &Client, key: &str| {
        let lease = client.lock(key).wait(Duration::from_secs(5)).acquire().await.unwrap();
        let token = lease.token();
        lease.release().await.unwrap();
        token
    };
    token(&a, "k").await;
    cli.run::<()>(&["SET", &slot(&cli).await, "9007199254740993"]).await;
    for client in [&a, &b] {
        for key in ["k", "other"] {
            let tokens = [token(client, key).await, token(client, key).await, token(client, key).await];
            assert!(tokens[0] < tokens[1] && tokens[1] < tokens[2] && tokens[2] <= cli.time().await, "{key}: {tokens:?}");
        }
    }
}
