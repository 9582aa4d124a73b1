//! `local:` inside one process: which files it touches and when, and what it leaves behind.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use dlock::backend::{Acquire, Acquired, Backend, Context, Hint, Outcome, Release, Renew, Renewed, Whom};
use dlock::clock::{BootClock, Clock, ManualClock};
use dlock::error::{BackendError, Failure};
use dlock::fencing::Token;
use dlock::owner::{OwnerId, SessionId};
use tokio::sync::mpsc;
use url::Url;

const TIMEOUT: Duration = Duration::from_secs(5);
const OWNER: OwnerId = OwnerId { session: SessionId::from_u128(1), sequence: 1 };
const OTHER: OwnerId = OwnerId { session: SessionId::from_u128(2), sequence: 1 };

/// Locked by tests that wait, since the process has one reader of file events, which runs on the runtime of the first waiter.
static WAITING: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// A temporary directory for one test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dlock-rules-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn locks(&self) -> PathBuf {
        self.0.join("locks")
    }

    fn left(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.locks()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.starts_with("slot-")).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn open(directory: &Path, clock: Arc<dyn Clock>) -> (Arc<dyn Backend>, mpsc::UnboundedReceiver<Hint>) {
    let (sender, hints) = mpsc::unbounded_channel();
    let context = Context {
        session: SessionId::from_u128(1),
        clock,
        namespace: "dlock".into(),
        connect_timeout: TIMEOUT,
        op_timeout: TIMEOUT,
        on_hint: Arc::new(move |hint| drop(sender.send(hint))),
    };
    let url = Url::parse(&format!("local://{}", directory.display())).unwrap();
    (dlock::backend::local::open(&url, context).unwrap(), hints)
}

fn request(owner: OwnerId) -> Acquire {
    Acquire {
        key: "k".into(),
        owner,
        ttl: Duration::from_secs(30),
        fair: true,
        enqueue: true,
        renew: true,
        note: "{}".into(),
        floor: 0,
        timeout: TIMEOUT,
    }
}

async fn take(backend: &Arc<dyn Backend>, owner: OwnerId) -> Token {
    match backend.acquire(request(owner)).await.unwrap() {
        Acquired::Granted(grant) => grant.token,
        Acquired::Waiting(waiting) => panic!("{waiting:?}"),
    }
}

async fn wait(backend: &Arc<dyn Backend>, owner: OwnerId) {
    assert!(matches!(backend.acquire(request(owner)).await.unwrap(), Acquired::Waiting(_)));
}

async fn release(backend: &Arc<dyn Backend>, owner: OwnerId) -> Result<Outcome, BackendError> {
    let release = Release { key: "k".into(), owner, next: None, timeout: TIMEOUT };
    backend.release(release).await.map(|handover| handover.outcome)
}

#[tokio::test]
async fn nothing_is_made_before_the_first_use_and_little_is_left_after_the_last() {
    let scratch = Scratch::new();
    let (backend, _hints) = open(&scratch.locks(), Arc::new(BootClock));
    assert!(!scratch.locks().exists());
    for _ in 0..10 {
        take(&backend, OWNER).await;
        assert_eq!(scratch.left(), ["lock,dlock,k"]);
        release(&backend, OWNER).await.unwrap();
        assert_eq!(scratch.left(), [""; 0]);
    }
    take(&backend, OWNER).await;
    drop(backend);
    assert_eq!(scratch.left(), [""; 0], "a client that is dropped lets go");
}

#[tokio::test]
async fn r07_tokens_rise_across_unlinked_files_and_a_wall_clock_that_steps_back() {
    let scratch = Scratch::new();
    let clock = ManualClock::new();
    let mut last = 0;
    for step in 0_u64..20 {
        // A new client each time, so that nothing depends on what a client remembers.
        let (backend, _hints) = open(&scratch.locks(), Arc::new(clock.clone()));
        let token = take(&backend, OWNER).await;
        assert!(token > last, "{token} after {last}");
        last = token;
        release(&backend, OWNER).await.unwrap();
        clock.set_wall(SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000 - step * 86_400));
    }
}

/// The slot file of `k`, which a first grant has made.
async fn slot(scratch: &Scratch, backend: &Arc<dyn Backend>) -> (PathBuf, Token) {
    let token = take(backend, OWNER).await;
    release(backend, OWNER).await.unwrap();
    let mut slots = std::fs::read_dir(scratch.locks()).unwrap().map(|entry| entry.unwrap().path());
    (slots.find(|path| path.to_string_lossy().contains("slot-")).unwrap(), token)
}

