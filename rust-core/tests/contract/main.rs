//! The sentences of the `# Behavior` sections of `Backend`, tested on every backend.
//!
//! A backend takes part with one line at the end of this file. Where backends differ, `capabilities()` says so, and nothing else does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod acquiring;
mod fixture;
mod reading;
mod releasing;
mod renewing;
#[path = "../support/mod.rs"]
mod support;
mod waiting;

use std::sync::atomic::{AtomicU64, Ordering};

use url::Url;

use crate::fixture::Fixture;

/// Runs every sentence on one backend, each on a fixture of its own.
macro_rules! contract {
    ($backend:ident, $start:path) => {
        contract!(
            $backend, $start;
            acquiring::r07_a_free_key_is_granted_with_a_greater_token,
            acquiring::r07_a_token_is_greater_than_the_floor,
            acquiring::r07_a_floor_that_is_no_token_is_none,
            acquiring::r04_the_same_owner_is_confirmed,
            acquiring::r04_a_confirmation_does_not_shorten,
            acquiring::r04_a_dropped_request_can_be_released,
            acquiring::a_failed_try_names_the_holder_and_leaves_nothing,
            acquiring::keys_and_namespaces_are_apart,
            acquiring::one_key_is_never_held_twice,
            waiting::r08_a_waiter_is_hinted_when_the_key_is_released,
            waiting::r08_a_waiter_of_the_same_session_is_hinted_too,
            waiting::r08_a_waiter_is_hinted_when_the_key_is_forced_free,
            waiting::r09_the_longest_waiting_goes_first,
            waiting::a_leave_withdraws_a_waiter_or_releases_a_grant,
            renewing::renewals_are_answered_one_for_one,
            renewing::only_an_exact_renewal_shortens,
            renewing::r06_a_released_lease_cannot_be_renewed,
            renewing::a_lease_that_is_not_renewed_ends,
            releasing::r05_only_the_holder_releases,
            releasing::a_release_grants_the_next_where_nobody_waits,
            releasing::a_release_lets_those_who_wait_elsewhere_have_a_turn,
            releasing::a_forced_release_hits_the_named_holder_alone,
            releasing::r14_a_closed_backend_fails_and_its_waiters_are_gone,
            reading::inspecting_shows_the_holder_and_disturbs_nobody,
            reading::listing_shows_held_keys_with_a_prefix,
        );
    };
    ($backend:ident, $start:path; $($room:ident::$case:ident,)*) => {
        mod $backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::$room::$case(&$start().await).await;
                }
            )*
        }
    };
}

/// A directory that is removed with its fixture.
struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[allow(clippy::unused_async, reason = "a fixture with a server awaits it")]
async fn local() -> Fixture {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("dlock-contract-{}-{number}", std::process::id()));
    std::fs::create_dir(&path).unwrap();
    let url = Url::parse(&format!("local://{}/locks", path.display())).unwrap();
    Fixture { url, open: dlock::backend::local::open, _keep: Box::new(Scratch(path)) }
}

contract!(local, super::local);

async fn redis() -> Fixture {
    let server = support::redis::Server::start().await;
    Fixture { url: Url::parse(&server.url()).unwrap(), open: dlock::backend::redis::open, _keep: Box::new(server) }
}

contract!(redis, super::redis);

async fn etcd() -> Fixture {
    etcd_of(support::etcd::Version::Current).await
}

contract!(etcd, super::etcd);

async fn etcd_3_4() -> Fixture {
    etcd_of(support::etcd::Version::Old).await
}

contract!(etcd_3_4, super::etcd_3_4);

async fn etcd_of(version: support::etcd::Version) -> Fixture {
    let server = support::etcd::EtcdServer::start_with(version).await;
    let open: fixture::Open = |url, context| dlock::backend::etcd::open(url.as_str(), context);
    Fixture { url: Url::parse(&server.url()).unwrap(), open, _keep: Box::new(server) }
}

#[allow(clippy::unused_async, reason = "a fixture with a server awaits it")]
async fn memory() -> Fixture {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let url = format!("memory:contract-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    Fixture { url: Url::parse(&url).unwrap(), open: dlock::backend::memory::open, _keep: Box::new(()) }
}

contract!(memory, super::memory);
