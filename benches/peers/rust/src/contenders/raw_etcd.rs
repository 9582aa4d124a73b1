//! What etcd allows: the transactions that one acquire and one release of dlock are, one after the other. They are as
//! `rust-core/src/backend/etcd/request.rs` makes them, under one lease and behind one guard, which a session has for all its locks.

use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use etcd_client::{
    Client, Compare, CompareOp, GetOptions, PutOptions, ResponseHeader, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
};

use crate::work::{Contender, Lock};

/// As long as the id of a session.
const SESSION: &str = "d6c2b8a1f3e94705b1a2c3d4e5f60718";
/// Longer than any measurement, so that nothing has to be kept alive. A lease's TTL makes no difference to transactions.
const LEASE_SECONDS: i64 = 24 * 60 * 60;

pub struct RawEtcd {
    client: Client,
    lease: i64,
    guard: Guard,
}

/// A key, and the revision that requests require of it.
#[derive(Clone)]
struct Guard {
    key: String,
    revision: i64,
}

impl RawEtcd {
    pub async fn connect(url: &str) -> Result<Self> {
        let address = url.strip_prefix("etcd://").with_context(|| format!("{url} is not etcd://host:port"))?;
        let mut client = Client::connect([address.trim_end_matches('/')], None).await?;
        let lease = client.lease_grant(LEASE_SECONDS, None).await?.id();
        let key = format!("dlock/\0{SESSION}");
        let put = client.put(key.as_str(), "", Some(PutOptions::new().with_lease(lease))).await?;
        let guard = Guard { key, revision: revision(put.header())? };
        Ok(Self { client, lease, guard })
    }
}

pub struct EtcdLock {
    client: Client,
    lease: i64,
    guard: Guard,
    /// The first and the first no longer of all keys in the lock's queue.
    queue: (String, String),
    queue_key: String,
    note: String,
    attempts: u64,
    /// When the queue key was made.
    created: i64,
}

impl Contender for RawEtcd {
    type Lock = EtcdLock;

    async fn lock(&self, key: &str, _ttl: Duration) -> Result<EtcdLock> {
        let queue = (format!("dlock/{key}\0"), format!("dlock/{key}\x01"));
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        Ok(EtcdLock {
            client: self.client.clone(),
            lease: self.lease,
            guard: self.guard.clone(),
            queue_key: format!("{}{SESSION}:0", queue.0),
            queue,
            note: format!(r#"{{"host":"benchmark","pid":{},"since":{since}}}"#, process::id()),
            attempts: 0,
            created: 0,
        })
    }
}

impl Lock for EtcdLock {
    async fn acquire(&mut self) -> Result<()> {
        self.attempts += 1;
        let (first, end) = &self.queue;
        let same_guard = Compare::mod_revision(self.guard.key.as_str(), CompareOp::Equal, self.guard.revision);
        let free = Compare::create_revision(self.queue_key.as_str(), CompareOp::Equal, 0);
        let youngest = GetOptions::new().with_range(end.as_str()).with_sort(SortTarget::Create, SortOrder::Descend).with_limit(1);
        let value = format!("{SESSION}:{}|{}", self.attempts, self.note);
        let put = TxnOp::put(self.queue_key.as_str(), value, Some(PutOptions::new().with_lease(self.lease)));
        let txn = Txn::new().when([same_guard, free]).and_then([TxnOp::get(first.as_str(), Some(youngest)), put]);
        let answer = self.client.txn(txn).await?;
        ensure!(answer.succeeded(), "{} is there already", self.queue_key);
        match &answer.op_responses()[..] {
            [TxnOpResponse::Get(ahead), _] if ahead.kvs().is_empty() => self.created = revision(answer.header())?,
            _ => bail!("somebody else is in the queue of {}", self.queue_key),
        }
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        let made = Compare::create_revision(self.queue_key.as_str(), CompareOp::Equal, self.created);
        let txn = Txn::new().when([made]).and_then([TxnOp::delete(self.queue_key.as_str(), None)]);
        ensure!(self.client.txn(txn).await?.succeeded(), "{} is gone", self.queue_key);
        Ok(())
    }
}

fn revision(header: Option<&ResponseHeader>) -> Result<i64> {
    Ok(header.context("an answer without a header")?.revision())
}
