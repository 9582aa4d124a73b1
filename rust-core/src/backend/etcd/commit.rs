//! How transactions get to the cluster.

use etcd_client::{Client, ResponseHeader, Txn};
use tokio::time::Instant as Timer;

use super::Store;
use super::leases::remaining;
use super::names::Queue;
use super::request::Answer;
use crate::error::BackendError;

impl Store {
    /// Has a transaction executed that touches this queue.
    pub(super) async fn commit(&self, _queue: &Queue, txn: Txn, deadline: Timer) -> Result<Answer, BackendError> {
        self.commit_alone(txn, deadline).await
    }

    /// Has a transaction executed in a request of its own.
    pub(super) async fn commit_alone(&self, txn: Txn, deadline: Timer) -> Result<Answer, BackendError> {
        let request = |mut client: Client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        };
        let answer = self.endpoints.run(remaining(deadline), request).await?;
        let revision = answer.value.header().map_or(0, ResponseHeader::revision);
        Ok(Answer { answer: answer.value, revision, ghosts: answer.ghosts })
    }

    /// Has a transaction answered that only reads: as of the latest commit, and without an entry in the cluster's log.
    pub(super) async fn read(&self, txn: Txn, deadline: Timer) -> Result<Answer, BackendError> {
        self.commit_alone(txn, deadline).await
    }
}
