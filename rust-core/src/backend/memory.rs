//! `memory:`, the reference: the full semantics in one process, on an injectable clock.
//!
//! `memory:` is private to its client; all clients of the process that name `memory:name` share it. Where another backend differs
//! from this one, its [`Capabilities`] say so.
//!
//! A released key goes to the first waiter as a *claim*: it is held for [`CLAIM`], until the waiter confirms by asking again. A
//! waiter that misses its claim leaves the queue, so that one that sleeps delays the others only once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, ready};
use parking_lot::Mutex;
use url::Url;

use super::contract::{
    Acquire, Acquired, Backend, Capabilities, Context, Grant, Handover, Hint, Inspection, Outcome, Release, Renew, Renewed, Reply,
    Waiting, Whom,
};
use super::hosts::shown;
use super::plan::Plan;
use crate::clock::Instant;
use crate::error::{BackendError, Error, Failure};
use crate::fencing::{Token, next_token};
use crate::holder::{Holder, Note};
use crate::owner::{OwnerId, SessionId};

/// How long a waiter has to confirm a key that was handed to it.
pub const CLAIM: Duration = Duration::from_secs(1);

/// Opens `memory:` or `memory:name`.
///
/// # Errors
/// As [`parse`](super::parse).
pub fn open(url: &Url, context: Context) -> Result<Arc<dyn Backend>, Error> {
    Ok(parse(url)?.open(context))
}

/// Reads `memory:` or `memory:name`. All sessions of one plan share a store: the next session must not grant what the one before still
/// holds.
///
/// # Errors
/// [`Error::InvalidOptions`] for a URL with a host, a query or a fragment.
pub(super) fn parse(url: &Url) -> Result<Plan, Error> {
    if url.has_host() || url.query().is_some() || url.fragment().is_some() {
        return Err(Error::invalid("url", shown(url.as_str()), "memory: or memory:name, without host and parameters"));
    }
    let store = match url.path() {
        "" => Arc::default(),
        name => shared(name),
    };
    let server: Arc<str> = url.as_str().into();
    Ok(Plan::new(capabilities(), server.clone(), move |context| Arc::new(Memory::new(store.clone(), server.clone(), context))))
}

fn capabilities() -> Capabilities {
    Capabilities {
        scheme: "memory",
        fair: true,
        crash_release: true,
        ttl_floor: Duration::from_millis(100),
        margin: Duration::from_millis(2),
        heartbeat: None,
        late_window: Duration::ZERO,
        batch: 1000,
        reserved: None,
        counts_tokens: false,
    }
}

/// The store that all `memory:name` URLs of this process share.
fn shared(name: &str) -> Arc<Mutex<Store>> {
    static STORES: LazyLock<Mutex<HashMap<String, Weak<Mutex<Store>>>>> = LazyLock::new(Mutex::default);
    let mut stores = STORES.lock();
    stores.retain(|_, store| store.strong_count() > 0);
    if let Some(store) = stores.get(name).and_then(Weak::upgrade) {
        return store;
    }
    let store = Arc::default();
    stores.insert(name.to_owned(), Arc::downgrade(&store));
    store
}

#[derive(Debug)]
struct Memory {
    store: Arc<Mutex<Store>>,
    context: Context,
    capabilities: Capabilities,
    server: Arc<str>,
}

/// Hints to deliver once the store is unlocked: a receiver may ask again at once.
type Hints = Vec<(SessionId, Hint)>;

impl Memory {
    fn new(store: Arc<Mutex<Store>>, server: Arc<str>, context: Context) -> Self {
        store.lock().sessions.insert(context.session, context.on_hint.clone());
        Self { store, context, capabilities: capabilities(), server }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Store, Moment, &mut Hints) -> T) -> T {
        let moment = Moment { now: self.context.clock.now(), wall: self.context.clock.wall() };
        let mut hints = Hints::new();
        let mut store = self.store.lock();
        let result = act(&mut store, moment, &mut hints);
        let calls: Vec<_> = hints
            .into_iter()
            .filter_map(|(session, hint)| store.sessions.get(&session).map(|on_hint| (on_hint.clone(), hint)))
            .collect();
        drop(store);
        for (on_hint, hint) in calls {
            on_hint(hint);
        }
        result
    }

    /// The name of a key in a store that clients with different namespaces may share.
    fn full(&self, key: &str) -> String {
        format!("{}\0{key}", self.context.namespace)
    }

    fn answer<T: Send + 'static>(&self, act: impl FnOnce(&mut Store, Moment, &mut Hints) -> T + Send + 'static) -> Reply<'_, T> {
        Box::pin(async move {
            if !self.store.lock().sessions.contains_key(&self.context.session) {
                return Err(BackendError::closed());
            }
            Ok(self.with(act))
        })
    }
}

