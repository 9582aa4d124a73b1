//! Holders that were killed, stopped or forked.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use dlock::backend::{Acquired, Outcome};
use dlock::fencing::Token;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open};

use crate::actor::Actor;
use crate::client::{Client, KEY, Scratch, TIMEOUT};
use crate::parts::plays_a_part;
use crate::{HAND_OVER, block_on};

#[test]
fn a_killed_holder_hands_over_at_once() {
    if plays_a_part() {
        return;
    }
    let scratch = Scratch::new();
    block_on(async {
        let mut client = Client::new(&scratch.locks());
        for _ in 0..10 {
            let mut holder = Actor::start("hold", &scratch.locks());
            let token: Token = holder.hears("held").parse().unwrap();
            let (request, answer) = client.ask(true).await;
            assert!(matches!(&answer, Acquired::Waiting(waiting) if waiting.holder.is_some()), "{answer:?}");
            let owner = request.owner;
            let killed = Instant::now();
            holder.process.kill().unwrap();
            let successor = client.finish(request).await;
            let took = killed.elapsed();
            println!("kill -9 to grant: {took:?}");
            assert!(took < HAND_OVER, "{took:?}");
            assert!(successor > token);
            assert_eq!(client.release(owner).await, Outcome::Released);
        }
    });
    assert_eq!(scratch.left(), [""; 0]);
}

#[test]
fn a_stopped_holder_keeps_its_key_until_it_is_forced_away() {
    if plays_a_part() {
        return;
    }
    let scratch = Scratch::new();
    let mut holder = Actor::start("hold", &scratch.locks());
    let token: Token = holder.hears("held").parse().unwrap();
    holder.signal(Signal::STOP);
    block_on(async {
        let mut client = Client::new(&scratch.locks());
        assert!(matches!(client.ask(false).await.1, Acquired::Waiting(_)));
        assert!(client.backend.force_release(KEY.into(), dlock::backend::Whom::Token(token), TIMEOUT).await.unwrap());
        let (_, successor) = client.take().await;
        assert!(successor > token);
        holder.signal(Signal::CONT);
        holder.tell("renew");
        holder.hears("gone");
        assert!(client.backend.inspect(KEY.into(), TIMEOUT).await.unwrap().holder.is_some(), "the successor holds on");
    });
}

