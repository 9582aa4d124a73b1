//! The backend under random faults.

use crate::session::{all_queue_keys, onlooker};
use crate::support::etcd::EtcdServer;
use crate::support::eventually;
use crate::support::soak::{Terms, soak};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r01_r07_no_two_valid_leases_under_random_faults_and_nothing_stays_behind() {
    let server = EtcdServer::start().await;
    let onlooker = onlooker(&server.client_url()).await;
    soak("etcd", server.port, "ns", Terms { ttls: [2_000, 3_000, 5_000], shortest_extension: 2_000, extensions: 4_000 }).await;
    eventually("nothing is left", || async { all_queue_keys(&onlooker).await.is_empty() }).await;
}