impl Backend for Memory {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn server(&self) -> &Arc<str> {
        &self.server
    }

    fn answers_at_once(&self) -> bool {
        true
    }

    fn ping(&self, _timeout: Duration) -> Reply<'_, ()> {
        self.answer(|_, _, _| ())
    }

    fn probe(&self, timeout: Duration) -> Reply<'_, ()> {
        self.ping(timeout)
    }

    fn acquire(&self, request: Acquire) -> Reply<'_, Acquired> {
        let full = self.full(&request.key);
        let acquired = self.answer(move |store, moment, hints| store.acquire(&full, &request, moment, hints));
        Box::pin(async { acquired.await? })
    }

    fn renew(&self, batch: Vec<Renew>, _timeout: Duration) -> Reply<'_, Vec<Renewed>> {
        let batch: Vec<_> = batch.into_iter().map(|renew| (self.full(&renew.key), renew)).collect();
        self.answer(move |store, moment, _| batch.iter().map(|(full, renew)| store.renew(full, renew, moment.now)).collect())
    }

    fn release(&self, release: Release) -> Reply<'_, Handover> {
        let full = self.full(&release.key);
        self.answer(move |store, moment, hints| {
            let held = store.is_held_by(&full, release.owner, moment);
            if held && let Some(next) = &release.next {
                store.enqueue(&full, next);
            }
            let outcome =
                if store.release_or_withdraw(&full, release.owner, moment, hints) { Outcome::Released } else { Outcome::NotHeld };
            // A request that is refused leaves nothing behind. The waiter asks again by itself and learns why.
            let next = release.next.and_then(|next| store.acquire(&full, &next, moment, hints).ok());
            Handover { outcome, next }
        })
    }

    fn leave(&self, key: Arc<str>, owner: OwnerId, _timeout: Duration) -> Reply<'_, ()> {
        let full = self.full(&key);
        self.answer(move |store, moment, hints| {
            store.release_or_withdraw(&full, owner, moment, hints);
        })
    }

    fn inspect(&self, key: Arc<str>, _timeout: Duration) -> Reply<'_, Inspection> {
        let full = self.full(&key);
        self.answer(move |store, moment, _| store.inspect(&full, &key, moment))
    }

    fn list(&self, prefix: Arc<str>, _timeout: Duration) -> Reply<'_, Vec<Inspection>> {
        let namespace = self.full("");
        let full = self.full(&prefix);
        self.answer(move |store, moment, _| {
            let mut names: Vec<_> = store.keys.keys().filter(|name| name.starts_with(&full)).cloned().collect();
            names.sort_unstable();
            let inspections = names.iter().map(|name| store.inspect(name, &name[namespace.len()..], moment));
            inspections.filter(|inspection| inspection.holder.is_some()).collect()
        })
    }

    fn force_release(&self, key: Arc<str>, whom: Whom, _timeout: Duration) -> Reply<'_, bool> {
        let full = self.full(&key);
        self.answer(move |store, moment, hints| {
            let Some(held) = store.keys.get(&full).and_then(|entry| entry.held.as_ref()).filter(|held| held.until > moment.now)
            else {
                return false;
            };
            let (owner, token) = (held.owner, held.token);
            let meant = match &whom {
                Whom::Token(wanted) => Some(*wanted) == token,
                Whom::Owner(wanted) => *wanted == owner.to_string(),
            };
            meant && store.release_or_withdraw(&full, owner, moment, hints)
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.store.lock().sessions.remove(&self.context.session);
        Box::pin(ready(()))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.store.lock().sessions.remove(&self.context.session);
    }
}

#[derive(Clone, Copy)]
struct Moment {
    now: Instant,
    wall: SystemTime,
}

/// All keys of one `memory:` name.
#[derive(Default)]
struct Store {
    keys: HashMap<String, Entry>,
    sessions: HashMap<SessionId, Arc<dyn Fn(Hint) + Send + Sync>>,
    /// One counter for all keys: nothing stays behind per key.
    last_token: Token,
}

