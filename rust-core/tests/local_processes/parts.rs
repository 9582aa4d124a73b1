//! What the actors do, by the names of their parts.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use dlock::backend::{Acquired, Outcome, Renew, Renewed};

use crate::block_on;
use crate::client::{Client, KEY, TIMEOUT};

pub(crate) const PART: &str = "DLOCK_TEST_PART";
pub(crate) const DIRECTORY: &str = "DLOCK_TEST_DIRECTORY";

fn say(word: &str) {
    println!("@{word}");
}

/// Waits for the next line of the test; the end of input ends the actor as a crash would.
fn listen() -> String {
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).unwrap() == 0 {
        std::process::exit(0);
    }
    line.trim().to_owned()
}

/// Plays a part if this process is an actor; false if it is the test.
pub(crate) fn plays_a_part() -> bool {
    let Ok(part) = std::env::var(PART) else { return false };
    let directory = PathBuf::from(std::env::var(DIRECTORY).unwrap());
    let mut words = part.split(' ');
    block_on(async {
        match words.next().unwrap() {
            "hold" => hold(Client::new(&directory)).await,
            "wait" => wait(Client::new(&directory)).await,
            "take" => take(Client::new(&directory)).await,
            "work" => work(Client::new(&directory), &directory, words.next().unwrap().parse().unwrap()).await,
            "wait-without-inotify" => {
                let taken = exhaust_inotify();
                wait(Client::new(&directory)).await;
                drop(taken);
            }
            "fork" => lose_all_as_a_forked_child_does(Client::new(&directory)).await,
            part => panic!("{part}"),
        }
    });
    true
}

async fn hold(mut client: Client) {
    let (owner, token) = client.take().await;
    say(&format!("held {token}"));
    let mut passed = Vec::new();
    loop {
        match listen().as_str() {
            "release" => {
                assert_eq!(client.release(owner).await, Outcome::Released);
                say("released");
            }
            "renew" => {
                let renew = Renew { key: KEY.into(), owner, ttl: TIMEOUT, exact: false };
                let answer = client.backend.renew(vec![renew], TIMEOUT).await.unwrap();
                say(if answer == [Renewed::Gone] { "gone" } else { "extended" });
            }
            "pass on" => {
                passed.extend(client.backend.lock_files(&KEY.into(), owner).unwrap());
                say(&format!("passed on {}", passed.len()));
            }
            word => panic!("{word}"),
        }
    }
}

async fn wait(mut client: Client) {
    let (request, answer) = client.ask(true).await;
    assert!(matches!(answer, Acquired::Waiting(_)), "{answer:?}");
    say("waiting");
    let owner = request.owner;
    client.finish(request).await;
    say("held");
    assert_eq!(client.release(owner).await, Outcome::Released);
}

async fn take(mut client: Client) {
    say("asking");
    let (owner, _) = client.take().await;
    say("held");
    assert_eq!(client.release(owner).await, Outcome::Released);
}

/// Read-modify-write of a shared file under the lock, which fails if anybody else is in it at the same time.
async fn work(mut client: Client, directory: &Path, cycles: u32) {
    let scratch = directory.parent().unwrap();
    say("ready");
    listen();
    for _ in 0..cycles {
        let (owner, token) = client.take().await;
        let trap = scratch.join("inside");
        OpenOptions::new().write(true).create_new(true).open(&trap).expect("nobody else is inside");
        let ledger = std::fs::read_to_string(scratch.join("ledger")).unwrap();
        std::fs::write(scratch.join("ledger"), format!("{ledger}{token}\n")).unwrap();
        std::fs::remove_file(trap).unwrap();
        assert_eq!(client.release(owner).await, Outcome::Released);
    }
    client.backend.close().await;
}

/// Uses up the inotify instances of the user, so that the waiter must poll.
fn exhaust_inotify() -> Vec<std::os::fd::OwnedFd> {
    use rustix::fs::inotify::{CreateFlags, init};
    std::iter::from_fn(|| init(CreateFlags::CLOEXEC).ok()).take(100_000).collect()
}

async fn lose_all_as_a_forked_child_does(mut client: Client) {
    client.take().await;
    let (_, answer) = client.ask(true).await;
    assert!(matches!(answer, Acquired::Waiting(_)));
    say("held");
    listen();
    dlock::fork::before_fork();
    dlock::fork::after_fork_in_child();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let ours: Vec<_> =
        open.filter(|path| path.to_string_lossy().contains("lock,") || path.ends_with("anon_inode:inotify")).collect();
    assert!(ours.is_empty(), "still open: {ours:?}");
    say("lost");
    listen();
    // The table still works: a new client of the child locks and watches like any other.
    let mut anew = Client::new(Path::new(&std::env::var(DIRECTORY).unwrap()));
    anew.take().await;
    say("held");
    listen();
}
