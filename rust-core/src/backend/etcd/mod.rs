//! `etcd://`: locks on an etcd cluster, which survive the loss of a server.
//!
//! Each attempt makes one etcd key for its lock. The key with the lowest create revision holds, and that revision is its fencing token. So
//! the set of keys is the queue, and the lock passes on when the holder's key is deleted, or when the lease that the key is under ends.
//! Each waiter watches the key directly ahead of its own.
//!
//! Read [ADR 6] first (the guard: why a request that is executed late does no harm), then [ADR 5] (shared leases) and [ADR 7] (key
//! numbers). [ADR 8] and [ADR 9] are about speed only: large batches and optimistic ones. `request` has every transaction in full.
//!
//! [ADR 5]: ../../../../../docs/adr/0005-etcd-shared-leases.md
//! [ADR 6]: ../../../../../docs/adr/0006-etcd-guard.md
//! [ADR 7]: ../../../../../docs/adr/0007-etcd-key-numbers.md
//! [ADR 8]: ../../../../../docs/adr/0008-etcd-large-batches.md
//! [ADR 9]: ../../../../../docs/adr/0009-etcd-optimistic-batches.md
//!
//! # The life of an attempt
//!
//! ```text
//!   Idle ── acquire: put our key behind the last one, if the guard has not moved (`acquire`, `request`)
//!    │
//!    ├─ the queue was empty ─────────────────────────────▶ Holding ── renew: keep the lease alive, read that the key exists (`renew`)
//!    │                                                        ▲
//!    ├─ a key is ahead ──▶ Waiting: watch that key (`watch`)  │
//!    │                       ▲    │                           │
//!    │                       │    ▼ it is deleted: a hint     │
//!    │          still behind └── look at our own key ── first ┘
//!    │
//!    └─ no answer ──▶ Unanswered: the engine asks again, or withdraws
//!
//!   release, withdraw (`release`) ──▶ Withdrawing until the deletion is confirmed ──▶ Idle: the key number is free
//!    ├─ our key is known ──────────▶ delete the key with this create revision
//!    └─ a request has no answer ───▶ delete whatever it made, and move the guard on in the same transaction (`guarded_deletions`)
//! ```
//!
//! `attempt` is this state machine, and `attempts` lets one request at a time work on an attempt. `outbox`, `batch` and `shape` send the transactions of
//! many attempts together. `servers` chooses the server, and knows nothing of locks.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | attempt | one owner id that asks for a lock, through all its retries |
//! | queue key | the etcd key of one attempt; its value has the owner id and the note |
//! | queue | all queue keys of a lock, by create revision |
//! | key number | the part of a queue key's name that differs between the attempts of one session for one lock; used again when its attempt is over |
//! | created | the create revision of a queue key: its age, its identity, and the token |
//! | guard | one key of each session; requests that make keys compare its revision |
//! | move the guard on | write the guard's key, so that all older requests of the session are void |
//! | etcd lease | what queue keys live under; shared by the locks of a session with one TTL |
//! | exclusive lease | the etcd lease of one lock that is never renewed |
//! | lease use | the use of an etcd lease by one key, counted |
//! | fresh | kept alive at most a twentieth of the TTL ago |
//! | try | an acquire that does not wait: it makes a key only in an empty queue |
//! | look | read how one's own key stands: first, behind others, or gone |
//! | step | one transaction, or its part of a batch |
//! | outbox | the transactions that wait for their batch |
//! | nested batch | each step is a transaction inside the batch's transaction |
//! | optimistic batch | the batch compares the preconditions of all steps; if one fails, nothing is executed |
//! | recently contended | others held or waited for the lock in the last two seconds: its steps are not optimistic |
//! | may run again | another server got the same request first, did not answer, and may still execute it |
//! | first unseen | the first revision that an answer may not fully reflect |

mod acquire;
mod answer;
mod attempt;
mod attempts;
mod batch;
mod guard;
mod guarded_deletions;
mod inspect;
mod leases;
mod names;
mod outbox;
mod recent;
mod release;
mod renew;
mod request;
#[doc(hidden)] // public for the tests that break servers
pub mod servers;
mod shape;
mod store;
mod watch;

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{self, Poll, ready};
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use self::acquire::AcquireCall;
use self::batch::spawn_from_drop;
use self::servers::address::EtcdAddress;
use self::store::EtcdStore;
use super::{
    Acquire, Acquired, Backend, Capabilities, Context, Handover, Inspection, Outcome, Plan, Release, Renew, Renewed, Reply, Whom,
};
use crate::backend::timers::deadline_after;
use crate::driver::{self, Reader};
use crate::error::{BackendError, Error};
use crate::owner::OwnerId;
use crate::process::EXIT_GRACE;

