//! `local:` between real processes. Each test starts copies of itself, which find their part in the environment.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use dlock::backend::{Acquire, Acquired, Backend, Context, Hint, Outcome, Release, Renew, Renewed, Waiting};
use dlock::clock::BootClock;
use dlock::fencing::Token;
use dlock::holder::Note;
use dlock::owner::{OwnerId, SessionId};
use rustix::process::{Pid, Signal};
use url::Url;

const PART: &str = "DLOCK_TEST_PART";
const DIRECTORY: &str = "DLOCK_TEST_DIRECTORY";
const KEY: &str = "k";
const TIMEOUT: Duration = Duration::from_secs(10);

/// How many processes fight for one key, and how often each of them takes it.
const PROCESSES: u32 = 8;
const CYCLES: u32 = 100;

/// The promise: the end of a holder's process frees its key within this time.
const HAND_OVER: Duration = Duration::from_millis(100);

/// A client of one process.
struct Client {
    backend: Arc<dyn Backend>,
    hints: tokio::sync::mpsc::UnboundedReceiver<Hint>,
    session: SessionId,
    sequence: AtomicU64,
}

impl Client {
    fn new(directory: &Path) -> Self {
        let (sender, hints) = tokio::sync::mpsc::unbounded_channel();
        let session = SessionId::random().unwrap();
        let context = Context {
            session,
            clock: Arc::new(BootClock),
            namespace: "dlock".into(),
            connect_timeout: TIMEOUT,
            op_timeout: TIMEOUT,
            on_hint: Arc::new(move |hint| drop(sender.send(hint))),
        };
        let url = Url::parse(&format!("local://{}", directory.display())).unwrap();
        Self { backend: dlock::backend::local::open(&url, context).unwrap(), hints, session, sequence: AtomicU64::new(1) }
    }

    fn request(&self, enqueue: bool) -> Acquire {
        Acquire {
            key: KEY.into(),
            owner: OwnerId { session: self.session, sequence: self.sequence.fetch_add(1, Ordering::Relaxed) },
            ttl: Duration::from_secs(30),
            fair: true,
            enqueue,
            note: Note::of_this_process(std::time::SystemTime::now(), None).encode().into(),
            floor: 0,
            timeout: TIMEOUT,
        }
    }

    /// One try; the owner and what came of it.
    async fn ask(&self, enqueue: bool) -> (Acquire, Acquired) {
        let request = self.request(enqueue);
        let answer = self.backend.acquire(request.clone()).await.unwrap();
        (request, answer)
    }

    /// Waits as the engine does: by hint, and by the backend's own word on when to look again.
    async fn take(&mut self) -> (OwnerId, Token) {
        let request = self.request(true);
        (request.owner, self.finish(request).await)
    }

    async fn finish(&mut self, request: Acquire) -> Token {
        let deadline = Instant::now() + 6 * TIMEOUT;
        loop {
            match self.backend.acquire(request.clone()).await.unwrap() {
                Acquired::Granted(grant) => return grant.token,
                Acquired::Waiting(Waiting { look_again, .. }) => {
                    assert!(Instant::now() < deadline, "never granted");
                    let _ = tokio::time::timeout(look_again, self.hints.recv()).await;
                }
            }
        }
    }

    async fn release(&self, owner: OwnerId) -> Outcome {
        self.backend.release(Release { key: KEY.into(), owner, next: None, timeout: TIMEOUT }).await.unwrap().outcome
    }
}

/// A directory of a test's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dlock-processes-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn locks(&self) -> PathBuf {
        self.0.join("locks")
    }

    /// The names of the lock files; slot files are meant to stay.
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

/// A copy of this program that plays a part of the running test. Killed when dropped.
struct Actor {
    process: std::process::Child,
    said: mpsc::Receiver<String>,
}

impl Actor {
    fn start(part: &str, directory: &Path) -> Self {
        let test = std::thread::current().name().unwrap().to_owned();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([&test, "--exact", "--nocapture", "--test-threads=1"])
            .env(PART, part)
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            // The test harness may write in front of what an actor says.
            let words = lines.map_while(Result::ok).filter_map(|line| line.split_once('@').map(|(_, word)| word.to_owned()));
            words.for_each(|word| drop(sender.send(word)));
        });
        Self { process, said }
    }

    fn hears(&self, word: &str) -> String {
        let said = self.said.recv_timeout(6 * TIMEOUT).expect("an actor that speaks");
        let rest = said.strip_prefix(word).unwrap_or_else(|| panic!("{said:?} instead of {word:?}"));
        rest.trim().to_owned()
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{word}").unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn ends_well(mut self) {
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

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

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// Plays a part if this process is an actor; false if it is the test.
fn plays_a_part() -> bool {
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

/// Read-modify-write of a shared file under the lock, with a trap for whoever else is inside.
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

/// Takes all that the user may have; the waiter must then poll.
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
    // The table works on: a new client of the child locks and watches as any other.
    let mut anew = Client::new(Path::new(&std::env::var(DIRECTORY).unwrap()));
    anew.take().await;
    say("held");
    listen();
}

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
                // As the engine does with a queue of its own that never ends.
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
