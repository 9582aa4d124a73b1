//! `redis://`: acquiring, renewing and releasing one key.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use dlock::backend::{Acquired, Handover, Hint, Outcome, Renew, Renewed, Whom};
use dlock::error::Failure;
use support::redis::{Server, Session, Setup, TIMEOUT, TTL, grant, waiting};

const MS: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_free_key_is_granted_and_then_confirmed() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, Session::new(&server));
    let first = session.granted("k", 1).await;
    assert_eq!(first.ttl, TTL);
    cli.run::<i64>(&["PEXPIRE", "ns/k", "5000"]).await;
    assert_eq!(session.granted("k", 1).await, first, "the same answer again");
    assert!(cli.left("ns/k").await > 25_000 * MS, "the full TTL from now");
    assert_eq!(session.release("k", 1).await, Outcome::Released);
    assert_eq!(session.release("k", 1).await, Outcome::NotHeld);
    assert!(session.granted("k", 2).await.token > first.token);
}

#[tokio::test]
async fn the_value_is_a_plain_string_that_names_owner_version_token_and_note() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, Session::new(&server));
    let token = session.granted("k", 1).await.token;
    let value: String = cli.run(&["GET", "ns/k"]).await;
    assert!(value.starts_with(&format!("{}|1|{token}|{{\"host\":", session.owner(1))), "{value}");
    let seen = session.backend.inspect("k".into(), TIMEOUT).await.unwrap().holder.unwrap();
    assert_eq!((seen.owner, seen.token), (session.owner(1).to_string(), Some(token)));
    assert_eq!(seen.note.unwrap().pid, std::process::id());
}

#[tokio::test]
async fn a_release_hands_the_key_to_the_first_waiter() {
    let server = Server::start().await;
    let (a, mut b, mut c) = (Session::new(&server), Session::new(&server), Session::new(&server));
    let first = a.granted("k", 1).await;
    let (second, third) = (b.waiting("k", 1).await, c.waiting("k", 1).await);
    assert_eq!((second.position, third.position), (Some(0), Some(1)));
    assert_eq!(second.holder.unwrap().token, Some(first.token));
    assert!(second.look_again <= TTL + MS && third.look_again <= TTL + MS, "the first two watch the holder's end");
    assert_eq!(a.release("k", 1).await, Outcome::Released);
    assert_eq!(b.hint().await, Hint::Key("k".into(), Some(b.owner(1))));
    let claimed = c.waiting("k", 1).await;
    assert!(claimed.look_again <= 1001 * MS, "a claim's end is everybody's business: {claimed:?}");
    let second = b.granted("k", 1).await;
    assert!(second.token > first.token);
    assert_eq!(b.release("k", 1).await, Outcome::Released);
    assert_eq!(c.hint().await, Hint::Key("k".into(), Some(c.owner(1))));
    assert!(c.granted("k", 1).await.token > second.token);
    assert!(a.hints.is_empty() && b.hints.is_empty() && c.hints.is_empty());
}

#[tokio::test]
async fn confirming_a_claim_gives_the_full_ttl_and_its_own_note() {
    let server = Server::start().await;
    let (cli, a, mut b) = (server.cli().await, Session::new(&server), Session::new(&server));
    a.granted("k", 1).await;
    b.waiting("k", 1).await;
    a.release("k", 1).await;
    b.hint().await;
    let claim: String = cli.run(&["GET", "ns/k"]).await;
    assert_eq!(claim, format!("{}|1|0|", b.owner(1)));
    assert!(cli.left("ns/k").await <= 1000 * MS);
    let floor = cli.time().await + 60_000_000;
    let confirmed = grant(b.backend.acquire(dlock::backend::Acquire { floor, ..b.request("k", 1) }).await.unwrap());
    assert!(confirmed.token > floor, "a claim's token is drawn when it is confirmed");
    assert_eq!(b.granted("k", 1).await.token, confirmed.token);
    assert!(cli.left("ns/k").await > 25_000 * MS);
    assert!(b.backend.inspect("k".into(), TIMEOUT).await.unwrap().holder.unwrap().note.is_some());
}

#[tokio::test]
async fn the_next_waiter_is_granted_at_once_where_nobody_waits() {
    let server = Server::start().await;
    let a = Session::new(&server);
    let first = a.granted("k", 1).await;
    let Handover { outcome: Outcome::Released, next: Some(Acquired::Granted(second)) } =
        a.release_to("k", 1, Some(a.request("k", 2))).await.unwrap()
    else {
        panic!("not handed on")
    };
    assert!(second.token > first.token);
    let again = a.release_to("k", 1, Some(a.request("k", 2))).await.unwrap();
    assert_eq!(again, Handover { outcome: Outcome::NotHeld, next: Some(Acquired::Granted(second)) }, "a retry is answered alike");
}

