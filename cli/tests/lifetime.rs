//! A command never outlives its lock.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::redis::Server;
use support::{Process, Scratch, eventually, is_alive};

/// Adds a line to a file as long as it lives.
const BEAT: &str = "echo $$ >pid; while :; do echo $DLOCK_TOKEN >>beats; sleep 0.01; done";

/// The next holder, which checks whether the command of the holder before it still runs and still writes lines.
const LOOK: &str = "cat /proc/$(cat pid)/stat >state 2>/dev/null; wc -l <beats >before; touch held; sleep 0.2; wc -l <beats >after";

fn kill_9(scratch: &Scratch, options: &[&str]) -> Duration {
    let runner = Process::start(scratch.run(options, BEAT));
    eventually("the command beats", || scratch.read("beats").lines().count() > 3);
    let next = Process::start(scratch.run(options, LOOK));
    let beats = scratch.read("beats").lines().count();
    eventually("both run", || scratch.read("beats").lines().count() > beats + 3);
    runner.signal(Signal::KILL);
    let killed = Instant::now();
    scratch.wait_for("held");
    let taken = killed.elapsed();
    let (status, said) = next.end();
    assert!(status.success(), "{said}");
    assert!(is_over(&scratch.read("state")), "{}", scratch.read("state"));
    assert_eq!(scratch.read("before"), scratch.read("after"));
    taken
}

/// Whether the process with this line of /proc/pid/stat, or without one, will never run its program again.
fn is_over(stat: &str) -> bool {
    const EXITING: u32 = 4;
    let Some((_, fields)) = stat.rsplit_once(") ") else { return true };
    let fields: Vec<_> = fields.split(' ').collect();
    fields[0] == "Z" || fields[0] == "X" || fields[6].parse::<u32>().unwrap() & EXITING != 0
}

#[test]
fn kill_9_of_the_runner_on_local() {
    for _ in 0..5 {
        let taken = kill_9(&Scratch::new(), &[]);
        assert!(taken < Duration::from_millis(500), "{taken:?}");
    }
}

#[test]
fn kill_9_of_the_runner_on_redis() {
    let server = Server::start();
    let taken = kill_9(&Scratch::on(server.url()), &["--ttl", "2"]);
    assert!(taken > Duration::from_secs(1) && taken < Duration::from_millis(2_600 + 500), "{taken:?}");
}

#[test]
fn on_local_descendants_keep_the_key_of_a_killed_runner() {
    let scratch = Scratch::new();
    let runner = Process::start(scratch.run(&[], "sh -c 'echo $$ >grandchild; exec sleep 60' & wait"));
    scratch.wait_for("grandchild");
    eventually("its pid is there", || !scratch.read("grandchild").is_empty());
    drop(runner);
    assert_eq!(support::outcome(scratch.run(&["--wait", "300ms"], "true")).0, 75);
    let next = Process::start(scratch.run(&[], "cat /proc/$(cat grandchild)/stat >state 2>/dev/null; true"));
    assert!(is_alive(&scratch.path("grandchild")));
    support::outcome(scratch.shell("kill -9 $(cat grandchild)"));
    assert!(next.end().0.success());
    assert!(is_over(&scratch.read("state")), "{}", scratch.read("state"));
}

/// The command's descendants go on, as after any command, but the key is free.
#[test]
fn a_descendant_left_behind_does_not_keep_the_key() {
    let scratch = Scratch::new();
    let mut runner = scratch.run(&[], "sleep 60 >/dev/null 2>&1 & echo $! >left; exit 3");
    assert_eq!(runner.status().unwrap().code(), Some(3));
    assert!(is_alive(&scratch.path("left")));
    assert_eq!(support::outcome(scratch.run(&["--wait", "0"], "true")).0, 0);
    support::outcome(scratch.shell("kill -9 $(cat left)"));
}