/// How many leases the engine renews in one call. Their keys are read in a few requests.
const BATCH: usize = 500;

/// Opens a backend on `url`; connects at first use.
///
/// # Errors
/// [`Error::InvalidOptions`] for a URL that cannot be used.
pub fn open(url: &str, context: Context) -> Result<Arc<dyn Backend>, Error> {
    Ok(parse(url)?.open(context))
}

/// Reads the URL of a cluster.
pub(super) fn parse(url: &str) -> Result<Plan, Error> {
    let address = EtcdAddress::parse(url)?;
    let server = address.shown();
    let open = move |context| -> Arc<dyn Backend> {
        let server = address.shown();
        let store = Arc::new(EtcdStore::new(address.clone(), context));
        Arc::new(Etcd { store, capabilities: capabilities(), server, tasks: OnceLock::new() })
    };
    Ok(Plan::new(capabilities(), server, open))
}

fn capabilities() -> Capabilities {
    Capabilities {
        scheme: "etcd",
        fair: true,
        crash_release: false,
        ttl_floor: leases::SHORTEST,
        margin: Duration::from_millis(50),
        // A waiter's key lives as long as its lease, which the lease pool keeps alive.
        heartbeat: None,
        // A request that is executed late does no harm: see `guard`.
        late_window: Duration::ZERO,
        batch: BATCH,
        reserved: None,
        counts_tokens: true,
    }
}

/// The backend of one client.
struct Etcd {
    store: Arc<EtcdStore>,
    capabilities: Capabilities,
    server: Arc<str>,
    tasks: OnceLock<EtcdTasks>,
}

/// The runtime on which requests are followed to their end, and the tasks that run all the time. They begin with the first request.
struct EtcdTasks {
    runtime: Handle,
    running: [AbortHandle; 2],
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("server", &self.server).field("context", &self.store.context).finish_non_exhaustive()
    }
}

impl Etcd {
    /// Follows a request to its end, so that a caller that leaves does not stop it half-way: in a task of its own, or, if the caller polls it
    /// itself, in one that goes on when it leaves.
    fn follow<T: Send + 'static>(&self, work: impl Future<Output = Result<T, BackendError>> + Send + 'static) -> Reply<'static, T> {
        let closed = self.store.closed.clone();
        let work = async move {
            tokio::select! {
                biased;
                () = closed.cancelled() => Err(BackendError::closed()),
                result = work => result,
            }
        };
        let runtime = &self.tasks().runtime;
        if driver::reader().is_some() {
            return Followed { work: Some(work.boxed()), runtime: runtime.clone() }.boxed();
        }
        let work = runtime.spawn(work);
        async move { work.await.unwrap_or_else(|_| Err(BackendError::closed())) }.boxed()
    }

    fn tasks(&self) -> &EtcdTasks {
        self.tasks.get_or_init(|| {
            let runtime = Handle::current();
            let pool = runtime.spawn(self.store.pool.clone().run()).abort_handle();
            let watches = runtime.spawn(self.store.watches.clone().run()).abort_handle();
            EtcdTasks { runtime, running: [pool, watches] }
        })
    }

    fn stop(&self) {
        self.store.closed.cancel();
        for task in self.tasks.get().iter().flat_map(|tasks| &tasks.running) {
            task.abort();
        }
    }

    fn release_only(&self, key: &str, owner: OwnerId, timeout: Duration) -> Reply<'static, Outcome> {
        // Without an attempt nothing was sent, or all of it is over.
        let Some(access) = self.store.attempts.find(owner) else {
            return future::ready(self.check_open().map(|()| Outcome::NotHeld)).boxed();
        };
        self.follow(self.store.clone().release(self.store.queue(key), owner, access, deadline_after(timeout)))
    }

    fn call(&self, acquire: Acquire, timeout: Duration) -> AcquireCall {
        let queue = self.store.queue(&acquire.key);
        AcquireCall { queue, since: self.store.context.clock.now(), deadline: deadline_after(timeout), acquire }
    }

    fn check_open(&self) -> Result<(), BackendError> {
        if self.store.closed.is_cancelled() { Err(BackendError::closed()) } else { Ok(()) }
    }
}

