//! Requests that are executed after their client has given them up.

use dlock::backend::Outcome;

use crate::session::{Session, all_queue_keys, onlooker, queue_keys};
use crate::support::etcd::EtcdCluster;
use crate::support::eventually;
use crate::support::proxy::{Gate, Proxy};

/// A session that sends to one member of the cluster, and that member's index.
async fn session_at_a_follower(cluster: &EtcdCluster, proxies: &[Proxy]) -> (Session, usize) {
    let url = format!("etcd://{}", proxies.iter().map(|proxy| format!("127.0.0.1:{}", proxy.port)).collect::<Vec<_>>().join(","));
    loop {
        let before: Vec<_> = proxies.iter().map(Proxy::connections).collect();
        let session = Session::new(&url);
        session.granted("warm", 1).await;
        session.release("warm", 1).await;
        let used = (0..proxies.len()).find(|&index| proxies[index].connections() > before[index]).unwrap();
        if used != cluster.leader().await {
            return (session, used);
        }
        session.backend.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r04_a_request_stuck_in_a_paused_server_comes_to_nothing() {
    let cluster = EtcdCluster::start().await;
    let mut proxies = Vec::new();
    for member in &cluster.members {
        proxies.push(Proxy::to(member.port).await);
    }
    let (session, stuck) = session_at_a_follower(&cluster, &proxies).await;
    let onlooker = onlooker(&cluster.members[cluster.leader().await].client_url()).await;
    cluster.pause(stuck).await;
    let sent = proxies[stuck].sent();
    let asked = session.backend.acquire(session.request("k", 2));
    eventually("the request is with the paused server", || async { proxies[stuck].sent() > sent }).await;
    // What the client sends now, to take the request back, does not get there.
    proxies[stuck].requests(Gate::Lost);
    let granted = crate::session::grant(asked.await.unwrap());
    assert_eq!(queue_keys(&onlooker, "k").await[0].create_revision(), i64::try_from(granted.token).unwrap());
    assert_eq!(session.release("k", 2).await, Outcome::Released);
    assert_eq!(queue_keys(&onlooker, "k").await.len(), 0);

    let before = cluster.raft_index().await;
    cluster.resume(stuck);
    eventually("the stuck request is executed", || async { cluster.raft_index().await > before }).await;
    let member = &cluster.members[stuck];
    let index = cluster.raft_index().await;
    eventually("the member caught up", || async { member.status().await.is_some_and(|status| status.raft_index >= index) }).await;
    assert_eq!(all_queue_keys(&onlooker).await.len(), 0, "a key that nobody wants");
    // The guard has moved on, and the session with it.
    session.granted("k", 3).await;
    assert_eq!(session.release("k", 3).await, Outcome::Released);
}
