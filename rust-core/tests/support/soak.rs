//! Random faults between three sessions and a real server. `SEED` repeats a failing run, and `SOAK` sets its length in seconds.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dlock::{Client, ClientOptions, Lease, Lock};
use tokio::time::{sleep, timeout};

use super::proxy::{Gate, Proxy};

/// Lease times that suit the backend, in ms.
#[derive(Clone, Copy)]
pub struct Terms {
    pub ttls: [u32; 3],
    pub shortest_extension: u32,
    /// How much longer an extension may be.
    pub extensions: u32,
}

const MS: Duration = Duration::from_millis(1);

/// Random numbers that a seed repeats, apart from the order in which tasks draw them.
struct Random(Mutex<u64>);

impl Random {
    fn below(&self, limit: u32) -> u32 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(*state >> 33).unwrap() % limit
    }

    fn one_in(&self, limit: u32) -> bool {
        self.below(limit) == 0
    }

    fn pause(&self, limit: u32) -> Duration {
        MS * self.below(limit)
    }
}

/// The latest grant of one key that any task has received.
#[derive(Default)]
struct Latest(Mutex<(u64, Option<Lease>)>);

impl Latest {
    fn told(&self, lease: &Lease) {
        let mut latest = self.0.lock().unwrap();
        if !lease.is_valid() {
            return;
        }
        assert!(lease.token() > latest.0, "a later one was granted before: {lease:?}");
        if let Some(before) = &latest.1 {
            assert!(!before.is_valid() || !lease.is_valid(), "two valid leases: {before:?} {lease:?}");
        }
        *latest = (lease.token(), Some(lease.clone()));
    }
}

fn lock(client: &Client, key: &str, random: &Random, terms: Terms) -> Lock {
    let mut lock = client.lock(key).ttl(MS * terms.ttls[random.below(3) as usize]);
    if random.one_in(4) {
        lock = lock.fair(false);
    }
    if random.one_in(3) {
        lock = lock.wait(random.pause(400));
    }
    if random.one_in(5) {
        lock = lock.renew(false);
    }
    lock
}

/// Takes the key again and again; some attempts are cancelled.
async fn work(client: Client, key: &str, latest: Arc<Latest>, random: Arc<Random>, terms: Terms, end: Instant) {
    while Instant::now() < end {
        let patience = if random.one_in(4) { random.pause(300) } else { 60_000 * MS };
        let Ok(Ok(lease)) = timeout(patience, lock(&client, key, &random, terms).acquire()).await else {
            sleep(5 * MS).await;
            continue;
        };
        latest.told(&lease);
        // Sometimes longer than a lease can be kept while the proxy lets nothing pass.
        sleep(random.pause(if random.one_in(3) { 1_500 } else { 30 })).await;
        if random.one_in(6) {
            let _ = lease.extend(MS * terms.shortest_extension + random.pause(terms.extensions)).await;
            sleep(random.pause(300)).await;
        }
        lease.begin_release().unwrap();
    }
}

fn break_something(proxy: &Proxy, random: &Random) {
    match random.below(7) {
        0 => proxy.requests(Gate::Stalled),
        1 => proxy.answers(Gate::Stalled),
        2 => proxy.answers(Gate::Lost),
        3 => {
            proxy.requests(Gate::Stalled);
            proxy.answers(Gate::Closed);
        }
        4 => proxy.answers(Gate::Slow),
        _ => mend(proxy),
    }
}

fn mend(proxy: &Proxy) {
    proxy.requests(Gate::Open);
    proxy.answers(Gate::Open);
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Three sessions, each behind its own proxy to `port`, take two keys in turn while the proxies fail. Panics if two leases are valid at once,
/// if a token does not rise, or if a task waits for ever.
pub async fn soak(scheme: &str, port: u16, namespace: &str, terms: Terms) {
    let random = Arc::new(Random(Mutex::new(from_environment("SEED", 1))));
    let end = Instant::now() + Duration::from_secs(from_environment("SOAK", 8));
    let keys = ["a", "b"].map(|key| (key, Arc::new(Latest::default())));
    let (mut proxies, mut tasks) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let proxy = Proxy::to(port).await;
        let (op_timeout, connect_timeout) = (300 * MS, 20_000 * MS);
        let options = ClientOptions { namespace: namespace.into(), op_timeout, connect_timeout, ..ClientOptions::default() };
        let client = Client::with_options(&format!("{scheme}://127.0.0.1:{}", proxy.port), options).unwrap();
        for (key, latest) in keys.iter().cycle().take(6) {
            tasks.push(tokio::spawn(work(client.clone(), key, latest.clone(), random.clone(), terms, end)));
        }
        proxies.push(proxy);
    }
    while Instant::now() < end {
        let proxy = &proxies[random.below(3) as usize];
        break_something(proxy, &random);
        sleep(random.pause(250)).await;
        if random.one_in(2) {
            mend(proxy);
        }
    }
    proxies.iter().for_each(mend);
    for task in tasks {
        timeout(30_000 * MS, task).await.expect("nobody sleeps for ever").unwrap();
    }
}