fn take_away(scratch: &Scratch) {
    let token = scratch.token();
    assert_eq!(support::outcome(scratch.dlock(&["release", "k", "--force", "--token", &token])).0, 0);
}

#[test]
fn a_lost_lock_ends_the_command_by_term() {
    let scratch = Scratch::new();
    let script = "trap 'echo TERM >heard; exit 0' TERM; touch ready; sleep 60 & wait";
    let runner = Process::start(scratch.run(&["--ttl", "300ms"], script));
    scratch.wait_for("ready");
    let token = scratch.token();
    take_away(&scratch);
    let (status, said) = runner.end();
    assert_eq!(status.code(), Some(76), "{said}");
    assert_eq!(scratch.read("heard"), "TERM\n");
    assert!(said.starts_with("dlock: lock \"k\": the lease with token ") && said.contains(&token), "{said}");
    assert!(said.contains("was lost: ") && said.contains("KILL in 10s") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_lost_lock_ends_the_whole_tree_by_kill() {
    let scratch = Scratch::new();
    // The command, a descendant in its own group and session, and an orphan; all of them ignore TERM.
    let script = "trap '' TERM; setsid sh -c 'echo $$ >session; exec sleep 30' & \
                  (sh -c 'echo $$ >orphan; exec sleep 30' &); echo $$ >pid; exec sleep 30";
    let runner = Process::start(scratch.run(&["--ttl", "300ms", "--grace", "400ms"], script));
    for name in ["session", "orphan", "pid"] {
        eventually(name, || !scratch.read(name).is_empty());
    }
    take_away(&scratch);
    let taken = Instant::now();
    let (status, said) = runner.end();
    assert_eq!(status.code(), Some(76), "{said}");
    assert!(taken.elapsed() > Duration::from_millis(400), "KILL came before the grace time was over");
    for name in ["session", "orphan", "pid"] {
        assert!(!is_alive(&scratch.path(name)), "{name}");
    }
}

#[test]
fn without_grace_there_is_no_term() {
    let scratch = Scratch::new();
    let script = "trap 'echo TERM >heard' TERM; touch ready; while :; do sleep 1; done";
    let runner = Process::start(scratch.run(&["--ttl", "300ms", "--grace", "0"], script));
    scratch.wait_for("ready");
    take_away(&scratch);
    assert_eq!(runner.end().0.code(), Some(76));
    assert_eq!(scratch.read("heard"), "");
}

#[test]
fn a_flushed_server_is_a_lost_lock() {
    let server = Server::start();
    let scratch = Scratch::on(server.url());
    let runner = Process::start(scratch.run(&["--ttl", "1"], "touch ready; exec sleep 60"));
    scratch.wait_for("ready");
    let flushed = Instant::now();
    server.flush();
    let (status, said) = runner.end();
    assert_eq!(status.code(), Some(76), "{said}");
    assert!(flushed.elapsed() < Duration::from_millis(333 + 1000), "{:?}", flushed.elapsed());
}

#[test]
fn r01_a_runner_that_was_stopped_for_too_long_ends_its_command() {
    let server = Server::start();
    let scratch = Scratch::on(server.url());
    let runner = Process::start(scratch.run(&["--ttl", "500ms"], "echo $DLOCK_TOKEN >first; exec sleep 60"));
    eventually("it runs", || !scratch.read("first").is_empty());
    runner.signal(Signal::STOP);
    let (code, token, said) = support::outcome(scratch.run(&[], "echo $DLOCK_TOKEN"));
    assert_eq!(code, 0, "{said}");
    let first: u64 = scratch.read("first").trim().parse().unwrap();
    assert!(token.trim().parse::<u64>().unwrap() > first);
    runner.signal(Signal::CONT);
    let resumed = Instant::now();
    let (status, said) = runner.end();
    assert_eq!(status.code(), Some(76), "{said}");
    assert!(resumed.elapsed() < Duration::from_secs(1), "{:?}", resumed.elapsed());
}
