//! `dlock run`: the environment of the command, and the exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::redis::Server;
use support::{PATIENCE, Process, Scratch, eventually, outcome, outcome_of};

#[test]
fn the_exit_code_is_the_commands_own() {
    let scratch = Scratch::new();
    for code in [0, 1, 7, 75, 255] {
        assert_eq!(outcome(scratch.run(&[], &format!("exit {code}"))), (code, String::new(), String::new()));
    }
}

#[test]
fn a_signal_that_ended_the_command_counts_from_128() {
    let scratch = Scratch::new();
    for (name, code) in [("TERM", 143), ("KILL", 137), ("USR1", 138)] {
        assert_eq!(outcome(scratch.run(&[], &format!("kill -{name} $$"))).0, code, "{name}");
    }
}

#[test]
fn the_command_gets_key_and_token_and_the_key_is_free_afterwards() {
    let scratch = Scratch::new();
    let held = outcome(scratch.run(&["--metadata", "job\t7"], "echo $DLOCK_KEY $DLOCK_TOKEN; $DLOCK inspect k; $DLOCK ls"));
    assert_eq!(held.0, 0, "{}", held.2);
    let token = held.1.split_whitespace().nth(1).unwrap();
    assert!(token.parse::<u64>().unwrap() > 0);
    assert!(held.1.contains("k: held by pid ") && held.1.contains(&format!("(token {token}), ")), "{}", held.1);
    assert!(held.1.contains(" s left, job\\t7\n"), "{}", held.1);
    assert!(held.1.contains("\nk\tpid "), "{}", held.1);
    assert_eq!(outcome(scratch.dlock(&["inspect", "k"])), (0, "k: free\n".to_owned(), String::new()));
    assert_eq!(outcome(scratch.dlock(&["ls"])), (0, String::new(), String::new()));
}

#[test]
fn a_command_that_cannot_be_executed_is_told_as_in_a_shell() {
    let scratch = Scratch::new();
    let (code, _, said) = outcome(scratch.dlock(&["run", "k", "--", "no-such-command"]));
    assert_eq!(code, 127);
    assert!(said.starts_with("dlock: no-such-command: ") && said.lines().count() == 1, "{said}");
    let (code, _, said) = outcome(scratch.dlock(&["run", "k", "--", "/etc/passwd"]));
    assert_eq!(code, 126);
    assert!(said.starts_with("dlock: /etc/passwd: ") && said.lines().count() == 1, "{said}");
}