#[tokio::test]
async fn the_next_waiter_takes_the_end_of_the_queue() {
    let server = Server::start().await;
    let (mut a, mut b) = (Session::new(&server), Session::new(&server));
    a.granted("k", 1).await;
    b.waiting("k", 1).await;
    let handed = a.release_to("k", 1, Some(a.request("k", 2))).await.unwrap();
    assert_eq!(handed.outcome, Outcome::Released);
    assert_eq!(waiting(handed.next.unwrap()).position, Some(1));
    assert_eq!(b.hint().await, Hint::Key("k".into(), Some(b.owner(1))));
    b.granted("k", 1).await;
    b.release("k", 1).await;
    assert_eq!(a.hint().await, Hint::Key("k".into(), Some(a.owner(2))));
    a.granted("k", 2).await;
}

#[tokio::test]
async fn a_next_waiter_that_is_first_in_line_is_granted_without_a_claim() {
    let server = Server::start().await;
    let (mut a, b) = (Session::new(&server), Session::new(&server));
    a.granted("k", 1).await;
    a.waiting("k", 2).await;
    b.waiting("k", 1).await;
    let handed = a.release_to("k", 1, Some(a.request("k", 2))).await.unwrap();
    grant(handed.next.unwrap());
    assert!(a.hints.try_recv().is_err());
    assert_eq!(b.waiting("k", 1).await.position, Some(0));
}

#[tokio::test]
async fn a_leave_withdraws_a_waiter_or_releases_a_claim_or_a_grant_and_may_be_repeated() {
    let server = Server::start().await;
    let (cli, a, mut b, mut c) = (server.cli().await, Session::new(&server), Session::new(&server), Session::new(&server));
    a.granted("k", 1).await;
    b.waiting("k", 1).await;
    c.waiting("k", 1).await;
    c.leave("k", 1).await;
    c.leave("k", 1).await;
    assert_eq!(b.backend.inspect("k".into(), TIMEOUT).await.unwrap().queue, [b.owner(1).to_string()]);
    c.waiting("k", 2).await;
    a.release("k", 1).await;
    b.hint().await;
    b.leave("k", 1).await;
    assert_eq!(c.hint().await, Hint::Key("k".into(), Some(c.owner(2))), "a claim that is left goes on");
    c.granted("k", 2).await;
    c.leave("k", 2).await;
    assert_eq!(cli.run::<i64>(&["EXISTS", "ns/k"]).await, 0);
}

#[tokio::test]
async fn an_owner_is_compared_whole_not_by_its_beginning() {
    let server = Server::start().await;
    let session = Session::new(&server);
    session.granted("k", 10).await;
    assert_eq!(session.release("k", 1).await, Outcome::NotHeld);
    session.leave("k", 1).await;
    let renew = Renew { key: "k".into(), owner: session.owner(1), ttl: TTL, exact: false };
    assert_eq!(session.backend.renew(vec![renew], TIMEOUT).await.unwrap(), [Renewed::Gone]);
    waiting(session.backend.acquire(dlock::backend::Acquire { enqueue: false, ..session.request("k", 1) }).await.unwrap());
    assert_eq!(session.release("k", 10).await, Outcome::Released);
}

#[tokio::test]
async fn a_try_leaves_nothing_behind() {
    let server = Server::start().await;
    let (cli, a, b) = (server.cli().await, Session::new(&server), Session::new(&server));
    a.granted("k", 1).await;
    let before = cli.keys().await;
    let request = dlock::backend::Acquire { enqueue: false, ..b.request("k", 1) };
    let held = waiting(b.backend.acquire(request).await.unwrap());
    assert_eq!((held.position, held.holder.unwrap().owner), (None, a.owner(1).to_string()));
    assert_eq!(cli.keys().await, before);
}

#[tokio::test]
async fn an_unfair_request_takes_a_free_key_past_those_who_wait() {
    let server = Server::start().await;
    let (cli, a, b, c) = (server.cli().await, Session::new(&server), Session::new(&server), Session::new(&server));
    a.granted("k", 1).await;
    b.waiting("k", 1).await;
    cli.run::<i64>(&["DEL", "ns/k"]).await;
    grant(c.backend.acquire(dlock::backend::Acquire { fair: false, ..c.request("k", 1) }).await.unwrap());
    assert_eq!(b.waiting("k", 1).await.position, Some(0), "and they keep their places");
}

