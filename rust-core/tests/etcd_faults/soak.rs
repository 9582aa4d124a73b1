//! Random faults between three sessions and a real server. A failing run is repeated with its `SEED`, a longer one made with `SOAK` seconds.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dlock::{Client, ClientOptions, Lease, Lock};
use tokio::time::{sleep, timeout};

use crate::session::{all_places, onlooker};
use crate::support::etcd::EtcdServer;
use crate::support::eventually;
use crate::support::proxy::{Gate, Proxy};

const MS: Duration = Duration::from_millis(1);

/// Numbers that a seed repeats, but for the order in which tasks draw them.
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

/// The latest grant of one key that anybody was told of.
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

fn lock(client: &Client, key: &str, random: &Random) -> Lock {
    let mut lock = client.lock(key).ttl(MS * [2_000, 3_000, 5_000][random.below(3) as usize]);
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
async fn work(client: Client, key: &str, latest: Arc<Latest>, random: Arc<Random>, end: Instant) {
    while Instant::now() < end {
        let patience = if random.one_in(4) { random.pause(300) } else { 60_000 * MS };
        let Ok(Ok(lease)) = timeout(patience, lock(&client, key, &random).acquire()).await else {
            sleep(5 * MS).await;
            continue;
        };
        latest.told(&lease);
        // Now and then longer than the lease can be kept while nothing passes.
        sleep(random.pause(if random.one_in(3) { 1_500 } else { 30 })).await;
        if random.one_in(6) {
            let _ = lease.extend(2_000 * MS + random.pause(4_000)).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r01_r07_no_two_valid_leases_under_random_faults_and_nothing_stays_behind() {
    let random = Arc::new(Random(Mutex::new(from_environment("SEED", 1))));
    let end = Instant::now() + Duration::from_secs(from_environment("SOAK", 8));
    let server = EtcdServer::start().await;
    let onlooker = onlooker(&server.client_url()).await;
    let keys = ["a", "b"].map(|key| (key, Arc::new(Latest::default())));
    let (mut proxies, mut tasks) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let proxy = Proxy::to(server.port).await;
        let (op_timeout, connect_timeout) = (300 * MS, 20_000 * MS);
        let options = ClientOptions { namespace: "ns".into(), op_timeout, connect_timeout, ..ClientOptions::default() };
        let client = Client::with_options(&format!("etcd://127.0.0.1:{}", proxy.port), options).unwrap();
        for (key, latest) in keys.iter().cycle().take(6) {
            tasks.push(tokio::spawn(work(client.clone(), key, latest.clone(), random.clone(), end)));
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
    eventually("nothing is left", || async { all_places(&onlooker).await.is_empty() }).await;
}
