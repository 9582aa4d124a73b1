//! `redis://`: waiters that are dead, frozen or slow, or that use another library.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dlock::backend::{Hint, Outcome, Waiter};
use support::redis::{Server, Session, Setup, TIMEOUT, TTL, grant};
use tokio::task::JoinSet;
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);
/// `CLAIM_MS` and `ALIVE_US` of queue.lua.
const CLAIM: Duration = Duration::from_secs(1);
const PLACE: Duration = Duration::from_secs(5);
const SLACK: Duration = Duration::from_millis(500);

#[tokio::test]
async fn dead_heads_are_skipped_at_once() {
    let server = Server::start().await;
    let (cli, a) = (server.cli().await, Session::new(&server));
    a.granted("k", 1).await;
    let dead: Vec<_> = (0..10).map(|_| Session::new(&server)).collect();
    for each in &dead {
        each.waiting("k", 1).await;
    }
    let mut live = Session::new(&server);
    assert_eq!(live.waiting("k", 1).await.position, Some(10));
    drop(dead);
    support::eventually("the server notices the deaths", || async {
        cli.run::<Vec<String>>(&["PUBSUB", "CHANNELS", "dlock:s:*"]).await.len() == 2
    })
    .await;
    assert_eq!(a.release("k", 1).await, Outcome::Released);
    assert_eq!(live.hint().await, Hint::Key("k".into(), Some(live.owner(1))));
    live.granted("k", 1).await;
    assert_eq!(cli.keys().await.len(), 2, "nothing is left of the dead");
}