#[tokio::test]
async fn a_newcomer_hands_a_free_key_to_the_first_in_line() {
    let server = Server::start().await;
    let (cli, a, mut b, c) = (server.cli().await, Session::new(&server), Session::new(&server), Session::new(&server));
    a.granted("k", 1).await;
    b.waiting("k", 1).await;
    cli.run::<i64>(&["DEL", "ns/k"]).await;
    assert!(c.waiting("k", 1).await.look_again <= 1001 * MS);
    b.hint().await;
    b.granted("k", 1).await;
}

#[tokio::test]
async fn renewals_extend_only_what_the_owner_holds_and_shorten_only_when_told() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, Session::new(&server));
    let renew = |key: &str, sequence, ms, exact| Renew { key: key.into(), owner: session.owner(sequence), ttl: ms * MS, exact };
    session.granted("a", 1).await;
    session.granted("b", 2).await;
    session.granted("c", 3).await;
    cli.run::<i64>(&["LPUSH", "ns/list", "x"]).await;
    let batch = vec![
        renew("a", 1, 60_000, false),
        renew("b", 2, 5_000, false),
        renew("c", 3, 5_000, true),
        renew("a", 9, 60_000, true),
        renew("missing", 1, 60_000, true),
        renew("list", 1, 60_000, true),
    ];
    let answers = session.backend.renew(batch, TIMEOUT).await.unwrap();
    assert_eq!(answers[0], Renewed::Extended(60_000 * MS));
    assert!(matches!(answers[1], Renewed::Extended(left) if left > 25_000 * MS));
    assert_eq!(answers[2], Renewed::Extended(5_000 * MS));
    assert_eq!(answers[3..], [Renewed::Gone, Renewed::Gone, Renewed::Gone]);
    assert!(cli.left("ns/a").await > 55_000 * MS && cli.left("ns/b").await > 25_000 * MS && cli.left("ns/c").await <= 5_000 * MS);
    assert_eq!(cli.run::<i64>(&["EXISTS", "ns/missing"]).await, 0);
}

#[tokio::test]
async fn large_batches_are_answered_one_for_one() {
    let server = Server::start().await;
    let session = Session::new(&server);
    session.granted("k700", 700).await;
    let renew = |n| Renew { key: format!("k{n}").into(), owner: session.owner(n), ttl: TTL, exact: false };
    let answers = session.backend.renew((0..1201).map(renew).collect(), TIMEOUT).await.unwrap();
    assert_eq!(answers.len(), 1201);
    assert_eq!(answers.iter().position(|answer| *answer != Renewed::Gone), Some(700));
}

#[tokio::test]
async fn r07_token_survives_flushall() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, Session::new(&server));
    let mut last = 0;
    for sequence in 0..20 {
        let token = session.granted("k", sequence).await.token;
        assert!(token > last, "{token} after {last}");
        last = token;
        if sequence % 2 == 0 {
            cli.run::<()>(&["FLUSHALL"]).await;
        } else {
            session.release("k", sequence).await;
        }
    }
}

#[tokio::test]
async fn r07_tokens_rise_above_the_last_one_and_the_floor_when_the_clock_is_behind() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, Session::new(&server));
    session.granted("k", 1).await;
    session.release("k", 1).await;
    let ahead = cli.time().await + 3_600_000_000;
    let [token_key] = &cli.keys().await[..] else { panic!("only the last token is left") };
    assert!(cli.left(token_key).await > Duration::from_secs(86_000));
    cli.run::<()>(&["SET", token_key, &ahead.to_string()]).await;
    assert_eq!(session.granted("k", 2).await.token, ahead + 1);
    session.release("k", 2).await;
    cli.run::<()>(&["FLUSHALL"]).await;
    let request = dlock::backend::Acquire { floor: ahead + 1, ..session.request("k", 3) };
    assert_eq!(grant(session.backend.acquire(request).await.unwrap()).token, ahead + 2);
    let next = dlock::backend::Acquire { floor: ahead + 9, ..session.request("k", 4) };
    let handed = session.release_to("k", 3, Some(next)).await.unwrap().next.unwrap();
    assert_eq!(grant(handed).token, ahead + 10);
}

#[tokio::test]
async fn r17_nothing_but_the_last_token_is_left_when_nobody_waits() {
    let server = Server::start().await;
    let (cli, a, b) = (server.cli().await, Session::new(&server), Session::new(&server));
    a.granted("k", 1).await;
    b.waiting("k", 1).await;
    let keys = cli.keys().await;
    assert_eq!(keys.len(), 4, "{keys:?}");
    for side in keys.iter().filter(|key| key.starts_with("dlock:")) {
        let left = cli.left(side).await;
        assert!(!left.is_zero(), "{side} has no end");
        assert!(side.starts_with("dlock:t:") || left <= Duration::from_secs(10), "{side} stays for {left:?}");
    }
    a.release("k", 1).await;
    b.granted("k", 1).await;
    b.release("k", 1).await;
    assert!(cli.keys().await.iter().all(|key| key.starts_with("dlock:t:")));
}

