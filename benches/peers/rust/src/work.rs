//! The work that benches/README.md describes, over whatever locks a contender has.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

/// The TTL, where the work names none.
const TTL: Duration = Duration::from_secs(30);
/// How long a task that still waits at the end waits on.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Makes locks.
pub trait Contender {
    type Lock: Lock;

    /// A lock for one task. What it needs for itself, such as a connection, is made here and not measured.
    async fn lock(&self, key: &str, ttl: Duration) -> Result<Self::Lock>;

    /// Starts a task; its output.
    fn start<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> impl Future<Output = Result<T>> {
        let task = tokio::spawn(task);
        async { Ok(task.await?) }
    }
}

/// A lock of one task, which acquires and releases it by turns.
pub trait Lock: Send + 'static {
    /// Waits as long as it takes.
    fn acquire(&mut self) -> impl Future<Output = Result<()>> + Send;

    fn release(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// A lock that can be tried.
pub trait TryLock: Lock {
    /// Tries once, without waiting; true if it was granted.
    async fn try_acquire(&mut self) -> Result<bool>;
}

/// A whole library, and not just what a server allows.
pub trait Library: Contender<Lock: TryLock> {
    /// Acquires a key until the process ends, renewing it where the library can.
    async fn hold(&self, key: &str, ttl: Duration) -> Result<()> {
        let mut lock = self.lock(key, ttl).await?;
        lock.acquire().await?;
        mem::forget(lock);
        Ok(())
    }
}

/// One piece of work.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Work {
    Pairs(Pairs),
    Hold { key: String, ttl: f64 },
    Take { key: String, ttl: f64 },
    Tries { key: String, seconds: f64 },
}

#[derive(Deserialize)]
struct Pairs {
    keys: Vec<String>,
    seconds: f64,
    #[serde(default)]
    hold: f64,
    #[serde(default)]
    waits: bool,
}

/// Does any work; the answer.
pub async fn serve(library: &impl Library, line: &str) -> Result<Value> {
    match serde_json::from_str(line)? {
        Work::Pairs(work) => pairs(library, &work).await,
        Work::Hold { key, ttl } => {
            library.hold(&key, seconds(ttl)?).await?;
            Ok(json!({"held": true}))
        }
        Work::Take { key, ttl } => take(library, &key, seconds(ttl)?).await,
        Work::Tries { key, seconds: length } => tries(library, &key, seconds(length)?).await,
    }
}

/// Does the only work of a contender that cannot wait for others: tasks that never meet.
pub async fn serve_pairs(contender: &impl Contender, line: &str) -> Result<Value> {
    match serde_json::from_str(line)? {
        Work::Pairs(work) if work.keys.iter().collect::<HashSet<_>>().len() == work.keys.len() => pairs(contender, &work).await,
        _ => bail!("this contender does only pairs, with another key for each task"),
    }
}

async fn pairs<C: Contender>(contender: &C, work: &Pairs) -> Result<Value> {
    let (length, hold) = (seconds(work.seconds)?, seconds(work.hold)?);
    let mut locks = Vec::with_capacity(work.keys.len());
    for key in &work.keys {
        locks.push(contender.lock(key, TTL).await?);
    }
    let mut last_holders = HashMap::new();
    let started = Instant::now();
    let mut tasks = Vec::with_capacity(locks.len());
    for (number, (lock, key)) in locks.into_iter().zip(&work.keys).enumerate() {
        let last_holder = last_holders.entry(key).or_insert_with(|| Arc::new(AtomicUsize::new(NOBODY))).clone();
        let task = Task { number, end: started + length, hold, with_waits: work.waits, last_holder };
        tasks.push(C::start(task.run(lock)));
    }
    let (mut handovers, mut by_task, mut waits) = (0, Vec::with_capacity(tasks.len()), Vec::new());
    for task in tasks {
        let tally = task.await??;
        handovers += tally.handovers;
        by_task.push(tally.pairs);
        waits.extend(tally.waits.iter().map(Duration::as_secs_f64));
    }
    let seconds = started.elapsed().as_secs_f64();
    let pairs: u64 = by_task.iter().sum();
    Ok(json!({"pairs": pairs, "seconds": seconds, "handovers": handovers, "by_task": by_task, "waits": waits}))
}

/// No task has this number.
const NOBODY: usize = usize::MAX;

/// One of the tasks of `pairs`.
struct Task {
    number: usize,
    end: Instant,
    hold: Duration,
    with_waits: bool,
    /// The number of the task that was granted the key last, shared by all tasks with this key. Only the holder of the key touches it.
    last_holder: Arc<AtomicUsize>,
}

/// What a task has done so far.
#[derive(Default)]
struct Tally {
    pairs: u64,
    handovers: u64,
    waits: Vec<Duration>,
    /// Since when the task waits, if it does.
    waiting: Option<Instant>,
}

impl Task {
    async fn run(self, mut lock: impl Lock) -> Result<Tally> {
        let mut tally = Tally::default();
        let worked = timeout_at(self.end + LONGEST_WAIT, self.work(&mut lock, &mut tally)).await;
        match (worked, tally.waiting) {
            (Ok(worked), _) => worked?,
            (Err(_), Some(since)) if self.with_waits => tally.waits.push(since.elapsed()),
            (Err(_), _) => {}
        }
        Ok(tally)
    }

    async fn work(&self, lock: &mut impl Lock, tally: &mut Tally) -> Result<()> {
        loop {
            let asked = Instant::now();
            if asked >= self.end {
                return Ok(());
            }
            tally.waiting = Some(asked);
            lock.acquire().await?;
            tally.waiting = None;
            if self.with_waits {
                tally.waits.push(asked.elapsed());
            }
            tally.handovers += u64::from(![self.number, NOBODY].contains(&self.last_holder.swap(self.number, Ordering::Relaxed)));
            if !self.hold.is_zero() {
                sleep(self.hold).await;
            }
            lock.release().await?;
            tally.pairs += 1;
        }
    }
}

async fn take(library: &impl Library, key: &str, ttl: Duration) -> Result<Value> {
    let mut lock = library.lock(key, ttl).await?;
    let asked = Instant::now();
    lock.acquire().await?;
    let waited = asked.elapsed().as_secs_f64();
    lock.release().await?;
    Ok(json!({"waited": waited}))
}

async fn tries(library: &impl Library, key: &str, length: Duration) -> Result<Value> {
    let mut lock = library.lock(key, TTL).await?;
    let started = Instant::now();
    let mut tries: u64 = 0;
    while started.elapsed() < length {
        if lock.try_acquire().await? {
            lock.release().await?;
            bail!("a held key was granted");
        }
        tries += 1;
    }
    Ok(json!({"tries": tries, "seconds": started.elapsed().as_secs_f64()}))
}

fn seconds(seconds: f64) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(seconds)?)
}
