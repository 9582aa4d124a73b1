//! `etcd://`: locks on an etcd cluster, which survive the loss of a server.
//!
//! Whoever wants a lock makes a key under it; the key with the lowest create revision holds, and that revision is its token. So the queue
//! is the set of keys itself, and a lock passes on when its holder's key is deleted or the lease that the key is under ends. Each waiter
//! watches the key of the one before it.
//!
//! **Steps.** `acquire` asks for a place and looks at it, `give_back` deletes it, after an unknown outcome by way of `clear`, `renew` extends;
//! `request` has the transactions.
//! **Batches.** Requests that would queue behind others go together; see [`batch`].
//! **Late requests** are kept from doing harm by the [`guard`]. **Leases** are shared by locks; see [`leases`].

mod acquire;
mod attempts;
mod batch;
mod guard;
mod inspect;
mod leases;
mod lost_answers;
mod names;
mod recent;
mod release;
mod renew;
mod request;
#[doc(hidden)] // public for the tests that break servers
pub mod servers;
mod shape;
mod watch;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use etcd_client::{Client, GetOptions, Txn};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::Instant as Timer;
use tokio_util::sync::CancellationToken;

use self::acquire::Asking;
use self::attempts::Attempts;
use self::batch::Line;
use self::guard::Guard;
use self::leases::Pool;
use self::lost_answers::Clearing;
use self::names::Queue;
use self::recent::Seen;
use self::request::Answer;
use self::servers::address::Address;
use self::servers::endpoints::Endpoints;
use self::watch::Watches;
use super::{
    Acquire, Acquired, Backend, Capabilities, Context, Handover, Hint, Inspection, Outcome, Release, Renew, Renewed, Reply, Whom,
};
use crate::error::{BackendError, CLOSED, Error, Failure};
use crate::owner::OwnerId;

/// Longer timeouts are cut: the sum of an instant and a boundless duration overflows.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(86_400);

/// How many leases the engine renews in one call: their keys are looked at in a few requests.
const BATCH: usize = 500;

/// How long closing takes at most.
const FAREWELL: Duration = Duration::from_secs(2);

/// Opens a backend on `url`; connects at first use.
///
/// # Errors
/// [`Error::InvalidOptions`] for a URL that cannot be used.
pub fn open(url: &str, context: Context) -> Result<Arc<dyn Backend>, Error> {
    let address = Address::parse(url)?;
    let root = names::root(address.prefix(), &context.namespace);
    let server = address.shown();
    let endpoints = Arc::new(Endpoints::new(address, context.connect_timeout));
    let on_end = {
        let on_hint = context.on_hint.clone();
        Box::new(move || on_hint(Hint::All))
    };
    let pool = Pool::new(endpoints.clone(), context.clock.clone(), context.op_timeout, on_end);
    let guard = Arc::new(Guard::new(names::guard(&root, context.session), endpoints.clone(), pool.clone()));
    let line = Arc::new(Line::new(endpoints.clone()));
    let clearing = Arc::new(Clearing::new(line.clone(), guard.clone()));
    let looks = Arc::new(Line::of_reads(endpoints.clone()));
    let watches = Watches::new(endpoints.clone(), context.clone());
    let capabilities = Capabilities {
        scheme: "etcd",
        fair: true,
        crash_release: false,
        ttl_floor: leases::SHORTEST,
        margin: Duration::from_millis(50),
        heartbeat: None,
        // What is executed later is undone: see `guard`.
        late_window: Duration::ZERO,
        batch: BATCH,
        reserved: None,
        counts_tokens: true,
    };
    let store = Store {
        context,
        root,
        endpoints,
        pool,
        guard,
        watches,
        line,
        looks,
        clearing,
        attempts: Attempts::default(),
        seen: Seen::default(),
        wanted: Seen::default(),
        closed: CancellationToken::new(),
    };
    Ok(Arc::new(Etcd { store: Arc::new(store), capabilities, server, engine: OnceLock::new() }))
}

/// The backend of one client.
struct Etcd {
    store: Arc<Store>,
    capabilities: Capabilities,
    server: Arc<str>,
    engine: OnceLock<Engine>,
}

/// Where requests are followed to their end, and what goes on all the time. Begins with the first request.
struct Engine {
    runtime: Handle,
    tasks: [AbortHandle; 2],
}

/// What the steps of the protocol work with.
struct Store {
    context: Context,
    root: String,
    endpoints: Arc<Endpoints>,
    pool: Arc<Pool>,
    guard: Arc<Guard>,
    watches: Arc<Watches>,
    line: Arc<Line>,
    looks: Arc<Line>,
    clearing: Arc<Clearing>,
    attempts: Attempts,
    seen: Seen,
    /// Locks that others wanted as well, of late.
    wanted: Seen,
    closed: CancellationToken,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("server", &self.server).field("context", &self.store.context).finish_non_exhaustive()
    }
}

