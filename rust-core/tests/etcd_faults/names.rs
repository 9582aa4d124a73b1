//! Locks whose names begin alike.

use dlock::backend::Outcome;

use crate::session::Session;
use crate::support::etcd::EtcdServer;

#[tokio::test]
async fn a_lock_and_one_below_it_do_not_see_each_other() {
    let server = EtcdServer::start().await;
    let (holder, mut other) = (Session::new(&server.url()), Session::new(&server.url()));
    holder.granted("order/1", 1).await;
    other.waiting("order/1", 1).await;
    holder.granted("order", 2).await;
    assert_eq!(holder.backend.inspect("order".into(), crate::session::TIMEOUT).await.unwrap().queue.len(), 0);
    assert_eq!(holder.release("order", 2).await, Outcome::Released);
    other.waiting("order/1", 1).await;
    assert_eq!(holder.release("order/1", 1).await, Outcome::Released);
    other.wait("order/1", 1).await;
}
