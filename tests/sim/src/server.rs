//! The server: the reference implementation on true time, which may lose a lease or, at a restart, everything.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use dlock::backend::{
    Acquire, Acquired, Backend, Context, Handover, Hint, Inspection, Outcome, Release, Renew, Renewed, Reply, Waiter, Whom, memory,
};
use dlock::error::{BackendError, Failure};
use dlock::owner::{OwnerId, SessionId};
use futures_util::FutureExt;
use parking_lot::Mutex;
use url::Url;

use crate::clock::{MachineClock, TRUE_RATE};
use crate::ledger::Ledger;
use crate::plan::Bound;
use crate::world::{Nanos, SECOND, World};

/// The answer of a server that was asked.
pub(crate) type Answer<T> = Result<T, BackendError>;

/// Takes hints for a machine.
pub(crate) type Post = dyn Fn(usize, Hint) + Send + Sync;

/// No `memory:` name is used twice in a process.
static STORES: AtomicU64 = AtomicU64::new(0);

const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Server {
    pub(crate) world: Arc<World>,
    pub(crate) ledger: Arc<Ledger>,
    clock: Arc<MachineClock>,
    bound: Bound,
    age: u64,
    post: OnceLock<Weak<Post>>,
    state: Mutex<State>,
}

/// Each session's way to the store: the clients', and our own at the end.
#[derive(Default)]
struct State {
    url: Option<Url>,
    ids: Vec<SessionId>,
    sessions: Vec<Arc<dyn Backend>>,
    /// When an owner last asked to be forgotten, for [`Bound::Guard`].
    gone: HashMap<OwnerId, Nanos>,
}

impl Server {
    pub(crate) fn new(world: &Arc<World>, ledger: &Arc<Ledger>, bound: Bound, age: u64, sessions: Vec<SessionId>) -> Arc<Self> {
        Arc::new(Self {
            world: world.clone(),
            ledger: ledger.clone(),
            clock: MachineClock::new(world, 77 * SECOND, TRUE_RATE),
            bound,
            age,
            post: OnceLock::new(),
            state: Mutex::new(State { ids: sessions, ..State::default() }),
        })
    }

    /// Starts with an empty store, the first time or after a crash.
    pub(crate) fn start(&self, post: &Arc<Post>) {
        let post = self.post.get_or_init(|| Arc::downgrade(post));
        let mut state = self.state.lock();
        let number = STORES.fetch_add(1, Ordering::Relaxed);
        state.url = Url::parse(&format!("memory:simulated-{number}")).ok();
        let Some(url) = state.url.clone() else { return };
        let open = |(client, session): (usize, &SessionId)| {
            let post = post.clone();
            let on_hint = move |hint| {
                if let Some(post) = post.upgrade() {
                    post(client, hint);
                }
            };
            let context = Context {
                session: *session,
                clock: self.clock.clone(),
                namespace: "sim".into(),
                connect_timeout: PATIENCE,
                op_timeout: PATIENCE,
                on_hint: Arc::new(on_hint),
            };
            memory::open(&url, context).ok()
        };
        state.sessions = state.ids.iter().enumerate().filter_map(open).collect();
    }

    /// Restarts, having forgotten everything.
    pub(crate) fn forget_all(&self, post: &Arc<Post>) {
        self.start(post);
        self.ledger.forget_all();
    }

    /// The store, through one client's session.
    fn ask<T>(&self, client: usize, ask: impl FnOnce(&dyn Backend) -> Reply<'_, T>) -> Answer<T> {
        let session = self.state.lock().sessions.get(client).cloned();
        let nobody = || Err(BackendError::new(Failure::Refused, "the simulated store did not answer"));
        session.map_or_else(nobody, |session| ask(&*session).now_or_never().unwrap_or_else(nobody))
    }

    pub(crate) fn acquire(&self, client: usize, sent: Nanos, request: &Acquire) -> Answer<Acquired> {
        if self.is_ghost(request.owner, sent) {
            return Err(BackendError::new(Failure::Unknown, "the owner has left since"));
        }
        let answer = self.ask(client, |session| session.acquire(self.aged(request.clone())));
        answer.map(|acquired| self.noted(client, sent, request, acquired))
    }

