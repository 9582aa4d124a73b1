//! The server's side of a history, judged as it is written: tokens rise, waiters are served in order, a freed key is handed over at once.
//!
//! Order and a prompt hand-over are promised to waiters that no fault has touched. A machine in *trouble* loses both for its waiters.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use dlock::backend::Grant;
use dlock::owner::OwnerId;
use parking_lot::Mutex;

use crate::world::{MS, Nanos, World};

/// A waiter that no fault has touched has the key this soon after it was freed: time for a hint, a request, an answer, and a reserve.
const HANDED_OVER: Nanos = 100 * MS;

/// Until when each machine is affected by the faults that hit it.
pub(crate) struct Troubles {
    until: Mutex<Vec<Nanos>>,
}

impl Troubles {
    pub(crate) fn new(clients: usize) -> Arc<Self> {
        Arc::new(Self { until: Mutex::new(vec![0; clients]) })
    }

    pub(crate) fn last(&self, client: usize) -> Nanos {
        self.until.lock().get(client).copied().unwrap_or(0)
    }

    pub(crate) fn add(&self, client: usize, until: Nanos) {
        if let Some(last) = self.until.lock().get_mut(client) {
            *last = until.max(*last);
        }
    }
}

/// What the server has done.
pub(crate) struct Ledger {
    world: Arc<World>,
    pub(crate) troubles: Arc<Troubles>,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    keys: BTreeMap<Arc<str>, Page>,
    orders: u64,
    /// Owners that were granted the key or have left. A waiter that queues under one of them after that was left by a late request.
    over: HashSet<OwnerId>,
    /// When each grant was made, and when the server forgot it.
    grants: HashMap<(OwnerId, u64), (Nanos, Option<Nanos>)>,
}

#[derive(Default)]
struct Page {
    holder: Option<(OwnerId, u64)>,
    last_token: u64,
    queue: Vec<QueuedWaiter>,
    freed: Option<(Nanos, OwnerId)>,
}

struct QueuedWaiter {
    owner: OwnerId,
    client: usize,
    order: u64,
    /// When the waiter asked.
    sent: Nanos,
    /// No fault has hit its machine yet.
    untouched: bool,
}

impl Page {
    fn waiter(&self, owner: OwnerId) -> Option<&QueuedWaiter> {
        self.queue.iter().find(|waiter| waiter.owner == owner)
    }

    fn touch(&mut self, client: usize) {
        for waiter in self.queue.iter_mut().filter(|waiter| waiter.client == client) {
            waiter.untouched = false;
        }
    }

    fn release(&mut self, owner: OwnerId, now: Nanos) {
        self.queue.retain(|waiter| waiter.owner != owner);
        if self.freed.is_some_and(|(_, whom)| whom == owner) {
            self.freed = None;
        }
        if self.holder.is_some_and(|(holder, _)| holder == owner) {
            self.holder = None;
            self.freed = self.queue.first().filter(|head| head.untouched).map(|head| (now, head.owner));
        }
    }
}

impl Ledger {
    pub(crate) fn new(world: &Arc<World>, troubles: &Arc<Troubles>) -> Arc<Self> {
        Arc::new(Self { world: world.clone(), troubles: troubles.clone(), book: Mutex::default() })
    }

    /// A fault hits a machine, and lasts this long.
    pub(crate) fn trouble(&self, client: usize, lasts: Nanos) {
        self.troubles.add(client, self.world.now() + lasts);
        for page in self.book.lock().keys.values_mut() {
            page.touch(client);
        }
    }

    /// An owner was queued, or is in the queue already.
    pub(crate) fn queued(&self, key: &Arc<str>, owner: OwnerId, client: usize, sent: Nanos) {
        let mut book = self.book.lock();
        book.orders += 1;
        let order = book.orders;
        let untouched = self.troubles.last(client) < self.world.now();
        let page = book.keys.entry(key.clone()).or_default();
        if page.waiter(owner).is_none() {
            page.queue.push(QueuedWaiter { owner, client, order, sent, untouched });
        }
    }