#[test]
fn r15_bad_input_is_told_in_one_line_that_names_it() {
    let scratch = Scratch::new();
    let long = "x".repeat(513);
    let cases: [(&[&str], &[&str]); 18] = [
        (&["run", "", "--", "true"], &["key", "\"\"", "1 to 512 bytes"]),
        (&["run", &long, "--", "true"], &["key", "513 bytes", "512"]),
        (&["run", "k", "--ttl", "50ms", "--", "true"], &["ttl", "0.05 s", "0.1 s to 86400 s"]),
        (&["run", "k", "--ttl", "soon", "--", "true"], &["--ttl", "soon", "ms, s, m or h"]),
        (&["run", "k", "--wait", "nan", "--", "true"], &["--wait", "nan", "86400 s"]),
        (&["run", "k", "--grace=-1", "--", "true"], &["--grace", "-1", "86400 s"]),
        (&["run", "k", "--url", "http://u:secret@host", "--", "true"], &["url", "http://***@host", "local:"]),
        (&["run", "k", "--url", "memory:", "--", "true"], &["url", "memory:", "one process"]),
        (&["run", "k", "--url", "", "--", "true"], &["url", "\"\"", "local:"]),
        (&["run", "k", "--url", "rediss://:secret@host?ca=/none", "--", "true"], &["url", "rediss://host", "ca must be"]),
        (&["run", "k", "--url", "redis+sentinel://:secret@h1,h2", "--", "true"], &["url", "redis+sentinel://h1,h2", "a service"]),
        (&["run", "k", "--url", "redis://host:99999", "--", "true"], &["url", "redis://host:99999", "a port from 1 to 65535"]),
        (&["run", "k"], &["<CMD>", "dlock run KEY -- CMD"]),
        (&["run", "k", "true"], &["'true'", "dlock run KEY -- CMD"]),
        (&["-v", "run", "k", "--ttl", "5", "sh", "-c", "true"], &["'sh'", "dlock run KEY -- CMD"]),
        (&["release", "k", "--token", "1"], &["--force"]),
        (&["release", "k", "--force"], &["--token", "--owner"]),
        (&["release", "k", "--force", "--token", "1", "--owner", "x"], &["--token", "--owner"]),
    ];
    for (arguments, words) in cases {
        let (code, out, said) = outcome(scratch.dlock(arguments));
        assert_eq!((code, &*out), (64, ""), "{arguments:?}: {said}");
        assert!(said.starts_with("dlock: ") && said.lines().count() == 1, "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    assert!(!scratch.path("locks").exists(), "nothing was done before the input was checked");
}

#[test]
fn the_hint_at_two_dashes_is_given_to_who_needs_it_only() {
    let scratch = Scratch::new();
    let cases: [&[&str]; 4] =
        [&["run", "k", "--bogus", "--", "true"], &["run", "k", "--bogus"], &["run", "--", "true"], &["inspect", "run", "k"]];
    for arguments in cases {
        let (code, _, said) = outcome(scratch.dlock(arguments));
        assert_eq!(code, 64);
        assert!(!said.contains("two dashes"), "{said}");
    }
}

#[test]
fn an_empty_variable_is_as_unset() {
    let scratch = Scratch::new();
    let mut command = scratch.dlock(&["-v", "inspect", "k"]);
    let (code, out, said) = outcome_of(command.env("DLOCK_URL", "").env("DLOCK_DIR", scratch.path("elsewhere")));
    assert_eq!((code, &*out), (0, "k: free\n"), "{said}");
    assert!(said.starts_with("dlock: info: no URL was given and DLOCK_URL is not set: using `local:`"), "{said}");
    assert!(scratch.path("elsewhere").exists());
    let (_, _, said) = outcome(scratch.dlock(&["-v", "inspect", "k"]));
    assert!(!said.contains("no URL"), "{said}");
}

#[test]
fn an_unreadable_log_setting_is_told_once() {
    let scratch = Scratch::new();
    for bad in ["dlock=loud", "debgu", "warn,dlock=7x"] {
        let (code, _, said) = outcome_of(scratch.run(&[], "true").env("DLOCK_LOG", bad));
        assert_eq!((code, said.lines().count()), (0, 1), "{said}");
        assert!(said.starts_with("dlock: DLOCK_LOG cannot be read"), "{said}");
    }
    for good in ["", "debug,redis=off", "dlock=warn", "off"] {
        let (code, _, said) = outcome_of(scratch.run(&[], "true").env("DLOCK_LOG", good));
        assert_eq!(code, 0);
        assert!(!said.contains("DLOCK_LOG"), "{said}");
    }
}

#[test]
fn r18_an_unreachable_server_is_named_without_its_password() {
    let scratch = Scratch::on("redis://user:secret@127.0.0.1:1");
    let (code, _, said) = outcome(scratch.run(&[], "true"));
    assert_eq!(code, 69);
    assert!(said.contains("127.0.0.1:1") && !said.contains("secret") && said.lines().count() == 1, "{said}");
    let (_, help, _) = outcome(scratch.dlock(&["run", "--help"]));
    assert!(help.contains("DLOCK_URL") && !help.contains("secret"), "{help}");
}

#[test]
fn r16_a_single_try_of_a_closed_port_names_the_cause_at_once() {
    for url in
        ["redis://127.0.0.1:1", "redis://no-such-host.invalid", "redis+unix:///no/such/socket", "etcd://127.0.0.1:1,127.0.0.1:2"]
    {
        let began = Instant::now();
        let (code, _, said) =
            outcome(Scratch::on(url).run(&["--wait", "0", "--op-timeout", "60", "--connect-timeout", "60"], "true"));
        assert!(began.elapsed() < PATIENCE, "not after op_timeout");
        let cause = ["Connection refused", "No such file", "lookup", "name"].iter().any(|cause| said.contains(cause));
        assert!(code == 69 && cause && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn r15_a_raw_character_in_a_password_is_told_how_to_be_written() {
    for raw in ["#", "/", "?", "@", "%", "["] {
        let (code, _, said) = outcome(Scratch::on(format!("etcd://u:57{raw}Wc@h")).run(&[], "true"));
        assert_eq!(code, 64);
        assert!(said.contains("# as %23") && !said.contains("57") && !said.contains("Wc"), "{said}");
    }
}

#[test]
fn r16_a_backend_that_refuses_exits_with_77_and_says_why() {
    let server = Server::start_with(&["--requirepass", "s3cret"]);
    for url in [server.url(), server.url().replace("://", "://:wr0ng@"), "local:///dev/null".to_owned()] {
        let scratch = Scratch::on(&url);
        let calls = [scratch.run(&[], "true"), scratch.run(&["--wait", "0"], "true"), scratch.dlock(&["inspect", "k"])];
        for (code, out, said) in calls.into_iter().map(outcome) {
            assert_eq!((code, &*out, said.lines().count()), (77, "", 1), "{url}: {said}");
            assert!(said.contains(" refused: ") && !said.contains("wr0ng"), "{said}");
        }
    }
}

#[test]
fn help_shows_examples_and_exit_codes() {
    let scratch = Scratch::new();
    let (code, help, _) = outcome(scratch.dlock(&["run", "--help"]));
    assert_eq!(code, 0);
    for word in ["Examples:", "DLOCK_TOKEN", "--grace", "75", "76", "127"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert_eq!(outcome(scratch.dlock(&["help", "run"])), (0, help, String::new()));
    let general = outcome(scratch.dlock(&["help"]));
    assert_eq!(general, outcome(scratch.dlock(&["--help"])));
    assert!(general.0 == 0 && general.1.contains("inspect") && !general.1.contains("exec"), "{}", general.1);
    assert_eq!(outcome(scratch.dlock(&["help", "nonsense"])).0, 64);
}

#[test]
fn a_held_key_is_75_naming_the_holder() {
    let scratch = Scratch::new();
    let holder = Process::start(scratch.run(&[], "touch held; exec sleep 60"));
    scratch.wait_for("held");
    let pid = format!("pid {} on ", holder.pid().as_raw_nonzero());
    for wait in ["0", "300ms"] {
        let started = Instant::now();
        let (code, _, said) = outcome(scratch.run(&["--wait", wait], "touch intruder"));
        assert_eq!(code, 75, "{said}");
        assert!(said.contains(&pid) && said.contains(&scratch.token()) && said.lines().count() == 1, "{said}");
        assert!(wait == "0" || started.elapsed() >= Duration::from_millis(300));
        assert!(started.elapsed() < PATIENCE / 2);
    }
    assert!(!scratch.path("intruder").exists());
    holder.signal(Signal::TERM);
    assert_eq!(holder.end().0.code(), Some(143));
}

#[test]
fn one_at_a_time_and_tokens_rise() {
    let scratch = Scratch::new();
    // Each adds one to a counter, slowly enough to lose updates without the lock.
    let add = "count=$(cat count 2>/dev/null); sleep 0.01; echo $((count + 1)) >count; echo $DLOCK_TOKEN >>tokens";
    let workers: Vec<_> = (0..4)
        .map(|_| Process::start(scratch.shell(&format!("for i in 1 2 3 4 5; do $DLOCK run k -- sh -c '{add}'; done"))))
        .collect();
    for worker in workers {
        let (status, said) = worker.end();
        assert!(status.success() && said.is_empty(), "{said}");
    }
    assert_eq!(scratch.read("count").trim(), "20");
    let tokens: Vec<u64> = scratch.read("tokens").lines().map(|token| token.parse().unwrap()).collect();
    assert!(tokens.len() == 20 && tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
}

#[test]
fn a_signal_ends_the_wait_for_a_key() {
    let scratch = Scratch::new();
    let holder = Process::start(scratch.run(&[], "touch held; exec sleep 60"));
    scratch.wait_for("held");
    let waiting = Process::start(scratch.run(&["-vv"], "touch intruder"));
    eventually("the waiter is there", || waiting.blocks_signals());
    waiting.signal(Signal::TERM);
    assert_eq!(waiting.end().0.code(), Some(143));
    holder.signal(Signal::TERM);
    holder.end();
    assert!(!scratch.path("intruder").exists());
    assert_eq!(outcome(scratch.run(&["--wait", "0"], "true")).0, 0);
}

#[test]
fn a_key_is_taken_away_from_the_named_holder_only() {
    let scratch = Scratch::new();
    let holder = Process::start(scratch.run(&["--ttl", "300ms"], "touch held; exec sleep 60"));
    scratch.wait_for("held");
    let (code, _, said) = outcome(scratch.dlock(&["release", "k", "--force", "--token", "1"]));
    assert_eq!((code, &*said), (1, "dlock: lock \"k\" is not held with token 1\n"));
    let token = scratch.token();
    assert_eq!(outcome(scratch.dlock(&["release", "k", "--force", "--token", &token])), (0, String::new(), String::new()));
    let (status, said) = holder.end();
    assert_eq!(status.code(), Some(76), "{said}");
}

#[test]
fn a_key_is_taken_away_from_the_holder_with_this_owner_id() {
    let scratch = Scratch::new();
    let holder = Process::start(scratch.run(&["--ttl", "300ms"], "touch held; exec sleep 60"));
    scratch.wait_for("held");
    let (code, _, said) = outcome(scratch.dlock(&["release", "k", "--force", "--owner", "somebody"]));
    assert_eq!((code, &*said), (1, "dlock: lock \"k\" is not held by owner \"somebody\"\n"));
    let shown = outcome(scratch.dlock(&["inspect", "k"])).1;
    let owner = shown.lines().find_map(|line| line.strip_prefix("  owner: ")).unwrap();
    assert_eq!(outcome(scratch.dlock(&["release", "k", "--force", "--owner", owner])), (0, String::new(), String::new()));
    let (status, said) = holder.end();
    assert_eq!(status.code(), Some(76), "{said}");
}