/// A request that its caller polls, and that goes on when it is dropped.
struct Followed<T: Send + 'static> {
    /// `None` once it is answered.
    work: Option<Reply<'static, T>>,
    runtime: Handle,
}

impl<T: Send + 'static> Future for Followed<T> {
    type Output = Result<T, BackendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Self::Output> {
        let Some(work) = &mut self.work else { return Poll::Ready(Err(BackendError::closed())) };
        let answer = ready!(work.as_mut().poll(context));
        self.work = None;
        Poll::Ready(answer)
    }
}

impl<T: Send + 'static> Drop for Followed<T> {
    fn drop(&mut self) {
        if let Some(rest) = self.work.take() {
            spawn_from_drop(&self.runtime, rest.map(drop));
        }
    }
}

impl Backend for Etcd {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn server(&self) -> &Arc<str> {
        &self.server
    }

    fn warnings(&self) -> Vec<String> {
        self.store.endpoints.warnings()
    }

    fn serves_callers(&self, reader: Reader) -> bool {
        let tasks = self.tasks.get().filter(|_| reader != Reader::Never && self.store.writes.is_free_for_lone());
        tasks.is_some_and(|tasks| {
            // What this may begin, such as another connection, belongs to the engine and not to the caller.
            let _on_engine = tasks.runtime.enter();
            self.store.endpoints.serves_callers(reader)
        })
    }

    fn ping(&self, timeout: Duration) -> Reply<'_, ()> {
        let key = names::guard(&self.store.root, self.store.context.session);
        let read = move |mut client: Client| {
            let key = key.clone();
            async move { client.get(key, Some(GetOptions::new().with_keys_only())).await }
        };
        async move { self.store.endpoints.run(timeout, read).await.map(drop) }.boxed()
    }

    fn probe(&self, timeout: Duration) -> Reply<'_, ()> {
        let txn = request::probe(&self.store.root, self.store.context.session);
        let ask = move |mut client: Client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        };
        async move { self.store.endpoints.run(timeout, ask).await.map(drop) }.boxed()
    }

    fn acquire(&self, request: Acquire) -> Reply<'_, Acquired> {
        let access = self.store.attempts.begin(&request.key, request.owner);
        let timeout = request.timeout;
        self.follow(self.store.clone().acquire(self.call(request, timeout), access))
    }

    fn renew(&self, batch: Vec<Renew>, timeout: Duration) -> Reply<'_, Vec<Renewed>> {
        let since = self.store.context.clock.now();
        self.follow(self.store.clone().renew(batch, since, deadline_after(timeout)))
    }

    fn release(&self, release: Release) -> Reply<'_, Handover> {
        let Release { key, owner, next, timeout } = release;
        let Some(next) = next else {
            let outcome = self.release_only(&key, owner, timeout);
            return outcome.map(|outcome| Ok(Handover { outcome: outcome?, next: None })).boxed();
        };
        let (access, next_access) = (self.store.attempts.find(owner), self.store.attempts.begin(&next.key, next.owner));
        self.follow(self.store.clone().hand_over(owner, access, self.call(next, timeout), next_access))
    }

    fn leave(&self, key: Arc<str>, owner: OwnerId, timeout: Duration) -> Reply<'_, ()> {
        let Some(access) = self.store.attempts.find(owner) else { return future::ready(self.check_open()).boxed() };
        self.follow(self.store.clone().leave(self.store.queue(&key), owner, access, deadline_after(timeout)))
    }

    fn inspect(&self, key: Arc<str>, timeout: Duration) -> Reply<'_, Inspection> {
        self.store.inspect(key, deadline_after(timeout)).boxed()
    }

    fn list(&self, prefix: Arc<str>, timeout: Duration) -> Reply<'_, Vec<Inspection>> {
        self.store.list(prefix, deadline_after(timeout)).boxed()
    }

    fn force_release(&self, key: Arc<str>, whom: Whom, timeout: Duration) -> Reply<'_, bool> {
        self.store.force_release(key, whom, deadline_after(timeout)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.stop();
        async {
            self.store.pool.close(deadline_after(EXIT_GRACE)).await;
            self.store.endpoints.close();
        }
        .boxed()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}
