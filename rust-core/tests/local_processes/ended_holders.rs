//! Holders that were killed, stopped or forked.

use std::time::{Duration, Instant};

use dlock::backend::{Acquired, Outcome};
use dlock::fencing::Token;
use rustix::process::Signal;

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

/// What the hook does in the child, played by a process of its own. That it leaves the *parent's* lock alone is tested beside the table,
/// and with a real fork by the Python tests: Rust cannot fork without `unsafe`.
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