#[test]
fn what_a_crash_left_is_swept_at_the_next_start() {
    if plays_a_part() {
        return;
    }
    let scratch = Scratch::new();
    let holder = Actor::start("hold", &scratch.locks());
    holder.hears("held");
    drop(holder);
    assert_eq!(scratch.left().len(), 1);
    block_on(async {
        let client = Client::new(&scratch.locks());
        assert_eq!(client.backend.inspect(KEY.into(), TIMEOUT).await.unwrap().holder, None, "nobody holds what a crash left");
        let deadline = Instant::now() + TIMEOUT;
        while !scratch.left().is_empty() {
            assert!(Instant::now() < deadline, "never swept: {:?}", scratch.left());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

/// What the hook does in the child, played by a separate process. The unit tests of the table and, with a real fork, the Python tests check
/// that the hook leaves the *parent's* lock alone: Rust cannot fork without `unsafe`.
#[test]
fn r13_a_forked_child_lets_go_of_everything_and_can_start_anew() {
    if plays_a_part() {
        return;
    }
    let scratch = Scratch::new();
    let mut child = Actor::start("fork", &scratch.locks());
    child.hears("held");
    child.tell("lose");
    child.hears("lost");
    block_on(async {
        let mut client = Client::new(&scratch.locks());
        let (owner, _) = client.take().await;
        assert_eq!(client.release(owner).await, Outcome::Released);
    });
    child.tell("start anew");
    child.hears("held");
}

/// The open lock files of a process, as in a child that was forked past our hooks. Rust cannot fork without `unsafe`; the Python tests fork by a
/// C library.
fn inherit(parent: &Actor) -> Vec<OwnedFd> {
    let pid = Pid::from_raw(parent.process.id().try_into().unwrap()).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let open = std::fs::read_dir(format!("/proc/{}/fd", parent.process.id())).unwrap().map(|entry| entry.unwrap().path());
    let files = open.filter(|path| std::fs::read_link(path).is_ok_and(|file| file.to_string_lossy().contains("lock,")));
    let numbers = files.map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap());
    numbers.map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).unwrap()).collect()
}

#[test]
fn r13_a_fork_past_the_hooks_does_not_keep_a_dead_holders_key() {
    if plays_a_part() {
        return;
    }
    let scratch = Scratch::new();
    block_on(async {
        let mut client = Client::new(&scratch.locks());
        for waits_before in [false, true, false, true] {
            let mut holder = Actor::start("hold", &scratch.locks());
            let token: Token = holder.hears("held").parse().unwrap();
            let childs = inherit(&holder);
            assert!(!childs.is_empty());
            let request = client.request(true);
            if waits_before {
                assert!(matches!(client.backend.acquire(request.clone()).await.unwrap(), Acquired::Waiting(_)));
            }
            let killed = Instant::now();
            holder.process.kill().unwrap();
            if !waits_before {
                // Its parent has not waited for it yet, so it is a zombie for now.
                while client.backend.inspect(KEY.into(), TIMEOUT).await.unwrap().holder.is_some() {
                    assert!(killed.elapsed() < HAND_OVER, "told to be held");
                    tokio::task::yield_now().await;
                }
            }
            let owner = request.owner;
            assert!(client.finish(request).await > token);
            let took = killed.elapsed();
            println!("kill -9 to grant, while a child keeps the file: {took:?}");
            assert!(took < if waits_before { Duration::from_secs(1) } else { HAND_OVER }, "{took:?}");
            drop(childs);
            assert!(
                client.backend.inspect(KEY.into(), TIMEOUT).await.unwrap().holder.is_some(),
                "the child's end frees nothing more"
            );
            assert_eq!(client.release(owner).await, Outcome::Released);
        }
    });
    assert_eq!(scratch.left(), [""; 0]);
}

#[test]
fn what_was_passed_on_keeps_the_key_until_both_are_gone() {
    if plays_a_part() {
        return;
    }
    let scratch = Scratch::new();
    block_on(async {
        let mut client = Client::new(&scratch.locks());
        let mut holder = Actor::start("hold", &scratch.locks());
        holder.hears("held");
        holder.tell("pass on");
        assert_ne!(holder.hears("passed on"), "0");
        let commands = inherit(&holder);
        drop(holder);
        let (request, answer) = client.ask(true).await;
        assert!(matches!(answer, Acquired::Waiting(_)), "{answer:?}");
        assert!(client.backend.inspect(KEY.into(), TIMEOUT).await.unwrap().holder.is_some());
        let ended = Instant::now();
        drop(commands);
        assert_eq!(client.backend.inspect(KEY.into(), TIMEOUT).await.unwrap().holder, None);
        let owner = request.owner;
        client.finish(request).await;
        assert!(ended.elapsed() < HAND_OVER, "{:?}", ended.elapsed());
        assert_eq!(client.release(owner).await, Outcome::Released);
    });
}

/// A holder is killed again and again, and each time a copy of its files stays open, while others take the key.
#[test]
fn r01_freeing_what_dead_holders_left_lets_nobody_in_twice() {
    if plays_a_part() {
        return;
    }
    let scratch = Scratch::new();
    std::fs::write(scratch.0.join("ledger"), "").unwrap();
    let mut workers: Vec<_> = (0..4).map(|_| Actor::start("work 150", &scratch.locks())).collect();
    for worker in &mut workers {
        worker.hears("ready");
        worker.tell("go");
    }
    for _ in 0..12 {
        let mut victim = Actor::start("hold", &scratch.locks());
        victim.hears("held");
        let childs = inherit(&victim);
        victim.process.kill().unwrap();
        let deadline = Instant::now() + 6 * TIMEOUT;
        // The next holder finds a file whose lock never ends.
        while victim.process.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline);
        }
        std::mem::forget(childs);
    }
    workers.into_iter().for_each(Actor::ends_well);
    let ledger = std::fs::read_to_string(scratch.0.join("ledger")).unwrap();
    let tokens: Vec<Token> = ledger.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(tokens.len(), 4 * 150, "updates were lost");
    assert!(tokens.is_sorted_by(|a, b| a < b), "a token went back");
}
