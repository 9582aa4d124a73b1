//! The options of `dlock run` that the engine implements, and the lock after a signal that ends the run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::redis::Server;
use support::{Process, Scratch, outcome};

#[test]
fn used_up_retries_are_75_and_tell_how_many_attempts_there_were() {
    let scratch = Scratch::new();
    let holder = Process::start(scratch.run(&[], "touch held; exec sleep 60"));
    scratch.wait_for("held");
    let retry = ["--retries", "2", "--retry-delay", "50ms", "--retry-backoff", "2", "--retry-jitter", "0"];
    let started = Instant::now();
    let (code, _, said) = outcome(scratch.run(&retry, "touch intruder"));
    assert_eq!(code, 75, "{said}");
    assert!(said.contains("3 attempts") && said.contains(&scratch.token()) && said.lines().count() == 1, "{said}");
    assert!(started.elapsed() >= Duration::from_millis(150));
    let (code, _, said) = outcome(scratch.run(&["--retries", "0", "--json"], "touch intruder"));
    assert!(code == 75 && said.contains(r#""exit_code":75"#), "{said}");
    assert!(!scratch.path("intruder").exists());
    holder.signal(Signal::TERM);
    holder.end();
    assert_eq!(outcome(scratch.run(&retry, "true")).0, 0);
}

#[test]
fn r12_a_command_that_holds_the_key_for_too_long_is_ended() {
    let scratch = Scratch::new();
    let started = Instant::now();
    let (code, _, said) = outcome(scratch.run(&["--max-hold", "500ms", "--ttl", "5"], "exec sleep 60"));
    assert_eq!(code, 76, "{said}");
    assert!(said.contains("max_hold"), "{said}");
    assert!(started.elapsed() >= Duration::from_millis(450) && started.elapsed() < Duration::from_secs(10));
    assert_eq!(outcome(scratch.run(&["--wait", "0"], "true")).0, 0);
}

#[test]
fn a_renewal_threshold_is_kept_to() {
    let scratch = Scratch::new();
    let late = ["--ttl", "500ms", "--renewal-threshold", "0.3"];
    assert_eq!(outcome(scratch.run(&late, "sleep 2")), (0, String::new(), String::new()));
}

#[test]
fn r15_options_that_cannot_be_used_are_named() {
    let scratch = Scratch::new();
    let cases: [(&[&str], &str); 8] = [
        (&["--renewal-threshold", "1"], "renewal_threshold"),
        (&["--max-hold", "0"], "max_hold"),
        (&["--namespace", "n/x"], "namespace: \"n/x\" is not valid"),
        (&["--op-timeout", "0"], "op_timeout"),
        (&["--connect-timeout", "soon"], "--connect-timeout"),
        (&["--retries", "some"], "--retries"),
        (&["--retries", "1", "--retry-backoff", "0.5"], "retry.backoff"),
        (&["--retry-delay", "1"], "--retries"),
    ];
    for (options, named) in cases {
        let (code, _, said) = outcome(scratch.run(options, "true"));
        assert!(code == 64 && said.contains(named) && said.lines().count() == 1, "{options:?}: {code} {said}");
    }
}

#[test]
fn r15_what_an_object_turns_into_by_itself_is_no_key() {
    let scratch = Scratch::new();
    for key in ["order:<Order object at 0x7f3a5c0d1e50>", "order:[object Object]"] {
        for command in [&["run", key, "--", "true"][..], &["inspect", key]] {
            let (code, _, said) = outcome(scratch.dlock(command));
            assert!(code == 64 && said.contains("order.id") && said.lines().count() == 1, "{command:?}: {code} {said}");
        }
    }
}

#[test]
fn timeouts_bound_what_a_silent_server_costs() {
    // It takes connections, by its backlog, and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let scratch = Scratch::on(format!("redis://{}", silent.local_addr().unwrap()));
    let bounds = ["--op-timeout", "100ms", "--connect-timeout", "300ms"];
    for command in [&["run", "k"][..], &["inspect", "k"], &["ls"], &["release", "k", "--force", "--token", "1"]] {
        let mut arguments = [command, &bounds].concat();
        arguments.extend(if command[0] == "run" { &["--", "true"][..] } else { &[] });
        let started = Instant::now();
        let (code, out, said) = outcome(scratch.dlock(&arguments));
        assert_eq!((code, &*out), (69, ""), "{said}");
        assert!(started.elapsed() < Duration::from_secs(3), "{arguments:?}: {:?}", started.elapsed());
    }
}

/// A command that gets a signal may take its time to end. Until then the key is kept and renewed.
fn drains(scratch: &Scratch) {
    let script =
        "trap 'touch told; sleep 1.5; touch finished; kill -9 $!; exit 0' TERM; sleep 60 & touch ready; while :; do wait; done";
    let runner = Process::start(scratch.run(&["--ttl", "500ms"], script));
    scratch.wait_for("ready");
    runner.signal(Signal::TERM);
    scratch.wait_for("told");
    let (code, _, said) = outcome(scratch.run(&["--wait", "5"], "test -e finished"));
    assert_eq!(code, 0, "the next one got the key before the end: {said}");
    let (status, said) = runner.end();
    assert_eq!((status.code(), &*said), (Some(0), ""));
}

#[test]
fn r14_a_signal_lets_the_command_finish_under_its_lock() {
    drains(&Scratch::new());
    let server = Server::start();
    drains(&Scratch::on(server.url()));
}
