//! The etcd servers of the tests can do what the tests of the backend rest on.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::etcd::{EtcdCluster, EtcdServer, Options, Version};
use support::eventually;

const WRITE: &str = r#"{"key": "a2V5", "value": "dmFsdWU="}"#;

#[tokio::test]
async fn a_write_is_one_raft_entry_and_one_revision() {
    for version in [Version::Current, Version::Old] {
        let server = EtcdServer::start_with(version).await;
        let (index, revision) = (server.raft_index().await, server.revision().await);
        server.call("kv/put", WRITE).await;
        assert_eq!((server.raft_index().await, server.revision().await), (index + 1, revision + 1), "{version:?}");
    }
}

#[tokio::test]
async fn data_survives_kill_and_restart() {
    let mut server = EtcdServer::start().await;
    server.call("kv/put", WRITE).await;
    let revision = server.revision().await;
    server.kill();
    assert!(server.status().await.is_none());
    server.restart().await;
    assert_eq!(server.revision().await, revision);
}

#[tokio::test]
async fn a_password_is_required_and_status_still_shown() {
    for version in [Version::Current, Version::Old] {
        let mut server = EtcdServer::start_with(version).await;
        server.require_password("secret").await;
        let login = |password| format!(r#"{{"name": "root", "password": "{password}"}}"#);
        assert!(server.call("auth/authenticate", &login("wrong")).await["code"].is_number(), "{version:?}");
        assert!(server.call("auth/authenticate", &login("secret")).await["token"].is_string(), "{version:?}");
        let index = server.raft_index().await;
        assert_eq!(server.raft_index().await, index, "{version:?}: a look costs nothing");
    }
}

#[tokio::test]
async fn a_cluster_outlives_its_leader_killed_and_paused() {
    // Ten times as quick to elect as by default.
    let arguments = ["--heartbeat-interval", "10", "--election-timeout", "100"].map(str::to_owned).to_vec();
    let mut cluster = EtcdCluster::start_with(Options { arguments, ..Options::default() }).await;
    let first = cluster.leader().await;
    cluster.kill(first);
    eventually("another leads", || async { cluster.leader().await != first }).await;
    cluster.restart(first).await;

    let second = cluster.leader().await;
    cluster.pause(second).await;
    eventually("a third leads", || async { cluster.leader().await != second }).await;
    let third = cluster.leader().await;
    cluster.members[third].call("kv/put", WRITE).await;
    let revision = cluster.revision().await;
    cluster.resume(second);
    let member = &cluster.members[second];
    eventually(
        "the paused one catches up",
        || async move { member.status().await.is_some_and(|status| status.revision == revision) },
    )
    .await;
}
