//! What an observer reads about locks, and how a lock is taken away from its holder.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, GetResponse, KeyValue, LeaseTimeToLiveResponse, SortOrder, SortTarget,
    Txn, TxnOp, TxnOpResponse,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant as Timer;

use super::answer::{holder, unexpected};
use super::leases::remaining;
use super::names;
use super::store::EtcdStore;
use crate::backend::limits::LISTED_LOCKS;
use crate::backend::{Inspection, Whom};
use crate::error::BackendError;
use crate::holder::Holder;

/// How many waiters `inspect` names.
const NAMED_WAITERS: i64 = 500;

/// How many keys `list` reads at a time: etcd limits the size of an answer.
const PAGE: i64 = 500;

/// How many leases are read at a time.
const AT_A_TIME: usize = 16;

impl EtcdStore {
    pub(super) async fn inspect(&self, key: Arc<str>, deadline: Timer) -> Result<Inspection, BackendError> {
        let queue = self.queue(&key);
        let by_age =
            |limit| GetOptions::new().with_range(queue.end()).with_sort(SortTarget::Create, SortOrder::Ascend).with_limit(limit);
        let txn = Txn::new().and_then(vec![TxnOp::get(queue.prefix.clone(), Some(by_age(NAMED_WAITERS + 1)))]);
        let answer = self.read(txn, deadline).await?.op_responses();
        let [TxnOpResponse::Get(all)] = &*answer else { return Err(unexpected()) };
        let waiting = all.kvs().iter().skip(1).map(|queue_key| holder(queue_key).owner).collect();
        let Some(first) = all.kvs().first() else { return Ok(Inspection { key: key.to_string(), ..Inspection::default() }) };
        let holder = Holder { remaining: self.remaining_ttl(first.lease(), deadline).await?, ..holder(first) };
        Ok(Inspection {
            key: key.to_string(),
            holder: Some(holder),
            queue: waiting,
            cluster: self.cluster(),
            ..Inspection::default()
        })
    }

    /// The id of the cluster, as etcd's own tools write it.
    fn cluster(&self) -> Option<String> {
        self.endpoints.cluster_id().map(|id| format!("{id:x}"))
    }

    /// The remaining TTL of a lease in whole seconds; zero if it has ended, `None` for a key without a lease.
    async fn remaining_ttl(&self, lease: i64, deadline: Timer) -> Result<Option<Duration>, BackendError> {
        if lease == 0 {
            return Ok(None);
        }
        let ask = move |mut client: Client| async move { client.lease_time_to_live(lease, None).await };
        let answer: LeaseTimeToLiveResponse = self.endpoints.run(remaining(deadline), ask).await?.value;
        Ok(Some(Duration::from_secs(u64::try_from(answer.ttl()).unwrap_or(0))))
    }

    /// The held locks whose names begin with `prefix`, by name.
    pub(super) async fn list(&self, prefix: Arc<str>, deadline: Timer) -> Result<Vec<Inspection>, BackendError> {
        let mut found: BTreeMap<Arc<str>, Vec<KeyValue>> = BTreeMap::new();
        let prefix = names::lock(&self.root, &prefix);
        let end = names::end(&prefix);
        let mut from = if prefix.is_empty() { vec![0] } else { prefix };
        // All pages are read at the revision of the first.
        let mut revision = 0;
        while found.len() < LISTED_LOCKS {
            let page = self.page(from, end.clone(), revision, deadline).await?;
            revision = page.header().map_or(revision, |header| if revision == 0 { header.revision() } else { revision });
            let Some(last) = page.kvs().last() else { break };
            from = [last.key(), &[0]].concat();
            for queue_key in page.kvs() {
                if let Some(key) = names::parse(&self.root, queue_key.key()) {
                    found.entry(key).or_default().push(queue_key.clone());
                }
            }
            if !page.more() {
                break;
            }
        }
        self.describe(found, deadline).await
    }

    async fn page(&self, from: Vec<u8>, end: Vec<u8>, revision: i64, deadline: Timer) -> Result<GetResponse, BackendError> {
        let options = GetOptions::new().with_range(end).with_limit(PAGE).with_revision(revision);
        let ask = |mut client: Client| {
            let (from, options) = (from.clone(), options.clone());
            async move { client.get(from, Some(options)).await }
        };
        Ok(self.endpoints.run(remaining(deadline), ask).await?.value)
    }

    async fn describe(&self, found: BTreeMap<Arc<str>, Vec<KeyValue>>, deadline: Timer) -> Result<Vec<Inspection>, BackendError> {
        let mut inspections = Vec::with_capacity(found.len());
        let mut leases = HashSet::new();
        for (key, mut queue) in found {
            queue.sort_by_key(KeyValue::create_revision);
            let Some(first) = queue.first() else { continue };
            leases.insert(first.lease());
            let waiting = queue.iter().skip(1).map(|queue_key| holder(queue_key).owner).collect();
            let lock = Inspection {
                key: key.to_string(),
                holder: Some(holder(first)),
                queue: waiting,
                cluster: self.cluster(),
                ..Inspection::default()
            };
            inspections.push((first.lease(), lock));
        }
        // Locks share leases, so there are few.
        let reads = leases
            .into_iter()
            .map(|lease| async move { Ok::<_, BackendError>((lease, self.remaining_ttl(lease, deadline).await?)) });
        let left: HashMap<_, _> = stream::iter(reads).buffer_unordered(AT_A_TIME).try_collect().await?;
        let described = inspections.into_iter().map(|(lease, mut lock)| {
            if let Some(holder) = &mut lock.holder {
                holder.remaining = left.get(&lease).copied().flatten();
            }
            lock
        });
        Ok(described.collect())
    }

    /// Deletes the holder's key if `whom` names that holder. The next waiter watches the key and is woken.
    pub(super) async fn force_release(&self, key: Arc<str>, whom: Whom, deadline: Timer) -> Result<bool, BackendError> {
        let queue = self.queue(&key);
        let first = GetOptions::new().with_range(queue.end()).with_sort(SortTarget::Create, SortOrder::Ascend).with_limit(1);
        let read = Txn::new().and_then(vec![TxnOp::get(queue.prefix.clone(), Some(first))]);
        let answer = self.read(read, deadline).await?.op_responses();
        let [TxnOpResponse::Get(first)] = &*answer else { return Err(unexpected()) };
        let Some(first) = first.kvs().first() else { return Ok(false) };
        let meant = match &whom {
            Whom::Token(token) => u64::try_from(first.create_revision()).is_ok_and(|revision| revision == *token),
            Whom::Owner(owner) => holder(first).owner == *owner,
        };
        if !meant {
            return Ok(false);
        }
        // The create revision names this one grant: a later key of the same name stays.
        let same = Compare::create_revision(first.key(), CompareOp::Equal, first.create_revision());
        let delete = TxnOp::delete(first.key(), Some(DeleteOptions::new()));
        let answer = self.writes.execute(|| Txn::new().when(vec![same.clone()]).and_then(vec![delete.clone()]), deadline).await?;
        // If nothing was deleted, a server that got the request first and did not answer may have deleted the key.
        // Either way the holder that was meant has lost it.
        Ok(answer.succeeded() || answer.may_run_again)
    }
}
