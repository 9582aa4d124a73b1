use super::*;
use crate::backend::etcd::servers::address::Address;
use crate::clock::ManualClock;

const SECOND: Duration = Duration::from_secs(1);

fn pool(clock: &ManualClock) -> Arc<Pool> {
    let endpoints = Endpoints::new(Address::parse("etcd://127.0.0.1:1").unwrap(), SECOND);
    Pool::new(Arc::new(endpoints), Arc::new(clock.clone()), SECOND, Box::new(|| {}))
}

/// A lease as it is after its grant.
fn lease(pool: &Pool, id: i64, ttl: Duration, sole: bool) -> Arc<Lease> {
    let kept = pool.clock.now();
    let state = State { kept, ttl, over: false, holders: 0, waiters: 0, tended: false, spare_since: kept };
    let lease = Arc::new(Lease { id, class: ttl, sole, state: Mutex::new(state), keeping: tokio::sync::Mutex::default() });
    pool.leases.lock().insert(id, lease.clone());
    lease
}

#[test]
fn a_ttl_is_whole_seconds_and_two_at_least() {
    assert_eq!((class(SECOND * 5 / 2), class(SECOND * 30), class(SECOND)), (SECOND * 2, SECOND * 30, SECOND * 2));
}

#[tokio::test]
async fn locks_with_one_ttl_share_a_lease() {
    let clock = ManualClock::new();
    let pool = pool(&clock);
    lease(&pool, 1, SECOND * 30, false);
    lease(&pool, 2, SECOND * 5, false);
    lease(&pool, 3, SECOND * 7, true);
    let id = |ttl| pool.sit(ttl).map(|seat| seat.lease.id);
    assert_eq!((id(SECOND * 30), id(SECOND * 5), id(SECOND * 6)), (Some(1), Some(2), None));
    assert_eq!(id(SECOND * 7), None, "one lock's own lease is for nobody else");
}

#[tokio::test]
async fn a_lease_that_is_full_or_close_to_its_end_is_not_joined() {
    let clock = ManualClock::new();
    let pool = pool(&clock);
    let (ttl, full) = (SECOND * 30, lease(&pool, 1, SECOND * 30, false));
    full.state.lock().holders = MOST_KEYS;
    assert!(pool.sit(ttl).is_none());
    full.state.lock().holders = MOST_KEYS - 1;
    assert!(pool.sit(ttl).is_some());
    clock.advance(SECOND * 16);
    assert!(pool.sit(ttl).is_none());
}

#[tokio::test]
async fn a_lease_is_kept_for_those_who_wait_and_for_later_but_not_for_holders() {
    let clock = ManualClock::new();
    let pool = pool(&clock);
    let (ttl, lease) = (SECOND * 30, lease(&pool, 1, SECOND * 30, false));
    let care = || {
        let care = lease.care(clock.now()).0;
        lease.state.lock().tended = false;
        care
    };
    clock.advance(SECOND * 10);
    assert_eq!(care(), Care::Keep, "for later");
    let mut seat = pool.sit(ttl).unwrap();
    assert_eq!(care(), Care::Keep, "for one who waits");
    seat.hold();
    assert_eq!(care(), Care::None, "a holder's renewals do that");
    drop(seat);
    clock.advance(SPARE);
    assert_eq!(care(), Care::End, "nobody needed it for long");
}

#[tokio::test]
async fn the_lease_of_one_lock_ends_with_it() {
    let clock = ManualClock::new();
    let pool = pool(&clock);
    let lease = lease(&pool, 1, SECOND * 30, true);
    let seat = pool.seat(&lease);
    assert_eq!(lease.care(clock.now()).0, Care::None);
    drop(seat);
    assert_eq!(lease.care(clock.now()).0, Care::End);
}
