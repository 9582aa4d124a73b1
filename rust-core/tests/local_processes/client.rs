//! A client of one process, and the directory that the processes share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dlock::backend::{Acquire, Acquired, Backend, Context, Hint, Outcome, Release, Waiting};
use dlock::clock::BootClock;
use dlock::fencing::Token;
use dlock::holder::Note;
use dlock::owner::{OwnerId, SessionId};
use url::Url;

pub(crate) const KEY: &str = "k";
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// A client of one process.
pub(crate) struct Client {
    pub(crate) backend: Arc<dyn Backend>,
    hints: tokio::sync::mpsc::UnboundedReceiver<Hint>,
    session: SessionId,
    sequence: AtomicU64,
}

impl Client {
    pub(crate) fn new(directory: &Path) -> Self {
        let (sender, hints) = tokio::sync::mpsc::unbounded_channel();
        let session = SessionId::random().unwrap();
        let context = Context {
            session,
            clock: Arc::new(BootClock),
            namespace: "dlock".into(),
            connect_timeout: TIMEOUT,
            op_timeout: TIMEOUT,
            on_hint: Arc::new(move |hint| drop(sender.send(hint))),
        };
        let url = Url::parse(&format!("local://{}", directory.display())).unwrap();
        Self { backend: dlock::backend::local::open(&url, context).unwrap(), hints, session, sequence: AtomicU64::new(1) }
    }

    pub(crate) fn request(&self, enqueue: bool) -> Acquire {
        Acquire {
            key: KEY.into(),
            owner: OwnerId { session: self.session, sequence: self.sequence.fetch_add(1, Ordering::Relaxed) },
            ttl: Duration::from_secs(30),
            fair: true,
            enqueue,
            note: Note::of_this_process(std::time::SystemTime::now(), None).encode().into(),
            renew: true,
            floor: 0,
            timeout: TIMEOUT,
        }
    }

    /// One try; the owner and its answer.
    pub(crate) async fn ask(&self, enqueue: bool) -> (Acquire, Acquired) {
        let request = self.request(enqueue);
        let answer = self.backend.acquire(request.clone()).await.unwrap();
        (request, answer)
    }

    /// Waits as the engine does: by hints, and by the backend's answer when to look again.
    pub(crate) async fn take(&mut self) -> (OwnerId, Token) {
        let request = self.request(true);
        (request.owner, self.finish(request).await)
    }

    pub(crate) async fn finish(&mut self, request: Acquire) -> Token {
        let deadline = Instant::now() + 6 * TIMEOUT;
        loop {
            match self.backend.acquire(request.clone()).await.unwrap() {
                Acquired::Granted(grant) => return grant.token,
                Acquired::Waiting(Waiting { look_again, .. }) => {
                    assert!(Instant::now() < deadline, "never granted");
                    let _ = tokio::time::timeout(look_again, self.hints.recv()).await;
                }
            }
        }
    }

    pub(crate) async fn release(&self, owner: OwnerId) -> Outcome {
        self.backend.release(Release { key: KEY.into(), owner, next: None, timeout: TIMEOUT }).await.unwrap().outcome
    }
}

/// A temporary directory for one test.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dlock-processes-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.0.join("locks")
    }

    /// The names of the lock files, without the slot files, which stay.
    pub(crate) fn left(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.locks()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.starts_with("slot-")).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}
