//! `redis://` under random faults.

#![allow(clippy::unwrap_used)]

mod support;

use support::redis::Server;
use support::soak::{Terms, soak};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r01_r07_no_two_valid_leases_under_random_faults_and_nothing_stays_behind() {
    let server = Server::start().await;
    let cli = server.cli().await;
    soak("redis", server.port, "dlock", Terms { ttls: [400, 1_000, 3_000], shortest_extension: 100, extensions: 3_000 }).await;
    support::eventually("nothing is left", || async { cli.keys().await.iter().all(|key| key.starts_with("dlock:t:")) }).await;
}