#[tokio::test]
async fn r07_a_spoilt_last_token_neither_wedges_its_keys_nor_is_carried_on() {
    let scratch = Scratch::new();
    let (backend, _hints) = open(&scratch.locks(), Arc::new(BootClock));
    let (path, mut last) = slot(&scratch, &backend).await;
    let above = 1_u64 << 52;
    for spoilt in ["", "abc", "-1", "1e9", "9007199254740993", "18446744073709551616", &above.to_string(), &"9".repeat(100_000)] {
        std::fs::write(&path, spoilt).unwrap();
        for _ in 0..2 {
            let token = take(&backend, OWNER).await;
            assert!(last < token && token < above, "{token} after {last}, {} bytes", spoilt.len());
            last = token;
            release(&backend, OWNER).await.unwrap();
        }
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir_all(path.join("a directory that is not empty")).unwrap();
    assert!(take(&backend, OWNER).await > last);
}

/// The holder releases the key during a forced release, and its successor keeps the key.
#[tokio::test]
async fn r01_a_forced_release_does_not_end_a_successor() {
    let scratch = Scratch::new();
    let (backend, _hints) = open(&scratch.locks(), Arc::new(BootClock));
    let (slot, _) = slot(&scratch, &backend).await;
    let token = take(&backend, OWNER).await;
    let path = scratch.locks().join("lock,dlock,k");
    let record = std::fs::read_to_string(&path).unwrap();
    let becoming = File::open(slot).unwrap();
    becoming.lock().unwrap();
    let forced = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move { backend.force_release("k".into(), Whom::Token(token), TIMEOUT).await.unwrap() }
    });
    // Time for a check that would come too early. The result does not depend on it.
    tokio::time::sleep(Duration::from_millis(20)).await;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, record.replace(&token.to_string(), &(token + 1).to_string())).unwrap();
    drop(becoming);
    assert!(!forced.await.unwrap());
    assert!(path.exists());
}

#[tokio::test]
async fn r07_a_grant_that_cannot_rise_is_refused_and_released() {
    let scratch = Scratch::new();
    let (backend, _hints) = open(&scratch.locks(), Arc::new(BootClock));
    let (path, _) = slot(&scratch, &backend).await;
    std::fs::write(&path, format!("{:020}\n", (1_u64 << 52) - 1)).unwrap();
    let error = backend.acquire(request(OWNER)).await.unwrap_err();
    assert_eq!(error.failure, Failure::Refused);
    assert_eq!(scratch.left(), [""; 0], "nobody holds it");
    std::fs::remove_file(&path).unwrap();
    take(&backend, OWNER).await;
}

#[tokio::test]
async fn a_process_stopped_in_a_token_slot_delays_others_by_their_timeout_only() {
    let scratch = Scratch::new();
    let (backend, _hints) = open(&scratch.locks(), Arc::new(BootClock));
    take(&backend, OWNER).await;
    release(&backend, OWNER).await.unwrap();
    let slot = std::fs::read_dir(scratch.locks()).unwrap().next().unwrap().unwrap().path();
    let stopped = File::open(slot).unwrap();
    stopped.lock().unwrap();
    let timeout = Duration::from_millis(50);
    let began = Instant::now();
    let error = backend.acquire(Acquire { timeout, ..request(OWNER) }).await.unwrap_err();
    assert_eq!(error.failure, Failure::NotSent);
    assert!(began.elapsed() >= timeout && began.elapsed() < 10 * timeout, "{:?}", began.elapsed());
    assert_eq!(scratch.left(), [""; 0], "the key was let go");
    // An attempt that is dropped halfway leaves nothing either.
    let _ = tokio::time::timeout(timeout, backend.acquire(request(OWNER))).await.unwrap_err();
    assert_eq!(scratch.left(), [""; 0]);
    // An attempt that is withdrawn halfway ends without a grant.
    let attempt = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move { backend.acquire(request(OWNER)).await }
    });
    while scratch.left().is_empty() {
        tokio::task::yield_now().await;
    }
    backend.leave("k".into(), OWNER, TIMEOUT).await.unwrap();
    drop(stopped);
    assert!(attempt.await.unwrap().is_err());
    assert_eq!(scratch.left(), [""; 0]);
    take(&backend, OWNER).await;
}

