//! Runs seeds, one with its trace or many on all cores, and sums them up.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::faults::Tally;
use crate::plan::PROMISED_ERROR;
use crate::story;

/// So many failures are told in full.
const TOLD: usize = 5;
/// One in so many seeds is run twice.
const REPEATED: u64 = 64;
/// A seed that takes longer than this runs in circles where no virtual time passes.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// Runs one seed and prints what happened in it.
pub(crate) fn one(seed: u64) -> ExitCode {
    let outcome = story::run(seed, PROMISED_ERROR, true, &Arc::default());
    print!("{}", outcome.trace);
    for violation in &outcome.violations {
        println!("violation {violation}");
    }
    println!("seed {seed}: {} grants, {} requests, {} violations", outcome.sums.grants, outcome.requests, outcome.violations.len());
    verdict(outcome.violations.len())
}

#[derive(Default)]
struct Total {
    next: AtomicU64,
    grants: AtomicU64,
    requests: AtomicU64,
    overlaps: AtomicU64,
    failed: AtomicU64,
    over: AtomicBool,
    told: Mutex<Vec<u64>>,
}

/// Runs many seeds on all cores.
pub(crate) fn many(first: u64, seeds: u64) -> ExitCode {
    let (total, tally) = (Total { next: AtomicU64::new(first), ..Total::default() }, Arc::<Tally>::default());
    let end = first.saturating_add(seeds);
    let started = Instant::now();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let current: Vec<_> = (0..cores).map(|_| Mutex::new((0, Instant::now()))).collect();
    std::thread::scope(|scope| {
        let workers: Vec<_> = current.iter().map(|current| scope.spawn(|| work(&total, &tally, end, current))).collect();
        scope.spawn(|| watch(&total, &current));
        for worker in workers {
            if worker.join().is_err() {
                total.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        total.over.store(true, Ordering::Relaxed);
    });
    let elapsed = started.elapsed().as_secs_f64();
    println!("{}", summary(first, seeds, &total, &tally, elapsed, cores));
    verdict(usize::try_from(total.failed.load(Ordering::Relaxed)).unwrap_or(usize::MAX))
}

fn work(total: &Total, tally: &Arc<Tally>, end: u64, current: &Mutex<(u64, Instant)>) {
    let fail_fast = std::env::var_os("FAIL_FAST").is_some();
    loop {
        let seed = total.next.fetch_add(1, Ordering::Relaxed);
        if seed >= end || (fail_fast && total.failed.load(Ordering::Relaxed) > 0) {
            return;
        }
        *current.lock() = (seed, Instant::now());
        let mut outcome = story::run(seed, PROMISED_ERROR, false, tally);
        if seed.is_multiple_of(REPEATED) && story::run(seed, PROMISED_ERROR, false, &Arc::default()).digest != outcome.digest {
            outcome.violations.push("two runs of this seed differ: something in it is left to chance".to_owned());
        }
        total.grants.fetch_add(outcome.sums.grants, Ordering::Relaxed);
        total.overlaps.fetch_add(outcome.sums.overlaps, Ordering::Relaxed);
        total.requests.fetch_add(outcome.requests, Ordering::Relaxed);
        if !outcome.violations.is_empty() {
            total.failed.fetch_add(1, Ordering::Relaxed);
            total.tell(seed, &outcome.violations);
        }
    }
}

impl Total {
    fn tell(&self, seed: u64, violations: &[String]) {
        let mut told = self.told.lock();
        if told.len() < TOLD {
            told.push(seed);
            for violation in violations.iter().take(3) {
                println!("seed {seed}: {violation}");
            }
            println!("seed {seed}: `SEED={seed} make sim` prints its trace");
        }
    }
}

/// Ends the process when a seed hangs: no seed can be stopped from outside.
fn watch(total: &Total, current: &[Mutex<(u64, Instant)>]) {
    while !total.over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
        for current in current {
            let (seed, since) = *current.lock();
            if since.elapsed() > HANGS_AFTER && !total.over.load(Ordering::Relaxed) && seed > 0 {
                println!("seed {seed}: hangs, ended after {HANGS_AFTER:?}");
                std::process::exit(1);
            }
        }
    }
}

#[allow(clippy::cast_precision_loss)] // for people
fn summary(first: u64, seeds: u64, total: &Total, tally: &Tally, elapsed: f64, cores: usize) -> String {
    let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let mut line = format!(
        "sim: {seeds} seeds from {first}, {} grants, {} requests, {} faults (",
        read(&total.grants),
        read(&total.requests),
        tally.total()
    );
    for (index, (name, count)) in tally.lines().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let _ = write!(line, "{comma}{name} {count}");
    }
    let _ = write!(
        line,
        "), {} overlaps after the server forgot, {} seeds with violations, {:.0} seeds/s on {cores} cores",
        read(&total.overlaps),
        read(&total.failed),
        seeds as f64 / elapsed
    );
    line
}

fn verdict(failed: usize) -> ExitCode {
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