#[tokio::test]
async fn one_at_a_time_in_turn_and_no_wake_up_is_lost() {
    const SESSIONS: usize = 12;
    const CYCLES: u64 = 20;
    let server = Server::start().await;
    let held = Arc::new(AtomicBool::new(false));
    let history = Arc::new(Mutex::new(Vec::new()));
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..SESSIONS {
        let (mut session, held, history) = (Session::new(&server), held.clone(), history.clone());
        tasks.spawn(async move {
            for cycle in 0..CYCLES {
                let grant = session.wait("k", cycle).await;
                assert!(!held.swap(true, Ordering::SeqCst), "two at a time");
                history.lock().unwrap().push((number, grant.token));
                tokio::task::yield_now().await;
                held.store(false, Ordering::SeqCst);
                // Some sessions have a second waiter of their own.
                if number % 3 == 0 && cycle + 1 < CYCLES {
                    session.release_to("k", cycle, Some(session.request("k", cycle + 1))).await.unwrap();
                } else {
                    assert_eq!(session.release("k", cycle).await, Outcome::Released);
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(5), "a lost wake-up costs a second: {:?}", began.elapsed());
    let history = history.lock().unwrap();
    assert_eq!(history.len(), SESSIONS * usize::try_from(CYCLES).unwrap());
    assert!(history.is_sorted_by(|(_, earlier), (_, later)| earlier < later), "tokens rise");
    // Once all wait, they take turns: nobody gets the key again before everybody else has had it.
    let turns: HashSet<_> = history[SESSIONS * 8..SESSIONS * 9].iter().map(|(number, _)| number).collect();
    assert_eq!(turns.len(), SESSIONS, "{history:?}");
}

/// For the server a frozen process is one that stays connected and sends nothing.
#[tokio::test]
async fn r08_ten_frozen_heads_cost_one_heartbeat_and_one_claim() {
    let server = Server::start().await;
    let a = Session::new(&server);
    a.granted("k", 1).await;
    let frozen: Vec<_> = (0..10).map(|_| Session::new(&server)).collect();
    for each in &frozen {
        each.waiting("k", 1).await;
    }
    let froze = Instant::now();
    let mut live = Session::new(&server);
    live.waiting("k", 1).await;
    a.release("k", 1).await;
    live.wait("k", 1).await;
    let took = froze.elapsed();
    assert!(took < PLACE + CLAIM + SLACK, "{took:?}");
    assert!(took > CLAIM, "the frozen were asked first: {took:?}");
}

#[tokio::test]
async fn heads_that_froze_longer_than_they_count_as_alive_cost_nothing() {
    let server = Server::start().await;
    let (cli, a) = (server.cli().await, Session::new(&server));
    a.granted("k", 1).await;
    let frozen: Vec<_> = (0..40).map(|_| Session::new(&server)).collect();
    for each in &frozen {
        each.waiting("k", 1).await;
    }
    let mut live = Session::new(&server);
    live.waiting("k", 1).await;
    // Their deadlines are moved into the past, so that the test need not wait for them.
    let beats = cli.keys().await.into_iter().find(|key| key.starts_with("dlock:w:")).unwrap();
    for each in &frozen {
        cli.run::<i64>(&["HSET", &beats, &each.owner(1).to_string(), "1000"]).await;
    }
    a.release("k", 1).await;
    assert_eq!(live.hint().await, Hint::Key("k".into(), Some(live.owner(1))));
    live.granted("k", 1).await;
}

#[tokio::test]
async fn a_missed_claim_drops_its_whole_session_and_a_late_riser_queues_again() {
    let server = Server::start().await;
    let (cli, a, mut late, mut next) = (server.cli().await, Session::new(&server), Session::new(&server), Session::new(&server));
    a.granted("k", 1).await;
    late.waiting("k", 1).await;
    next.waiting("k", 1).await;
    late.waiting("k", 2).await;
    a.release("k", 1).await;
    late.hint().await;
    support::eventually("the claim runs out", || async { cli.run::<i64>(&["EXISTS", "ns/k"]).await == 0 }).await;
    assert_eq!(next.heartbeat("k", 1).await, Duration::ZERO, "a free key is worth a look");
    next.granted("k", 1).await;
    assert_eq!(next.backend.inspect("k".into(), TIMEOUT).await.unwrap().queue, [""; 0]);
    assert_eq!(late.heartbeat("k", 1).await, Duration::ZERO, "its place is gone: it has to ask");
    assert_eq!(late.waiting("k", 1).await.position, Some(0));
    next.release("k", 1).await;
    late.hint().await;
    late.granted("k", 1).await;
    assert!(next.hints.try_recv().is_err());
}

#[tokio::test]
async fn a_head_that_comes_late_to_its_own_claim_still_gets_a_free_key() {
    let server = Server::start().await;
    let (cli, a, mut b) = (server.cli().await, Session::new(&server), Session::new(&server));
    a.granted("k", 1).await;
    b.waiting("k", 1).await;
    a.release("k", 1).await;
    b.hint().await;
    assert_eq!(b.heartbeat("k", 1).await, Duration::ZERO, "a lost hint: the heartbeat tells");
    cli.run::<i64>(&["DEL", "ns/k"]).await;
    b.granted("k", 1).await;
}

#[tokio::test]
async fn a_heartbeat_does_not_pass_for_a_confirmation() {
    let server = Server::start().await;
    let (cli, a, mut b, c) = (server.cli().await, Session::new(&server), Session::new(&server), Session::new(&server));
    a.granted("k", 1).await;
    b.waiting("k", 1).await;
    c.waiting("k", 1).await;
    a.release("k", 1).await;
    b.hint().await;
    b.heartbeat("k", 1).await;
    let left = c.heartbeat("k", 1).await;
    assert!(!left.is_zero() && left <= CLAIM + MS, "others look again when the claim ends: {left:?}");
    support::eventually("the claim runs out", || async { cli.run::<i64>(&["EXISTS", "ns/k"]).await == 0 }).await;
    c.granted("k", 1).await;
}

#[tokio::test]
async fn heartbeats_keep_a_waiter_alive() {
    let server = Server::start().await;
    let (cli, a, b) = (server.cli().await, Session::new(&server), Session::new(&server));
    a.granted("k", 1).await;
    b.waiting("k", 1).await;
    let keys = cli.keys().await;
    let side = |kind: &str| keys.iter().find(|key| key.starts_with(kind)).unwrap().as_str();
    let (queue, beats) = (side("dlock:q:"), side("dlock:w:"));
    cli.run::<i64>(&["HSET", beats, &b.owner(1).to_string(), "1000"]).await;
    cli.run::<i64>(&["PEXPIRE", queue, "100"]).await;
    let look = b.heartbeat("k", 1).await;
    assert!(look > 25_000 * MS && look <= TTL + MS, "{look:?}");
    let until: u64 = cli.run(&["HGET", beats, &b.owner(1).to_string()]).await;
    assert!(until > cli.time().await + 4_000_000);
    assert!(cli.left(queue).await > PLACE, "the queue outlives its places");
}

#[tokio::test]
async fn many_waiters_send_heartbeats_in_few_commands() {
    let server = Server::start().await;
    let (cli, a, b) = (server.cli().await, Session::new(&server), Session::new(&server));
    for n in 0..1_200 {
        a.granted(&format!("k{n}"), n).await;
        b.waiting(&format!("k{n}"), n).await;
    }
    a.release("k700", 700).await;
    cli.run::<()>(&["CONFIG", "RESETSTAT"]).await;
    let waiters = (0..1_200).map(|n| Waiter { key: format!("k{n}").into(), owner: b.owner(n) }).collect();
    let answers = b.backend.keep_waiting(waiters, TIMEOUT).await.unwrap();
    assert_eq!(answers.iter().position(Duration::is_zero), Some(700));
    assert_eq!(answers.iter().filter(|answer| !answer.is_zero()).count(), 1_199);
    let stats: String = cli.run(&["INFO", "commandstats"]).await;
    let calls = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_eval")?.split_once("calls=")?.1.split_once(','));
    let calls: u64 = calls.map(|(calls, _)| calls.parse::<u64>().unwrap()).sum();
    assert!(calls <= 6, "{stats}");
}

#[tokio::test]
async fn a_process_that_is_holder_and_next_waiter_leaves_the_key_to_the_others() {
    let server = Server::start().await;
    let (killed, mut live) = (Session::new(&server), Session::new(&server));
    let request = dlock::backend::Acquire { ttl: 1_000 * MS, ..killed.request("k", 1) };
    grant(killed.backend.acquire(request).await.unwrap());
    let began = Instant::now();
    killed.waiting("k", 2).await;
    let watch = live.waiting("k", 1).await.look_again;
    assert!(watch <= 1_001 * MS, "the first of another session watches the holder's end: {watch:?}");
    drop(killed);
    live.wait("k", 1).await;
    assert!(began.elapsed() < 1_000 * MS + SLACK, "{:?}", began.elapsed());
}

#[tokio::test]
async fn two_other_sessions_watch_the_holders_end_and_its_own() {
    let server = Server::start().await;
    let sessions: Vec<_> = (0..5).map(|_| Session::new(&server)).collect();
    sessions[0].granted("k", 1).await;
    sessions[0].waiting("k", 2).await;
    for session in &sessions[1..] {
        session.waiting("k", 1).await;
    }
    let mut looks = vec![sessions[0].heartbeat("k", 2).await];
    for session in &sessions[1..] {
        looks.push(session.heartbeat("k", 1).await);
    }
    let watching: Vec<_> = looks.iter().map(|look| *look <= TTL + MS).collect();
    assert_eq!(watching, [true, true, true, false, false], "{looks:?}");
}

#[tokio::test]
async fn everybody_watches_a_claim() {
    let server = Server::start().await;
    let sessions: Vec<_> = (0..6).map(|_| Session::new(&server)).collect();
    sessions[0].granted("k", 1).await;
    for session in &sessions[1..] {
        session.waiting("k", 1).await;
    }
    sessions[0].release("k", 1).await;
    let looks = [sessions[5].heartbeat("k", 1).await, sessions[5].waiting("k", 1).await.look_again];
    assert!(looks.iter().all(|look| !look.is_zero() && *look <= CLAIM + MS), "{looks:?}");
}

#[tokio::test]
async fn foreign_holders_are_respected_polled_by_the_head_and_shown() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let bare = || {
        let mut setup = Setup::new(server.url());
        setup.namespace = "";
        setup.open()
    };
    let (mut a, b) = (bare(), bare());
    // As redis-py writes it: the hex digits of a uuid, without a TTL by default.
    for (key, arguments) in [("with-ttl", &["NX", "PX", "1500"][..]), ("without", &["NX"])] {
        cli.run::<()>(&[&["SET", key, "6fb0c1d2e3"], arguments].concat()).await;
        let first = a.waiting(key, 1).await;
        assert_eq!((first.look_again, first.position), (75 * MS, Some(0)));
        assert!(b.waiting(key, 1).await.look_again > 1_500 * MS, "one of them polls");
        assert_eq!(a.heartbeat(key, 1).await, 75 * MS);
        let seen = a.backend.inspect(key.into(), TIMEOUT).await.unwrap();
        let holder = seen.holder.unwrap();
        assert_eq!((holder.owner.as_str(), holder.token, holder.note), ("6fb0c1d2e3", None, None));
        assert_eq!(holder.remaining.is_some(), key == "with-ttl");
        assert_eq!(seen.queue, [a.owner(1).to_string(), b.owner(1).to_string()]);
        assert_eq!(a.release(key, 1).await, Outcome::NotHeld);
        a.waiting(key, 2).await;
        b.leave(key, 1).await;
    }
    a.wait("with-ttl", 2).await;
    // Other libraries respect our locks, too.
    let taken: Option<String> = cli.run(&["SET", "with-ttl", "other", "NX", "PX", "1000"]).await;
    assert_eq!(taken, None);
    let whom = dlock::backend::Whom::Owner("6fb0c1d2e3".into());
    assert!(a.backend.force_release("without".into(), whom, TIMEOUT).await.unwrap());
    a.wait("without", 2).await;
}

#[tokio::test]
async fn odd_names_and_their_side_keys_share_a_slot() {
    let server = Server::start_with(&["--cluster-enabled", "yes"]).await;
    let cli = server.cli().await;
    let slots: Vec<String> = (0..16_384).map(|slot| slot.to_string()).collect();
    let assign: Vec<&str> = ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str)).collect();
    cli.run::<()>(&assign).await;
    support::eventually("the cluster is up", || async {
        cli.run::<String>(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok")
    })
    .await;
    let (a, mut b) = (Session::new(&server), Session::new(&server));
    for key in ["plain", "{user1}:lock", "a}b", "{}x", "}{", "{", "x{y}z{w}", "with space"] {
        a.granted(key, 1).await;
        b.waiting(key, 1).await;
        // A server in cluster mode refuses a script whose keys are not all in one slot; this says which.
        let keys = cli.keys().await;
        let mut slots = Vec::new();
        for key in &keys {
            slots.push(cli.run::<u64>(&["CLUSTER", "KEYSLOT", key]).await);
        }
        assert_eq!(slots.len(), 4, "{keys:?}");
        assert!(slots.iter().all(|slot| *slot == slots[0]), "{keys:?} are in {slots:?}");
        a.release(key, 1).await;
        assert_eq!(b.hint().await, Hint::Key(key.into(), Some(b.owner(1))));
        b.granted(key, 1).await;
        b.release(key, 1).await;
        cli.run::<()>(&["FLUSHALL"]).await;
    }
}