#[tokio::test]
async fn a_deleted_lock_file_is_a_lost_lease() {
    let scratch = Scratch::new();
    let (backend, _hints) = open(&scratch.locks(), Arc::new(BootClock));
    take(&backend, OWNER).await;
    std::fs::remove_file(scratch.locks().join("lock,dlock,k")).unwrap();
    let renew = Renew { key: "k".into(), owner: OWNER, ttl: TIMEOUT, exact: false };
    assert_eq!(backend.renew(vec![renew], TIMEOUT).await.unwrap(), [Renewed::Gone]);
    assert_eq!(release(&backend, OWNER).await.unwrap(), Outcome::NotHeld);
}

#[tokio::test]
async fn a_deleted_directory_is_made_anew() {
    let scratch = Scratch::new();
    let (backend, _hints) = open(&scratch.locks(), Arc::new(BootClock));
    let first = take(&backend, OWNER).await;
    release(&backend, OWNER).await.unwrap();
    std::fs::remove_dir_all(scratch.locks()).unwrap();
    assert!(take(&backend, OWNER).await > first);
}

#[tokio::test]
async fn an_unfit_directory_is_refused_by_name_at_first_use() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.0.join("real")).unwrap();
    std::os::unix::fs::symlink(scratch.0.join("real"), scratch.locks()).unwrap();
    let (backend, _hints) = open(&scratch.locks(), Arc::new(BootClock));
    for error in [backend.ping(TIMEOUT).await.unwrap_err(), backend.acquire(request(OWNER)).await.unwrap_err()] {
        assert_eq!(error.failure, Failure::Refused);
        assert!(error.message.contains(scratch.locks().to_str().unwrap()), "{error}");
    }
}

#[test]
fn waiters_outlive_the_runtime_that_read_their_events() {
    let _alone = WAITING.lock();
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let scratch = Scratch::new();
    let (first, second) = (runtime(), runtime());
    let (holder, _hints) = open(&scratch.locks(), Arc::new(BootClock));
    let (waiter, mut hints) = open(&scratch.locks(), Arc::new(BootClock));
    first.block_on(async {
        take(&holder, OWNER).await;
        // The reader runs on the runtime of the first waiter.
        wait(&holder, OwnerId { sequence: 2, ..OWNER }).await;
    });
    second.block_on(wait(&waiter, OTHER));
    drop(first);
    second.block_on(async {
        let hint = tokio::time::timeout(TIMEOUT, hints.recv()).await.expect("told that the watch ended");
        assert_eq!(hint, Some(Hint::Key("k".into(), Some(OTHER))));
        wait(&waiter, OTHER).await;
        release(&holder, OWNER).await.unwrap();
        tokio::time::timeout(TIMEOUT, hints.recv()).await.expect("told of the release");
        let deadline = Instant::now() + TIMEOUT;
        while matches!(waiter.acquire(request(OTHER)).await.unwrap(), Acquired::Waiting(_)) {
            assert!(Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn r17_leaving_closes_what_waiting_opened() {
    // Dropped last, so that the runtime which reads the events ends before other tests begin to wait.
    let _alone = WAITING.lock();
    tokio::runtime::Runtime::new().unwrap().block_on(leaving_closes_what_waiting_opened());
}

async fn leaving_closes_what_waiting_opened() {
    let scratch = Scratch::new();
    let (backend, _hints) = open(&scratch.locks(), Arc::new(BootClock));
    let ours = || {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        // The sweep may have the directory open, or a file in it.
        fds.filter(|path| path.starts_with(&scratch.0) && *path != scratch.locks()).count()
    };
    take(&backend, OWNER).await;
    settles(&ours, 1).await;
    for sequence in 0..100 {
        wait(&backend, OwnerId { sequence, ..OTHER }).await;
    }
    settles(&ours, 101).await;
    for sequence in 0..100 {
        backend.leave("k".into(), OwnerId { sequence, ..OTHER }, TIMEOUT).await.unwrap();
    }
    settles(&ours, 1).await;
    backend.close().await;
    settles(&ours, 0).await;
}

/// Polls until as many files are open; fails after five seconds.
async fn settles(open_files: &impl Fn() -> usize, expected: usize) {
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while open_files() != expected {
        assert!(std::time::Instant::now() < deadline, "{} files are open, not {expected}", open_files());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