impl Store {
    /// Has a transaction answered that only reads: as of the latest commit, and without an entry in the cluster's log.
    async fn read(&self, txn: Txn, deadline: Timer) -> Result<Answer, BackendError> {
        self.line.execute(|| txn.clone(), deadline).await
    }
}

impl Etcd {
    /// Has a request followed to its end in a task: a caller that leaves does not stop it half-way.
    fn go_on<T: Send + 'static>(&self, work: impl Future<Output = Result<T, BackendError>> + Send + 'static) -> Reply<'static, T> {
        let closed = self.store.closed.clone();
        let work = self.engine().runtime.spawn(async move {
            tokio::select! {
                biased;
                () = closed.cancelled() => Err(gone()),
                result = work => result,
            }
        });
        async move { work.await.unwrap_or_else(|_| Err(gone())) }.boxed()
    }

    fn engine(&self) -> &Engine {
        self.engine.get_or_init(|| {
            let runtime = Handle::current();
            let keeper = runtime.spawn(self.store.pool.clone().run()).abort_handle();
            let watcher = runtime.spawn(self.store.watches.clone().run()).abort_handle();
            Engine { runtime, tasks: [keeper, watcher] }
        })
    }

    fn stop(&self) {
        self.store.closed.cancel();
        for task in self.engine.get().iter().flat_map(|engine| &engine.tasks) {
            task.abort();
        }
    }

    fn give_back(&self, key: &str, owner: OwnerId, timeout: Duration) -> Reply<'static, Outcome> {
        // Without an attempt nothing was sent, or all of it is over.
        let Some(turned) = self.store.attempts.find(owner) else { return ready(self.open().map(|()| Outcome::NotHeld)).boxed() };
        let queue = Queue::of(&self.store.root, key);
        self.go_on(self.store.clone().give_back(queue, owner, turned, deadline(timeout)))
    }

    fn asking(&self, acquire: Acquire, timeout: Duration) -> Asking {
        let queue = Queue::of(&self.store.root, &acquire.key);
        Asking { queue, since: self.store.context.clock.now(), deadline: deadline(timeout), acquire }
    }

    fn open(&self) -> Result<(), BackendError> {
        if self.store.closed.is_cancelled() { Err(gone()) } else { Ok(()) }
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
        let turned = self.store.attempts.begin(&request.key, request.owner);
        let timeout = request.timeout;
        self.go_on(self.store.clone().acquire(self.asking(request, timeout), turned))
    }

    fn renew(&self, batch: Vec<Renew>, timeout: Duration) -> Reply<'_, Vec<Renewed>> {
        let since = self.store.context.clock.now();
        self.go_on(self.store.clone().renew(batch, since, deadline(timeout)))
    }

    fn release(&self, release: Release) -> Reply<'_, Handover> {
        let Release { key, owner, next, timeout } = release;
        let Some(next) = next else {
            let outcome = self.give_back(&key, owner, timeout);
            return outcome.map(|outcome| Ok(Handover { outcome: outcome?, next: None })).boxed();
        };
        let (turned, turned_next) = (self.store.attempts.find(owner), self.store.attempts.begin(&next.key, next.owner));
        self.go_on(self.store.clone().hand_over(owner, turned, self.asking(next, timeout), turned_next))
    }

    fn leave(&self, key: Arc<str>, owner: OwnerId, timeout: Duration) -> Reply<'_, ()> {
        let Some(turned) = self.store.attempts.find(owner) else { return ready(self.open()).boxed() };
        let queue = Queue::of(&self.store.root, &key);
        self.go_on(self.store.clone().leave(queue, owner, turned, deadline(timeout)))
    }

    fn inspect(&self, key: Arc<str>, timeout: Duration) -> Reply<'_, Inspection> {
        self.store.inspect(key, deadline(timeout)).boxed()
    }

    fn list(&self, prefix: Arc<str>, timeout: Duration) -> Reply<'_, Vec<Inspection>> {
        self.store.list(prefix, deadline(timeout)).boxed()
    }

    fn force_release(&self, key: Arc<str>, whom: Whom, timeout: Duration) -> Reply<'_, bool> {
        self.store.force_release(key, whom, deadline(timeout)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.stop();
        async {
            self.store.pool.close(deadline(FAREWELL)).await;
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

fn gone() -> BackendError {
    BackendError::new(Failure::Refused, CLOSED)
}

fn deadline(timeout: Duration) -> Timer {
    Timer::now() + timeout.min(LONGEST_TIMEOUT)
}
