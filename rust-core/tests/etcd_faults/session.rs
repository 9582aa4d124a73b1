//! One session on the backend: what a process is to the cluster.

use std::sync::Arc;
use std::time::Duration;

use dlock::backend::etcd::open;
use dlock::backend::{Acquire, Acquired, Backend, Context, Grant, Handover, Hint, Outcome, Release, Waiting};
use dlock::clock::BootClock;
use dlock::holder::Note;
use dlock::owner::{OwnerId, SessionId};
use etcd_client::{Client, GetOptions, KeyValue};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// Longer than most tests run.
pub(crate) const TTL: Duration = Duration::from_secs(30);

pub(crate) struct Session {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) hints: mpsc::UnboundedReceiver<Hint>,
    id: SessionId,
}

impl Session {
    pub(crate) fn new(url: &str) -> Self {
        let (sender, hints) = mpsc::unbounded_channel();
        let id = SessionId::random().unwrap();
        let context = Context {
            session: id,
            clock: Arc::new(BootClock),
            namespace: "ns".into(),
            connect_timeout: TIMEOUT,
            op_timeout: TIMEOUT,
            on_hint: Arc::new(move |hint| drop(sender.send(hint))),
        };
        Self { backend: open(url, context).unwrap(), hints, id }
    }

    pub(crate) fn owner(&self, sequence: u64) -> OwnerId {
        OwnerId { session: self.id, sequence }
    }

    /// A request that waits its turn; tests change what they need.
    pub(crate) fn request(&self, key: &str, sequence: u64) -> Acquire {
        Acquire {
            key: key.into(),
            owner: self.owner(sequence),
            ttl: TTL,
            fair: true,
            enqueue: true,
            renew: true,
            note: Note::of_this_process(std::time::UNIX_EPOCH, None).encode().into(),
            floor: 0,
            timeout: TIMEOUT,
        }
    }

    pub(crate) async fn ask(&self, key: &str, sequence: u64) -> Acquired {
        self.backend.acquire(self.request(key, sequence)).await.unwrap()
    }

    pub(crate) async fn granted(&self, key: &str, sequence: u64) -> Grant {
        grant(self.ask(key, sequence).await)
    }

    pub(crate) async fn waiting(&self, key: &str, sequence: u64) -> Waiting {
        waiting(self.ask(key, sequence).await)
    }

    pub(crate) async fn release(&self, key: &str, sequence: u64) -> Outcome {
        self.hand(key, sequence, None).await.outcome
    }

    pub(crate) async fn hand(&self, key: &str, sequence: u64, next: Option<Acquire>) -> Handover {
        let release = Release { key: key.into(), owner: self.owner(sequence), next, timeout: TIMEOUT };
        self.backend.release(release).await.unwrap()
    }

    pub(crate) async fn hint(&mut self) -> Hint {
        timeout(TIMEOUT, self.hints.recv()).await.expect("a hint").unwrap()
    }

    /// Waits as the engine does: for a hint, or until it is time to look again.
    pub(crate) async fn wait(&mut self, key: &str, sequence: u64) -> Grant {
        loop {
            match self.ask(key, sequence).await {
                Acquired::Granted(grant) => return grant,
                Acquired::Waiting(waiting) => drop(timeout(waiting.look_again, self.hints.recv()).await),
            }
        }
    }
}

#[track_caller]
pub(crate) fn grant(acquired: Acquired) -> Grant {
    match acquired {
        Acquired::Granted(grant) => grant,
        Acquired::Waiting(waiting) => panic!("not granted: {waiting:?}"),
    }
}

#[track_caller]
pub(crate) fn waiting(acquired: Acquired) -> Waiting {
    match acquired {
        Acquired::Waiting(waiting) => waiting,
        Acquired::Granted(grant) => panic!("granted: {grant:?}"),
    }
}

/// A client of etcd's own.
pub(crate) async fn onlooker(url: &str) -> Client {
    Client::connect([url], None).await.unwrap()
}

/// The keys of a lock's holder and waiters.
pub(crate) async fn queue_keys(onlooker: &Client, key: &str) -> Vec<KeyValue> {
    queue_keys_with(onlooker, format!("ns/{key}\0")).await
}

/// The keys of all locks; a session's own one is none.
pub(crate) async fn all_queue_keys(onlooker: &Client) -> Vec<KeyValue> {
    let all = queue_keys_with(onlooker, "ns/".to_owned()).await;
    all.into_iter().filter(|queue_key| !queue_key.key().starts_with(b"ns/\0")).collect()
}

async fn queue_keys_with(onlooker: &Client, prefix: String) -> Vec<KeyValue> {
    onlooker.clone().get(prefix, Some(GetOptions::new().with_prefix())).await.unwrap().take_kvs()
}