#[tokio::test]
async fn an_uncontended_cycle_is_two_commands() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, Session::new(&server));
    session.granted("warm", 0).await;
    session.release("warm", 0).await;
    cli.run::<()>(&["CONFIG", "RESETSTAT"]).await;
    for sequence in 1..=50 {
        session.granted("k", sequence).await;
        session.release("k", sequence).await;
    }
    let stats: String = cli.run(&["INFO", "commandstats"]).await;
    let calls = |name: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
        line.map_or(0, |line| line.split(',').next().unwrap().parse::<u64>().unwrap())
    };
    assert_eq!(calls("evalsha"), 100, "{stats}");
    // The commands of the script: TIME, MGET, EXISTS, SET, SET; MGET, EXISTS, DEL.
    for (inner, count) in [("time", 50), ("mget", 100), ("exists", 100), ("set", 100), ("del", 50)] {
        assert_eq!(calls(inner), count, "{inner}: {stats}");
    }
    let names = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next());
    let others: Vec<_> = names.filter(|name| !["evalsha", "time", "mget", "exists", "set", "del"].contains(name)).collect();
    assert!(others.iter().all(|name| name.starts_with("config") || *name == "info"), "{others:?}");
}

#[tokio::test]
async fn a_key_that_is_no_string_is_refused_and_kept() {
    let server = Server::start().await;
    let (cli, session) = (server.cli().await, Session::new(&server));
    cli.run::<i64>(&["LPUSH", "ns/k", "x"]).await;
    let error = session.backend.acquire(session.request("k", 1)).await.unwrap_err();
    assert_eq!(error.failure, Failure::Refused, "{error}");
    assert_eq!(session.release_to("k", 1, None).await.unwrap_err().failure, Failure::Refused);
    assert_eq!(cli.run::<Vec<String>>(&["LRANGE", "ns/k", "0", "-1"]).await, ["x"]);
}

#[tokio::test]
async fn forcing_a_release_names_the_holder_and_wakes_the_next() {
    let server = Server::start().await;
    let (a, mut b) = (Session::new(&server), Session::new(&server));
    let token = a.granted("k", 1).await.token;
    b.waiting("k", 1).await;
    let force = |whom| a.backend.force_release("k".into(), whom, TIMEOUT);
    assert!(!force(Whom::Token(token + 1)).await.unwrap());
    assert!(!force(Whom::Owner(b.owner(1).to_string())).await.unwrap());
    assert!(force(Whom::Token(token)).await.unwrap());
    assert_eq!(b.hint().await, Hint::Key("k".into(), Some(b.owner(1))));
    b.granted("k", 1).await;
    let renew = Renew { key: "k".into(), owner: a.owner(1), ttl: TTL, exact: false };
    assert_eq!(a.backend.renew(vec![renew], TIMEOUT).await.unwrap(), [Renewed::Gone]);
    assert!(force(Whom::Owner(b.owner(1).to_string())).await.unwrap());
    assert!(!force(Whom::Owner(b.owner(1).to_string())).await.unwrap());
}

#[tokio::test]
async fn a_list_holds_the_held_keys_of_the_namespace_that_begin_alike() {
    let server = Server::start().await;
    let session = Session::new(&server);
    for (sequence, key) in (1..).zip(["order:1", "order:2", "order*", "other", "dlock:odd"]) {
        session.granted(key, sequence).await;
    }
    let mut bare = Setup::new(server.url());
    bare.namespace = "";
    let bare = bare.open();
    bare.granted("free", 1).await;
    server.cli().await.run::<()>(&["SET", "session:7", "somebody's data"]).await;
    let keys = async |session: &Session, prefix: &str| {
        let list = session.backend.list(prefix.into(), TIMEOUT).await.unwrap();
        list.into_iter().map(|lock| lock.key).collect::<Vec<_>>()
    };
    assert_eq!(keys(&session, "order").await, ["order*", "order:1", "order:2"]);
    assert_eq!(keys(&session, "order*").await, ["order*"]);
    assert_eq!(keys(&session, "").await.len(), 5);
    assert_eq!(keys(&bare, "f").await, ["free"]);
    assert_eq!(keys(&bare, "session").await, [""; 0], "other people's data is no lock");
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let server = Server::start().await;
    let session = Setup::new(format!("redis+unix://{}?db=3", server.socket().display())).open();
    session.backend.ping(TIMEOUT).await.unwrap();
    session.granted("k", 1).await;
    assert_eq!(server.cli().await.keys().await, [""; 0], "it is in database 3");
    assert_eq!(session.release("k", 1).await, Outcome::Released);
}
