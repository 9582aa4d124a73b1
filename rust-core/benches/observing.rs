//! What it costs to look: pairs a second of 500 tasks while 10,000 leases are held, with observers of every event and a scrape each second, and
//! without, in turns in one process. Usage: `cargo bench -p dlock-engine --bench observing -- URL [ROUNDS]`
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dlock::Client;
use dlock::observe::Kinds;
use futures_util::future::join_all;
use rustix::time::{ClockId, clock_gettime};

const HELD: usize = 10_000;
const TASKS: usize = 500;
const ROUND: Duration = Duration::from_secs(2);

/// What all threads of this process have computed.
fn cpu() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap())
}

/// Pairs a second, and the microseconds of CPU time that a pair takes.
async fn pairs_a_second(client: &Client) -> [f64; 2] {
    let (started, used) = (Instant::now(), cpu());
    let tasks = (0..TASKS).map(|number| {
        let lock = client.lock(&format!("cycle-{number}"));
        tokio::spawn(async move {
            let mut done = 0_u32;
            while started.elapsed() < ROUND {
                let lease = lock.acquire().await.unwrap();
                lease.release().await.unwrap();
                done += 1;
            }
            done
        })
    });
    let done: u32 = join_all(tasks).await.into_iter().map(Result::unwrap).sum();
    [f64::from(done) / started.elapsed().as_secs_f64(), cpu().saturating_sub(used).as_secs_f64() * 1e6 / f64::from(done)]
}

/// [`pairs_a_second`] under observation.
async fn observed(client: &Client, heard: &Arc<AtomicU64>) -> [f64; 2] {
    let count = heard.clone();
    let subscription = client.on(Kinds::ALL, move |_| _ = count.fetch_add(1, Ordering::Relaxed));
    let scraped = client.clone();
    let scraping = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(scraped.metrics().len() > 1000);
        }
    });
    let rate = pairs_a_second(client).await;
    scraping.abort();
    subscription.end();
    rate
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let words: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let url = words.first().map_or("memory:", String::as_str);
    let rounds: usize = words.get(1).map_or(5, |word| word.parse().unwrap());
    let client = Client::new(url).unwrap();
    let locks: Vec<_> = (0..HELD).map(|number| client.lock(&format!("held-{number}")).ttl(Duration::from_secs(9))).collect();
    let held: Vec<_> = join_all(locks.iter().map(dlock::Lock::acquire)).await.into_iter().map(Result::unwrap).collect();
    pairs_a_second(&client).await;
    let heard = Arc::new(AtomicU64::new(0));
    let (mut off, mut on) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        off.push(pairs_a_second(&client).await);
        on.push(observed(&client, &heard).await);
    }
    assert!(held.iter().all(dlock::Lease::is_valid));
    let stats = client.stats();
    println!(
        "{{\"off\": {off:?}, \"on\": {on:?}, \"events\": {}, \"dropped\": {}, \"renewed\": {}}}",
        heard.load(Ordering::Relaxed),
        stats.dropped_events,
        stats.renewed
    );
    client.close(Duration::ZERO).await.unwrap();
}
