use super::*;
use crate::backend::etcd::servers::address::EtcdAddress;
use crate::clock::ManualClock;

const SECOND: Duration = Duration::from_secs(1);

fn pool(clock: &ManualClock) -> Arc<LeasePool> {
    let endpoints = Endpoints::new(EtcdAddress::parse("etcd://127.0.0.1:1").unwrap(), SECOND);
    LeasePool::new(Arc::new(endpoints), Arc::new(clock.clone()), SECOND, Box::new(|| {}))
}

impl LeaseUse {
    /// A waiter's use of a lease that no pool knows.
    pub(in crate::backend::etcd) fn sample(id: i64, ttl: Duration) -> Self {
        let clock = ManualClock::new();
        let only = pool(&clock);
        let lease = lease(&only, id, ttl, false);
        joined(&only, &lease)
    }
}

fn joined(pool: &Arc<LeasePool>, lease: &Arc<EtcdLease>) -> LeaseUse {
    lease.state.lock().waiters += 1;
    pool.use_of(lease)
}

/// A lease as it is after its grant.
fn lease(pool: &LeasePool, id: i64, ttl: Duration, exclusive: bool) -> Arc<EtcdLease> {
    let kept = pool.clock.now();
    let state = EtcdLeaseState { kept, server_ttl: ttl, over: false, holders: 0, waiters: 0, in_care: false, spare_since: kept };
    let lease = Arc::new(EtcdLease { id, ttl, exclusive, state: Mutex::new(state), keeping: tokio::sync::Mutex::default() });
    pool.leases.lock().insert(id, lease.clone());
    lease
}

#[test]
fn a_lease_has_whole_seconds_and_two_at_least() {
    assert_eq!((lease_ttl(SECOND * 5 / 2), lease_ttl(SECOND * 30), lease_ttl(SECOND)), (SECOND * 2, SECOND * 30, SECOND * 2));
}

#[tokio::test]
async fn locks_with_one_ttl_share_a_lease() {
    let clock = ManualClock::new();
    let pool = pool(&clock);
    lease(&pool, 1, SECOND * 30, false);
    lease(&pool, 2, SECOND * 5, false);
    lease(&pool, 3, SECOND * 7, true);
    let id = |ttl| pool.join_existing(ttl).map(|joined| joined.id());
    assert_eq!((id(SECOND * 30), id(SECOND * 5), id(SECOND * 6)), (Some(1), Some(2), None));
    assert_eq!(id(SECOND * 7), None, "an exclusive lease serves no other lock");
}

#[tokio::test]
async fn a_lease_that_is_full_or_close_to_its_end_is_not_joined() {
    let clock = ManualClock::new();
    let pool = pool(&clock);
    let (ttl, full) = (SECOND * 30, lease(&pool, 1, SECOND * 30, false));
    full.state.lock().holders = MOST_KEYS;
    assert!(pool.join_existing(ttl).is_none());
    full.state.lock().holders = MOST_KEYS - 1;
    assert!(pool.join_existing(ttl).is_some());
    clock.advance(SECOND * 16);
    assert!(pool.join_existing(ttl).is_none());
}

#[tokio::test]
async fn a_lease_is_kept_alive_for_waiters_and_for_later_but_not_for_holders() {
    let clock = ManualClock::new();
    let pool = pool(&clock);
    let (ttl, lease) = (SECOND * 30, lease(&pool, 1, SECOND * 30, false));
    let upkeep = || {
        let upkeep = lease.upkeep(clock.now()).0;
        lease.state.lock().in_care = false;
        upkeep
    };
    clock.advance(SECOND * 10);
    assert_eq!(upkeep(), Upkeep::KeepAlive, "for later");
    let mut joined = pool.join_existing(ttl).unwrap();
    assert_eq!(upkeep(), Upkeep::KeepAlive, "for a waiter");
    joined.hold();
    assert_eq!(upkeep(), Upkeep::None, "the holder's renewals do that");
    drop(joined);
    clock.advance(SPARE);
    lease.state.lock().kept = clock.now();
    assert_eq!(upkeep(), Upkeep::End, "nobody has used it for a long time");
    assert!(pool.join_existing(ttl).is_none(), "its keys would end with it");
}

#[tokio::test]
async fn an_exclusive_lease_ends_with_its_lock() {
    let clock = ManualClock::new();
    let pool = pool(&clock);
    let lease = lease(&pool, 1, SECOND * 30, true);
    let only = joined(&pool, &lease);
    assert_eq!(lease.upkeep(clock.now()).0, Upkeep::None);
    drop(only);
    assert_eq!(lease.upkeep(clock.now()).0, Upkeep::End);
}