    /// A TTL that began before its request is over sooner.
    fn aged(&self, mut request: Acquire) -> Acquire {
        request.ttl -= self.age_of(request.ttl);
        request
    }

    fn age_of(&self, ttl: Duration) -> Duration {
        Duration::from_nanos(u64::try_from(ttl.as_nanos()).unwrap_or(0) * self.age / 1000)
    }

    /// What the ledger makes of an answer, and its sender of the TTL.
    fn noted(&self, client: usize, sent: Nanos, request: &Acquire, acquired: Acquired) -> Acquired {
        let Acquire { key, owner, ttl, .. } = request;
        if let Acquired::Granted(mut grant) = acquired {
            self.ledger.granted(key, *owner, grant, request.fair);
            (grant.ttl, grant.age) = (*ttl, self.age_of(*ttl));
            return Acquired::Granted(grant);
        }
        if request.enqueue {
            self.ledger.queued(key, *owner, client, sent);
        }
        acquired
    }

    pub(crate) fn renew(&self, client: usize, batch: Vec<Renew>) -> Answer<Vec<Renewed>> {
        self.ask(client, |session| session.renew(batch, PATIENCE))
    }

    pub(crate) fn release(&self, client: usize, sent: Nanos, mut release: Release) -> Answer<Handover> {
        release.next = release.next.filter(|next| !self.is_ghost(next.owner, sent));
        let (key, owner, next) = (release.key.clone(), release.owner, release.next.clone());
        release.next = next.clone().map(|next| self.aged(next));
        self.gone(owner);
        let handover = self.ask(client, |session| session.release(release))?;
        if let (Some(request), Outcome::Released) = (&next, handover.outcome) {
            // It had its place before the key was free.
            self.ledger.queued(&key, request.owner, client, sent);
        }
        self.ledger.left(&key, owner);
        let answered = next.zip(handover.next);
        let next = answered.map(|(request, acquired)| self.noted(client, sent, &request, acquired));
        Ok(Handover { outcome: handover.outcome, next })
    }

    pub(crate) fn leave(&self, client: usize, key: &Arc<str>, owner: OwnerId) -> Answer<()> {
        self.gone(owner);
        self.ask(client, |session| session.leave(key.clone(), owner, PATIENCE))?;
        self.ledger.left(key, owner);
        Ok(())
    }

    /// When each waiter should look again.
    pub(crate) fn keep_waiting(&self, client: usize, waiters: Vec<Waiter>) -> Answer<Vec<Duration>> {
        let look = |place: Waiter| {
            let inspection = self.inspect(client, &place.key)?;
            let owner = place.owner.to_string();
            let queued = inspection.queue.contains(&owner);
            Ok(match inspection.holder {
                Some(holder) if queued && holder.owner != owner => holder.remaining.unwrap_or_default(),
                _ => Duration::ZERO,
            })
        };
        waiters.into_iter().map(look).collect()
    }

    pub(crate) fn inspect(&self, client: usize, key: &Arc<str>) -> Answer<Inspection> {
        self.ask(client, |session| session.inspect(key.clone(), PATIENCE))
    }

    /// Drops the lease of a key. True if there was one.
    pub(crate) fn lose_lease(&self, key: &Arc<str>) -> bool {
        let Ok(Inspection { holder: Some(holder), .. }) = self.inspect(0, key) else { return false };
        let Some(token) = holder.token else { return false };
        self.ledger.forget(key, token)
            && self.ask(0, |session| session.force_release(key.clone(), Whom::Token(token), PATIENCE)).unwrap_or(false)
    }

    fn gone(&self, owner: OwnerId) {
        if self.bound == Bound::Guard {
            self.state.lock().gone.insert(owner, self.world.now());
        }
    }

    /// Whether a request was made before its owner left.
    fn is_ghost(&self, owner: OwnerId, sent: Nanos) -> bool {
        self.bound == Bound::Guard && self.state.lock().gone.get(&owner).is_some_and(|gone| sent <= *gone)
    }
}
