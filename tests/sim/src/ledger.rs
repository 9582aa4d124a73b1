//! The server's side of a history, judged as it is written: tokens rise, places are served in order, a freed key is handed on at once.
//!
//! Order and haste are promised to those whom no fault has touched. A machine in *trouble* loses that claim for the places it has.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use dlock::backend::Grant;
use dlock::owner::OwnerId;
use parking_lot::Mutex;

use crate::world::{MS, Nanos, World};

/// A waiter whom nothing has touched has the key this soon after it was freed: a hint, a request, an answer, and some air.
const HANDED_OVER: Nanos = 100 * MS;

/// Up to when each machine feels the faults that hit it.
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
    /// Owners that were granted the key or have left: what they queue for after that is a ghost's.
    over: HashSet<OwnerId>,
    /// When each grant was made, and when the server forgot it.
    grants: HashMap<(OwnerId, u64), (Nanos, Option<Nanos>)>,
}

#[derive(Default)]
struct Page {
    holder: Option<(OwnerId, u64)>,
    last_token: u64,
    places: Vec<Placed>,
    freed: Option<(Nanos, OwnerId)>,
}

struct Placed {
    owner: OwnerId,
    client: usize,
    order: u64,
    /// When it was asked for.
    sent: Nanos,
    /// Nothing has gone wrong for it yet.
    untouched: bool,
}

impl Page {
    fn place(&self, owner: OwnerId) -> Option<&Placed> {
        self.places.iter().find(|place| place.owner == owner)
    }

    fn touch(&mut self, client: usize) {
        for place in self.places.iter_mut().filter(|place| place.client == client) {
            place.untouched = false;
        }
    }

    fn release(&mut self, owner: OwnerId, now: Nanos) {
        self.places.retain(|place| place.owner != owner);
        if self.freed.is_some_and(|(_, whom)| whom == owner) {
            self.freed = None;
        }
        if self.holder.is_some_and(|(holder, _)| holder == owner) {
            self.holder = None;
            self.freed = self.places.first().filter(|head| head.untouched).map(|head| (now, head.owner));
        }
    }
}

impl Ledger {
    pub(crate) fn new(world: &Arc<World>, troubles: &Arc<Troubles>) -> Arc<Self> {
        Arc::new(Self { world: world.clone(), troubles: troubles.clone(), book: Mutex::default() })
    }

    /// A fault hits a machine, and is felt for so long.
    pub(crate) fn trouble(&self, client: usize, lasts: Nanos) {
        self.troubles.add(client, self.world.now() + lasts);
        for page in self.book.lock().keys.values_mut() {
            page.touch(client);
        }
    }

    /// An owner was given a place, or has one.
    pub(crate) fn queued(&self, key: &Arc<str>, owner: OwnerId, client: usize, sent: Nanos) {
        let mut book = self.book.lock();
        book.orders += 1;
        let order = book.orders;
        let untouched = self.troubles.last(client) < self.world.now();
        let page = book.keys.entry(key.clone()).or_default();
        if page.place(owner).is_none() {
            page.places.push(Placed { owner, client, order, sent, untouched });
        }
    }

    /// When an owner asked for its place, if it has one.
    pub(crate) fn queued_since(&self, key: &Arc<str>, owner: OwnerId) -> Option<Nanos> {
        let book = self.book.lock();
        let sent = book.keys.get(key)?.place(owner)?.sent;
        (!book.over.contains(&owner)).then_some(sent)
    }

    /// Nobody of a machine waits for the key any more: what it still has in the queue is on its way out, or goes to whoever comes next.
    pub(crate) fn unwanted(&self, key: &Arc<str>, client: usize) {
        if let Some(page) = self.book.lock().keys.get_mut(key) {
            page.touch(client);
        }
    }

    /// The owner has left or given the key back.
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
        let order = page.place(owner).map_or(u64::MAX, |place| place.order);
        let overtaken = page.places.iter().find(|place| place.untouched && place.order < order && place.owner != owner);
        if let (Some(first), true) = (overtaken, fair) {
            self.world.violate(|| format!("order: {}, but {} came before", what(), first.owner));
        }
        if let Some((freed, whom)) = page.freed.take()
            && page.place(whom).is_some_and(|place| place.untouched)
            && now > freed + HANDED_OVER
        {
            let late = (now - freed) / MS;
            self.world.violate(|| format!("hand-over: {}, {late} ms after it was free for {whom}", what()));
        }
        page.places.retain(|place| place.owner != owner);
        page.holder = Some((owner, grant.token));
        page.last_token = page.last_token.max(grant.token);
    }

    /// The server forgets one lease. False if nobody has confirmed it: a claim is no lease.
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
            page.places.clear();
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