#[derive(Default)]
struct Entry {
    held: Option<HeldKey>,
    queue: VecDeque<(OwnerId, Arc<str>)>,
}

struct HeldKey {
    owner: OwnerId,
    /// `None` while it is claimed.
    token: Option<Token>,
    until: Instant,
    note: Arc<str>,
    /// Handed over and not yet confirmed; its owner is still first in the queue.
    claimed: bool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Store {
    fn acquire(&mut self, full: &str, request: &Acquire, moment: Moment, hints: &mut Hints) -> Result<Acquired, BackendError> {
        self.end_expired(full, moment, hints);
        let free_for_all = {
            let entry = self.keys.entry(full.to_owned()).or_default();
            entry.held.is_none() && (entry.queue.is_empty() || !request.fair)
        };
        if free_for_all {
            let token = self.draw_token(full, request, moment, hints)?;
            self.hold(full, request, token, moment.now + request.ttl);
            return Ok(Acquired::Granted(Grant { token, ttl: request.ttl, age: Duration::ZERO }));
        }
        match self.keys.get(full).and_then(|entry| entry.held.as_ref()) {
            Some(held) if held.owner == request.owner => {
                // This may be an old request that comes late: it must not undo an extension.
                let least = if held.claimed { moment.now } else { held.until };
                // The token of a claim is drawn at its confirmation: only then is the floor known.
                let token = match held.token {
                    Some(token) => token,
                    None => self.draw_token(full, request, moment, hints)?,
                };
                self.hold(full, request, token, least.max(moment.now + request.ttl));
                return Ok(Acquired::Granted(Grant { token, ttl: request.ttl, age: Duration::ZERO }));
            }
            Some(_) => {}
            // Free, and another waiter is first: the queue has been served before, so this is unreachable but harmless.
            None => self.hand_over(full, moment, hints),
        }
        if request.enqueue {
            self.enqueue(full, request);
        }
        Ok(self.waiting(full, request.owner, moment.now))
    }

    /// Draws the next token. Without one, nothing of the request remains.
    fn draw_token(&mut self, full: &str, request: &Acquire, moment: Moment, hints: &mut Hints) -> Result<Token, BackendError> {
        if let Some(token) = next_token(self.last_token, request.floor, moment.wall) {
            self.last_token = token;
            return Ok(token);
        }
        self.release_or_withdraw(full, request.owner, moment, hints);
        Err(BackendError::new(Failure::Refused, "no fencing token is above the last one"))
    }

    fn hold(&mut self, full: &str, request: &Acquire, token: Token, until: Instant) {
        let entry = self.keys.entry(full.to_owned()).or_default();
        entry.queue.retain(|(owner, _)| *owner != request.owner);
        let (token, note) = (Some(token), request.note.clone());
        entry.held = Some(HeldKey { owner: request.owner, token, until, note, claimed: false });
    }

    fn enqueue(&mut self, full: &str, request: &Acquire) {
        let queue = &mut self.keys.entry(full.to_owned()).or_default().queue;
        if !queue.iter().any(|(owner, _)| *owner == request.owner) {
            queue.push_back((request.owner, request.note.clone()));
        }
    }

    fn waiting(&self, full: &str, owner: OwnerId, now: Instant) -> Acquired {
        let entry = self.keys.get(full);
        let held = entry.and_then(|entry| entry.held.as_ref());
        let position = entry.and_then(|entry| entry.queue.iter().position(|(waiter, _)| *waiter == owner));
        Acquired::Waiting(Waiting {
            look_again: held.map_or(Duration::ZERO, |held| held.until.since(now)),
            position: position.map(|position| position as u64),
            holder: held.map(|held| held.describe(now)),
        })
    }

    fn renew(&mut self, full: &str, renew: &Renew, now: Instant) -> Renewed {
        let held = self.keys.get_mut(full).and_then(|entry| entry.held.as_mut());
        let Some(held) = held.filter(|held| held.owner == renew.owner && held.until > now) else {
            return Renewed::Gone;
        };
        let until = now + renew.ttl;
        held.until = if renew.exact { until } else { held.until.max(until) };
        Renewed::Extended(renew.ttl)
    }

    /// Releases the key or withdraws the waiter; true if `owner` held the key.
    fn release_or_withdraw(&mut self, full: &str, owner: OwnerId, moment: Moment, hints: &mut Hints) -> bool {
        self.end_expired(full, moment, hints);
        let Some(entry) = self.keys.get_mut(full) else { return false };
        entry.queue.retain(|(waiter, _)| *waiter != owner);
        let was_held = entry.held.as_ref().is_some_and(|held| held.owner == owner);
        if was_held {
            entry.held = None;
            self.hand_over(full, moment, hints);
        } else {
            self.forget_if_unused(full);
        }
        was_held
    }

    /// Ends what has run out. A waiter that missed its claim leaves the queue.
    fn end_expired(&mut self, full: &str, moment: Moment, hints: &mut Hints) {
        let Some(entry) = self.keys.get_mut(full) else { return };
        let Some(held) = entry.held.take_if(|held| held.until <= moment.now) else { return };
        if held.claimed {
            entry.queue.retain(|(owner, _)| *owner != held.owner);
        }
        self.hand_over(full, moment, hints);
    }

    /// Gives a free key to the first waiter, for a short while.
    fn hand_over(&mut self, full: &str, moment: Moment, hints: &mut Hints) {
        let Some(entry) = self.keys.get_mut(full) else { return };
        // The waiters of a closed session are gone.
        while let Some((owner, _)) = entry.queue.front()
            && !self.sessions.contains_key(&owner.session)
        {
            entry.queue.pop_front();
        }
        let Some((owner, note)) = entry.queue.front().cloned() else {
            self.forget_if_unused(full);
            return;
        };
        entry.held = Some(HeldKey { owner, token: None, until: moment.now + CLAIM, note, claimed: true });
        let key: Arc<str> = full.split_once('\0').map_or(full, |(_, key)| key).into();
        hints.push((owner.session, Hint::Key(key.clone(), Some(owner))));
        if let Some((next, _)) = entry.queue.get(1) {
            hints.push((next.session, Hint::Key(key, Some(*next))));
        }
    }

    fn is_held_by(&mut self, full: &str, owner: OwnerId, moment: Moment) -> bool {
        let held = self.keys.get(full).and_then(|entry| entry.held.as_ref());
        held.is_some_and(|held| held.owner == owner && held.until > moment.now)
    }

    fn inspect(&self, full: &str, key: &str, moment: Moment) -> Inspection {
        let entry = self.keys.get(full);
        let held = entry.and_then(|entry| entry.held.as_ref()).filter(|held| held.until > moment.now);
        let queue = entry.map(|entry| entry.queue.iter().map(|(owner, _)| owner.to_string()).collect()).unwrap_or_default();
        Inspection { key: key.to_owned(), holder: held.map(|held| held.describe(moment.now)), queue, ..Inspection::default() }
    }

    fn forget_if_unused(&mut self, full: &str) {
        if self.keys.get(full).is_some_and(|entry| entry.held.is_none() && entry.queue.is_empty()) {
            self.keys.remove(full);
        }
    }
}

impl HeldKey {
    fn describe(&self, now: Instant) -> Holder {
        Holder {
            owner: self.owner.to_string(),
            token: self.token,
            remaining: Some(self.until.since(now)),
            note: Note::decode(&self.note),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r01_a_late_acquire_does_not_undo_an_extension() {
        let (mut store, mut hints) = (Store::default(), Hints::new());
        let moment = Moment { now: Instant::from_nanos(1), wall: SystemTime::UNIX_EPOCH };
        let second = Duration::from_secs(1);
        let owner = OwnerId { session: SessionId::from_u128(1), sequence: 1 };
        let request = Acquire {
            key: "k".into(),
            owner,
            ttl: second,
            fair: true,
            enqueue: true,
            note: "".into(),
            renew: true,
            floor: 0,
            timeout: second,
        };
        let first = store.acquire("k", &request, moment, &mut hints).unwrap();
        let extension = Renew { key: "k".into(), owner, ttl: 60 * second, exact: false };
        assert_eq!(store.renew("k", &extension, moment.now), Renewed::Extended(60 * second));
        assert_eq!(store.acquire("k", &request, moment, &mut hints).unwrap(), first, "confirmed");
        assert_eq!(store.inspect("k", "k", moment).holder.unwrap().remaining, Some(60 * second));
    }
}
