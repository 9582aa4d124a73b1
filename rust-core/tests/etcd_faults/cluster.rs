//! Many tasks at work while servers die: no call fails that could have succeeded, no two hold at once, and all goes on by itself.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dlock::error::LossReason;
use dlock::lease_state::Status;
use dlock::{Client, ClientOptions, Lease};
use futures_util::future::join_all;
use parking_lot::Mutex;

use crate::session::{all_queue_keys, onlooker};
use crate::support::etcd::{EtcdCluster, Version};
use crate::support::eventually;

const TASKS: usize = 64;
const KEYS: usize = 24;
const CLIENTS: usize = 4;

/// Longer than a cluster takes to elect a leader.
const TTL: Duration = Duration::from_secs(10);

/// The latest grant of one key that any client has received.
#[derive(Default)]
struct Latest(Mutex<(u64, Option<Lease>)>);

impl Latest {
    fn granted(&self, lease: &Lease) {
        let mut latest = self.0.lock();
        assert!(lease.token() > latest.0, "a later one was granted before: {lease:?}");
        if let Some(before) = &latest.1 {
            assert!(!before.is_valid() || !lease.is_valid(), "two valid leases: {before:?} {lease:?}");
        }
        *latest = (lease.token(), Some(lease.clone()));
    }
}

fn client(url: &str) -> Client {
    Client::with_options(url, ClientOptions { namespace: "ns".into(), ..ClientOptions::default() }).unwrap()
}

/// What all tasks share.
#[derive(Default)]
struct Work {
    keys: [Latest; KEYS],
    cycles: AtomicU64,
    lost: AtomicU64,
    longest: AtomicU64,
    over: AtomicBool,
}

impl Work {
    async fn cycle(&self, client: &Client, index: usize) {
        let key = index % KEYS;
        let lock = client.lock(&format!("k{key}")).ttl(TTL).wait(Duration::from_secs(30));
        while !self.over.load(Ordering::Relaxed) {
            let started = Instant::now();
            let lease = lock.acquire().await.unwrap();
            self.longest.fetch_max(u64::try_from(started.elapsed().as_millis()).unwrap(), Ordering::Relaxed);
            self.keys[key].granted(&lease);
            tokio::task::yield_now().await;
            // Its release may take longer than a call waits; it goes on.
            let _confirmed = lease.release().await.unwrap_or_else(|_| {
                self.lost.fetch_add(1, Ordering::Relaxed);
                false
            });
            self.cycles.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until so many cycles were done.
    async fn goes_on(&self, what: &str) {
        let started = Instant::now();
        let enough = self.cycles.load(Ordering::Relaxed) + 500;
        eventually(what, || async { self.cycles.load(Ordering::Relaxed) >= enough }).await;
        let longest = self.longest.swap(0, Ordering::Relaxed);
        println!("{what}: 500 cycles in {:?}, longest acquire {longest} ms", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r01_r04_r07_locks_survive_the_loss_of_servers() {
    let mut cluster = EtcdCluster::start().await;
    let url = cluster.url();
    let work = Arc::new(Work::default());
    let clients: Vec<_> = (0..CLIENTS).map(|_| client(&url)).collect();
    let tasks = (0..TASKS).map(|index| {
        let (work, client) = (work.clone(), clients[index % CLIENTS].clone());
        tokio::spawn(async move { work.cycle(&client, index).await })
    });
    let tasks: Vec<_> = tasks.collect();
    work.goes_on("all is well").await;

    let leader = cluster.leader().await;
    cluster.kill(leader);
    work.goes_on("the leader was killed").await;
    cluster.restart(leader).await;
    work.goes_on("it is back").await;

    let leader = cluster.leader().await;
    cluster.pause(leader).await;
    let paused = Instant::now();
    work.goes_on("the leader stands still").await;
    // Long enough for leases to end if the new leader did not know of their renewals.
    eventually("eight seconds are over", || async { paused.elapsed() > Duration::from_secs(8) }).await;
    work.goes_on("it has stood still for eight seconds").await;
    cluster.resume(leader);
    work.goes_on("it moves again").await;

    let follower = cluster.follower().await;
    cluster.kill(follower);
    work.goes_on("a follower was killed for good").await;
    work.goes_on("without it").await;

    assert!(!all_queue_keys(&onlooker(&cluster.members[cluster.leader().await].client_url()).await).await.is_empty());
    work.over.store(true, Ordering::Relaxed);
    for task in join_all(tasks).await {
        task.unwrap();
    }
    println!("{} cycles, {} leases lost", work.cycles.load(Ordering::Relaxed), work.lost.load(Ordering::Relaxed));
    assert_eq!(work.lost.load(Ordering::Relaxed), 0, "a lease was lost though a quorum lived");
    let onlooker = onlooker(&cluster.members[cluster.leader().await].client_url()).await;
    eventually("nothing is left", || async { all_queue_keys(&onlooker).await.is_empty() }).await;
    for client in clients {
        client.close(Duration::ZERO).await.unwrap();
    }
}

/// Old leaders that come back from a pause may revoke leases that the new one has kept alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r02_a_lease_that_an_old_leader_revoked_is_noticed_within_a_third_of_its_ttl() {
    const TTL: Duration = Duration::from_secs(6);
    let cluster = EtcdCluster::start_with(Version::Old).await;
    let client = client(&cluster.url());
    let mut leases = Vec::new();
    for number in 0..20 {
        leases.push(client.lock(&format!("k{number}")).ttl(TTL).acquire().await.unwrap());
    }
    let leader = cluster.leader().await;
    cluster.pause(leader).await;
    let paused = Instant::now();
    eventually("nine seconds are over", || async { paused.elapsed() > Duration::from_secs(9) }).await;
    assert!(leases.iter().all(Lease::is_valid), "a leader that stands still costs nobody the lease");
    cluster.resume(leader);
    let resumed = Instant::now();
    eventually("a third of the TTL is over", || async { resumed.elapsed() > TTL / 3 + Duration::from_secs(1) }).await;
    let onlooker = onlooker(&cluster.members[cluster.leader().await].client_url()).await;
    let tokens: Vec<_> =
        all_queue_keys(&onlooker).await.iter().map(|queue_key| queue_key.create_revision().cast_unsigned()).collect();
    let (valid, lost): (Vec<_>, Vec<_>) = leases.iter().partition(|lease| lease.is_valid());
    // Past the test runner, which keeps what a test that passes prints.
    writeln!(std::io::stderr(), "{} of {} leases revoked by an old leader", lost.len(), leases.len()).unwrap();
    assert!(valid.iter().all(|lease| tokens.contains(&lease.token())), "revoked and not noticed");
    assert!(lost.iter().all(|lease| lease.status() == Status::Lost(LossReason::Gone)), "{lost:?}");
}
