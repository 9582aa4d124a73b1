//! A place where locks are kept, and the clients that a test lets at it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dlock::backend::{
    Acquire, Acquired, Backend, Capabilities, Context, Grant, Handover, Hint, Inspection, Outcome, Release, Renew, Renewed,
    Waiting, Whom,
};
use dlock::clock::BootClock;
use dlock::error::Error;
use dlock::holder::Note;
use dlock::owner::{OwnerId, SessionId};
use tokio::sync::mpsc;
use url::Url;

/// Longer than any test runs.
pub(crate) const TTL: Duration = Duration::from_secs(30);

/// How long one request may take, and how long a test waits for what must come.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) type Open = fn(&Url, Context) -> Result<Arc<dyn Backend>, Error>;

/// A place where locks are kept, and how to get at it.
pub(crate) struct Fixture {
    pub(crate) url: Url,
    pub(crate) open: Open,
    /// The server or directory; it goes away with the fixture.
    pub(crate) _keep: Box<dyn Any + Send>,
}

impl Fixture {
    pub(crate) fn client(&self) -> Client {
        self.client_in("dlock")
    }

    pub(crate) fn client_in(&self, namespace: &str) -> Client {
        let (sender, hints) = mpsc::unbounded_channel();
        let session = SessionId::random().unwrap();
        let context = Context {
            session,
            clock: Arc::new(BootClock),
            namespace: namespace.into(),
            connect_timeout: TIMEOUT,
            op_timeout: TIMEOUT,
            on_hint: Arc::new(move |hint| drop(sender.send(hint))),
        };
        Client { backend: (self.open)(&self.url, context).unwrap(), session, hints, sequence: AtomicU64::new(1) }
    }
}

/// One session on a backend.
pub(crate) struct Client {
    pub(crate) backend: Arc<dyn Backend>,
    session: SessionId,
    hints: mpsc::UnboundedReceiver<Hint>,
    sequence: AtomicU64,
}

impl Client {
    pub(crate) fn can(&self) -> &Capabilities {
        self.backend.capabilities()
    }

    pub(crate) fn owner(&self) -> OwnerId {
        OwnerId { session: self.session, sequence: self.sequence.fetch_add(1, Ordering::Relaxed) }
    }

    pub(crate) async fn ask(&self, request: &Acquire) -> Acquired {
        self.backend.acquire(request.clone()).await.unwrap()
    }

    /// Takes a key that is free.
    pub(crate) async fn take(&self, key: &str) -> (OwnerId, Grant) {
        let owner = self.owner();
        (owner, granted(self.ask(&request(key, owner)).await))
    }

    /// Queues for a key that is held.
    pub(crate) async fn wait(&self, key: &str) -> OwnerId {
        let owner = self.owner();
        waiting(self.ask(&Acquire { enqueue: true, ..request(key, owner) }).await);
        owner
    }

    /// Asks again at each hint, and as the backend says, until granted.
    pub(crate) async fn granted_in_time(&mut self, key: &str, owner: OwnerId) -> Grant {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.ask(&Acquire { enqueue: true, ..request(key, owner) }).await {
                Acquired::Granted(grant) => return grant,
                Acquired::Waiting(waiting) => {
                    assert!(Instant::now() < deadline, "never granted: {waiting:?}");
                    let _ = tokio::time::timeout(waiting.look_again.min(TIMEOUT), self.hints.recv()).await;
                }
            }
        }
    }

    /// Waits for a hint about `key`; it must come by push, well before anybody would look by themselves.
    pub(crate) async fn hinted(&mut self, key: &str) {
        let about = |hint: &Hint| matches!(hint, Hint::All) || matches!(hint, Hint::Key(hinted, _) if &**hinted == key);
        let hint = async { while !about(&self.hints.recv().await.expect("the backend lives")) {} };
        tokio::time::timeout(TIMEOUT, hint).await.expect("a hint");
    }

    pub(crate) async fn release(&self, key: &str, owner: OwnerId) -> Outcome {
        self.hand_over(key, owner, None).await.outcome
    }

    pub(crate) async fn hand_over(&self, key: &str, owner: OwnerId, next: Option<Acquire>) -> Handover {
        self.backend.release(Release { key: key.into(), owner, next, timeout: TIMEOUT }).await.unwrap()
    }

    pub(crate) async fn renew(&self, batch: Vec<Renew>) -> Vec<Renewed> {
        self.backend.renew(batch, TIMEOUT).await.unwrap()
    }

    pub(crate) async fn leave(&self, key: &str, owner: OwnerId) {
        self.backend.leave(key.into(), owner, TIMEOUT).await.unwrap();
    }

    pub(crate) async fn inspect(&self, key: &str) -> Inspection {
        self.backend.inspect(key.into(), TIMEOUT).await.unwrap()
    }

    /// What the backend says is left of the lease on `key`.
    pub(crate) async fn remaining(&self, key: &str) -> Duration {
        self.inspect(key).await.holder.and_then(|holder| holder.remaining).expect("a holder with a TTL")
    }

    pub(crate) async fn force(&self, key: &str, whom: Whom) -> bool {
        self.backend.force_release(key.into(), whom, TIMEOUT).await.unwrap()
    }
}

pub(crate) fn request(key: &str, owner: OwnerId) -> Acquire {
    Acquire {
        key: key.into(),
        owner,
        ttl: TTL,
        fair: true,
        enqueue: false,
        renew: true,
        note: Note { host: "here".into(), pid: std::process::id(), since: 1, metadata: Some("why | so".into()) }.encode().into(),
        floor: 0,
        timeout: TIMEOUT,
    }
}

pub(crate) fn renewal(key: &str, owner: OwnerId, ttl: Duration) -> Renew {
    Renew { key: key.into(), owner, ttl, exact: false }
}

pub(crate) fn granted(answer: Acquired) -> Grant {
    match answer {
        Acquired::Granted(grant) => grant,
        Acquired::Waiting(waiting) => panic!("not granted: {waiting:?}"),
    }
}

pub(crate) fn waiting(answer: Acquired) -> Waiting {
    match answer {
        Acquired::Waiting(waiting) => waiting,
        Acquired::Granted(grant) => panic!("granted: {grant:?}"),
    }
}