    /// When an owner in the queue asked; `None` if it is not queued.
    pub(crate) fn queued_since(&self, key: &Arc<str>, owner: OwnerId) -> Option<Nanos> {
        let book = self.book.lock();
        let sent = book.keys.get(key)?.waiter(owner)?.sent;
        (!book.over.contains(&owner)).then_some(sent)
    }

    /// No task of a machine waits for the key any more. A waiter that it still has in the queue is about to be withdrawn, or serves its next task.
    pub(crate) fn unwanted(&self, key: &Arc<str>, client: usize) {
        if let Some(page) = self.book.lock().keys.get_mut(key) {
            page.touch(client);
        }
    }

    /// The owner has left or released the key.
    pub(crate) fn left(&self, key: &Arc<str>, owner: OwnerId) {
        let now = self.world.now();
        let mut book = self.book.lock();
        book.over.insert(owner);
        if let Some(page) = book.keys.get_mut(key) {
            page.release(owner, now);
        }
    }

    /// The server granted the key, or confirmed a grant.
    pub(crate) fn granted(&self, key: &Arc<str>, owner: OwnerId, grant: Grant, fair: bool) {
        let now = self.world.now();
        self.world.note(grant.token);
        let mut book = self.book.lock();
        book.over.insert(owner);
        book.grants.entry((owner, grant.token)).or_insert((now, None));
        let page = book.keys.entry(key.clone()).or_default();
        if page.holder == Some((owner, grant.token)) {
            return;
        }
        let what = || format!("{key} granted to {owner} with token {}", grant.token);
        if grant.token <= page.last_token {
            self.world.violate(|| format!("token: {}, after {}", what(), page.last_token));
        }
        let order = page.waiter(owner).map_or(u64::MAX, |waiter| waiter.order);
        let overtaken = page.queue.iter().find(|waiter| waiter.untouched && waiter.order < order && waiter.owner != owner);
        if let (Some(first), true) = (overtaken, fair) {
            self.world.violate(|| format!("order: {}, but {} came before", what(), first.owner));
        }
        if let Some((freed, whom)) = page.freed.take()
            && page.waiter(whom).is_some_and(|waiter| waiter.untouched)
            && now > freed + HANDED_OVER
        {
            let late = (now - freed) / MS;
            self.world.violate(|| format!("hand-over: {}, {late} ms after it was free for {whom}", what()));
        }
        page.queue.retain(|waiter| waiter.owner != owner);
        page.holder = Some((owner, grant.token));
        page.last_token = page.last_token.max(grant.token);
    }

    /// The server forgets one lease; false if it is only a claim, which nobody has confirmed.
    pub(crate) fn forget(&self, key: &Arc<str>, token: u64) -> bool {
        let now = self.world.now();
        let mut book = self.book.lock();
        let Book { keys, grants, .. } = &mut *book;
        let Some(page) = keys.get_mut(key) else { return false };
        let Some(lost) = page.holder.take_if(|(_, held)| *held == token) else { return false };
        if let Some((_, forgotten)) = grants.get_mut(&lost) {
            *forgotten = forgotten.or(Some(now));
        }
        true
    }

    /// The server forgets everything.
    pub(crate) fn forget_all(&self) {
        let now = self.world.now();
        let mut book = self.book.lock();
        for page in book.keys.values_mut() {
            page.holder = None;
            page.queue.clear();
            page.freed = None;
        }
        for (_, forgotten) in book.grants.values_mut() {
            *forgotten = forgotten.or(Some(now));
        }
    }

    /// When a grant was made, and when the server forgot it.
    pub(crate) fn grant(&self, owner: OwnerId, token: u64) -> Option<(Nanos, Option<Nanos>)> {
        self.book.lock().grants.get(&(owner, token)).copied()
    }
}
