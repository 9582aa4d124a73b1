//! How processes take turns at a key.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use dlock::backend::{Acquired, Release, Waiting};
use dlock::fencing::Token;

use crate::actor::Actor;
use crate::client::{Client, KEY, Scratch, TIMEOUT};
use crate::parts::plays_a_part;
use crate::{HAND_OVER, block_on};

/// How many processes contend for one key, and how often each of them takes it.
const PROCESSES: u32 = 8;
const CYCLES: u32 = 100;

#[test]
fn eight_processes_never_overlap_and_tokens_rise() {
    if plays_a_part() {
        return;
    }
    let scratch = Scratch::new();
    std::fs::write(scratch.0.join("ledger"), "").unwrap();
    let mut actors: Vec<_> = (0..PROCESSES).map(|_| Actor::start(&format!("work {CYCLES}"), &scratch.locks())).collect();
    for actor in &mut actors {
        actor.hears("ready");
        actor.tell("go");
    }
    actors.into_iter().for_each(Actor::ends_well);
    let ledger = std::fs::read_to_string(scratch.0.join("ledger")).unwrap();
    let tokens: Vec<Token> = ledger.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(tokens.len(), (PROCESSES * CYCLES) as usize, "updates were lost");
    assert!(tokens.is_sorted_by(|a, b| a < b), "a token went back");
    assert_eq!(scratch.left(), [""; 0], "nothing is left but slot files");
}

#[test]
fn a_waiter_in_another_process_is_woken_by_a_release() {
    if plays_a_part() {
        return;
    }
    let scratch = Scratch::new();
    let mut holder = Actor::start("hold", &scratch.locks());
    holder.hears("held");
    let waiter = Actor::start("wait", &scratch.locks());
    waiter.hears("waiting");
    let released = Instant::now();
    holder.tell("release");
    waiter.hears("held");
    assert!(released.elapsed() < HAND_OVER, "{:?}", released.elapsed());
    waiter.ends_well();
}

#[test]
fn a_busy_process_lets_waiters_of_others_have_a_turn() {
    if plays_a_part() {
        return;
    }
    let scratch = Scratch::new();
    block_on(async {
        let client = Client::new(&scratch.locks());
        let mut held = client.ask(true).await.0.owner;
        for _ in 0..3 {
            let waiter = Actor::start("take", &scratch.locks());
            let mut waiting = None;
            loop {
                let began = Instant::now();
                while began.elapsed() < Duration::from_micros(200) {
                    std::hint::spin_loop();
                }
                // As the engine does while its own line never becomes empty.
                let next = client.request(true);
                let owner = next.owner;
                let release = Release { key: KEY.into(), owner: held, next: Some(next.clone()), timeout: TIMEOUT };
                let mut answer = client.backend.release(release).await.unwrap().next.unwrap();
                while let Acquired::Waiting(Waiting { look_again, .. }) = answer {
                    tokio::time::sleep(look_again.min(Duration::from_millis(2))).await;
                    answer = client.backend.acquire(next.clone()).await.unwrap();
                }
                held = owner;
                match waiter.said.try_recv().as_deref() {
                    Ok("asking") => waiting = Some(Instant::now()),
                    Ok("held") => break,
                    Err(mpsc::TryRecvError::Disconnected) => panic!("the waiter died"),
                    _ => {}
                }
            }
            let took = waiting.expect("it waited first").elapsed();
            println!("a waiter's turn came after {took:?}");
            assert!(took < HAND_OVER, "{took:?}");
            waiter.ends_well();
        }
    });
}

#[test]
fn without_an_inotify_instance_a_waiter_polls() {
    if plays_a_part() {
        return;
    }
    let scratch = Scratch::new();
    let holder = Actor::start("hold", &scratch.locks());
    holder.hears("held");
    let waiter = Actor::start("wait-without-inotify", &scratch.locks());
    waiter.hears("waiting");
    let killed = Instant::now();
    drop(holder);
    waiter.hears("held");
    assert!(killed.elapsed() < HAND_OVER, "{:?}", killed.elapsed());
    waiter.ends_well();
}

#[test]
fn an_idle_waiter_costs_next_to_nothing_while_others_try_and_look() {
    if plays_a_part() {
        return;
    }
    let scratch = Scratch::new();
    let holder = Actor::start("hold", &scratch.locks());
    holder.hears("held");
    let waiter = Actor::start("wait", &scratch.locks());
    waiter.hears("waiting");
    let before = cpu(waiter.process.id());
    let began = Instant::now();
    block_on(async {
        let client = Client::new(&scratch.locks());
        while began.elapsed() < Duration::from_secs(2) {
            assert!(matches!(client.ask(false).await.1, Acquired::Waiting(_)));
            assert!(client.backend.inspect(KEY.into(), TIMEOUT).await.unwrap().holder.is_some());
        }
    });
    let burned = cpu(waiter.process.id()).saturating_sub(before);
    println!("an idle waiter burned {burned:?} of {:?}", began.elapsed());
    assert!(burned <= Duration::from_millis(30), "{burned:?}");
}

/// The processor time that a process's threads have used.
fn cpu(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let used = threads.map(|thread| {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
        stat.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(used.sum())
}
