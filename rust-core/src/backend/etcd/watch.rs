//! Watches: each waiter watches the key of the one before it, and nothing else. So a release wakes one waiter, not all.
//!
//! One stream carries all watches of a session. Servers and connections that fall silent do not say so, so the stream is asked for a sign
//! of life, and given up for another server when none comes.
//!
//! A watch begins with what comes next, and a waiter that looked last before it began looks again. To watch from the past instead would
//! be slow: a server catches up with watches of the past ten times a second, and gives no sign of life before it has.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use etcd_client::{EventType, ResponseHeader, WatchFilterType, WatchOptions, WatchRequestSender, WatchResponse};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant as Timer, sleep, sleep_until, timeout};

use super::request::Ahead;
use super::servers::endpoints::{Endpoints, Via};
use crate::backend::{Context, Hint};
use crate::error::{BackendError, Failure};
use crate::observe::logs::target;
use crate::owner::OwnerId;

/// The longest that a stream with watches may be silent.
const LONGEST_SILENCE: Duration = Duration::from_secs(2);

/// How many watches are begun or ended before the server has confirmed the first of them. It stops reading when its own words are not
/// read.
const MOST_UNCONFIRMED: usize = 64;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// All watches of a session.
pub(super) struct Watches {
    endpoints: Arc<Endpoints>,
    context: Context,
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Default)]
struct Table {
    watched: BTreeMap<i64, Watched>,
    last_id: i64,
    /// What the stream has not been told yet.
    to_begin: VecDeque<i64>,
    to_end: VecDeque<i64>,
}

/// What the server knows of a stream.
#[derive(Default)]
struct Sent {
    watches: HashSet<i64>,
    unconfirmed: HashSet<i64>,
}

/// One waiter's watch.
#[derive(Clone)]
struct Watched {
    lock: Arc<str>,
    owner: OwnerId,
    /// The key whose deletion is waited for.
    next: Vec<u8>,
    since: i64,
    ttl: Duration,
}

/// A watch, until it is dropped.
pub(super) struct Watching {
    watches: Weak<Watches>,
    id: i64,
    next: Vec<u8>,
}

impl Watching {
    /// True if it watches this key and has not told of its deletion yet.
    pub(super) fn is_of(&self, next: &[u8]) -> bool {
        self.next == next && self.watches.upgrade().is_some_and(|watches| watches.table.lock().watched.contains_key(&self.id))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let Some(watches) = self.watches.upgrade() else { return };
        if watches.table.lock().remove(self.id).is_some() {
            watches.changed.notify_one();
        }
    }
}

impl Watches {
    pub(super) fn new(endpoints: Arc<Endpoints>, context: Context) -> Arc<Self> {
        Arc::new(Self { endpoints, context, table: Mutex::default(), changed: Notify::new() })
    }

    /// Hints the owner when the one ahead of it goes.
    pub(super) fn watch(self: &Arc<Self>, ahead: &Ahead, lock: Arc<str>, owner: OwnerId, ttl: Duration) -> Watching {
        let watched = Watched { lock, owner, next: ahead.next.clone(), since: ahead.since, ttl };
        let id = {
            let mut table = self.table.lock();
            table.last_id += 1;
            let id = table.last_id;
            table.watched.insert(id, watched);
            table.to_begin.push_back(id);
            id
        };
        self.changed.notify_one();
        Watching { watches: Arc::downgrade(self), id, next: ahead.next.clone() }
    }

    /// Keeps a stream for the watches. Never ends by itself.
    pub(super) async fn run(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            while self.table.lock().watched.is_empty() {
                self.changed.notified().await;
            }
            let started = Timer::now();
            if let Err(error) = self.stream().await {
                tracing::warn!(target: target::ETCD_WATCH, server = %self.endpoints.shown(), %error, "the watch of waiters broke off, is taken up again");
            }
            if started.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One stream, until it ends or falls silent.
    async fn stream(&self) -> Result<(), BackendError> {
        let best = self.endpoints.best(self.context.op_timeout).await;
        // When no server answers, those who wait find that out by asking; by themselves they would not for long.
        let via = best.inspect_err(|_| (self.context.on_hint)(Hint::All))?;
        let Some((first, watched)) = self.table.lock().begin_anew() else { return Ok(()) };
        let mut client = via.client.clone();
        let opened = timeout(self.silence(), client.watch(watched.next.clone(), Some(options(first)))).await;
        let stream = opened.map_err(|_| self.silent(&via))?.map_err(|error| self.endpoints.failed(&via, error))?;
        let (mut sender, mut receiver) = stream.split();
        let mut sent = Sent::default();
        sent.add(first);
        let mut heard = Timer::now();
        loop {
            timeout(self.silence(), self.send(&mut sender, &mut sent))
                .await
                .map_err(|_| self.silent(&via))?
                .map_err(|error| self.endpoints.failed(&via, error))?;
            let asked = Timer::now();
            tokio::select! {
                message = receiver.message() => {
                    heard = Timer::now();
                    match message.map_err(|error| self.endpoints.failed(&via, error))? {
                        Some(response) => self.take(&response, &mut sent)?,
                        None => return Err(BackendError::new(Failure::Unknown, "the server ended the stream")),
                    }
                }
                () = self.changed.notified() => {}
                () = sleep_until(asked + self.silence() / 2), if !sent.watches.is_empty() => {
                    if heard + self.silence() < Timer::now() {
                        return Err(self.silent(&via));
                    }
                    // Answered with a sign of life.
                    sender.request_progress().await.map_err(|error| self.endpoints.failed(&via, error))?;
                }
            }
        }
    }

    fn silent(&self, via: &Via) -> BackendError {
        self.endpoints.suspect(via);
        BackendError::new(Failure::Unknown, format!("{}: no sign of life", via.server()))
    }

    /// A third of the shortest TTL that is waited with.
    fn silence(&self) -> Duration {
        let shortest = self.table.lock().watched.values().map(|watched| watched.ttl).min();
        (shortest.unwrap_or(LONGEST_SILENCE) / 3).min(LONGEST_SILENCE)
    }

    /// Ends the watches that nobody needs any more and begins those that are new, as many as may be unconfirmed.
    async fn send(&self, sender: &mut WatchRequestSender, sent: &mut Sent) -> Result<(), etcd_client::Error> {
        let (old, new) = self.table.lock().next(sent);
        for id in old {
            sender.cancel(id).await?;
        }
        for (id, watched) in new {
            sender.watch(watched.next, Some(options(id))).await?;
        }
        Ok(())
    }

    fn take(&self, response: &WatchResponse, sent: &mut Sent) -> Result<(), BackendError> {
        let id = response.watch_id();
        if response.created() {
            sent.unconfirmed.remove(&id);
            self.begun(id, response.header().map_or(i64::MAX, ResponseHeader::revision));
        }
        let deleted = response.events().iter().any(|event| event.event_type() == EventType::Delete);
        // Compacted: the past that was to be watched is forgotten, so nobody knows what happened in it.
        if deleted || response.compact_revision() > 0 {
            self.fire(id);
        } else if response.canceled() && sent.watches.contains(&id) && self.table.lock().watched.contains_key(&id) {
            return Err(BackendError::new(Failure::Unknown, format!("the server ended a watch: {}", response.cancel_reason())));
        }
        if response.canceled() {
            sent.watches.remove(&id);
            sent.unconfirmed.remove(&id);
        }
        Ok(())
    }

    /// The watch tells what happens after this revision. What its waiter knows may be older.
    fn begun(&self, id: i64, revision: i64) {
        let missed = self.table.lock().watched.get(&id).filter(|watched| watched.since <= revision).map(Watched::hint);
        if let Some(hint) = missed {
            (self.context.on_hint)(hint);
        }
    }

    fn fire(&self, id: i64) {
        let watched = self.table.lock().remove(id);
        if let Some(watched) = watched {
            (self.context.on_hint)(watched.hint());
        }
    }
}

impl Watched {
    fn hint(&self) -> Hint {
        Hint::Key(self.lock.clone(), Some(self.owner))
    }
}

impl Table {
    fn remove(&mut self, id: i64) -> Option<Watched> {
        let watched = self.watched.remove(&id)?;
        self.to_end.push_back(id);
        Some(watched)
    }

    /// For a stream that knows of no watch: the first one; the others are to begin.
    fn begin_anew(&mut self) -> Option<(i64, Watched)> {
        self.to_begin = self.watched.keys().copied().collect();
        self.to_end.clear();
        let first = self.to_begin.pop_front()?;
        Some((first, self.watched.get(&first)?.clone()))
    }

    /// What the server is told next: which watches to end, and which to begin.
    fn next(&mut self, sent: &mut Sent) -> (Vec<i64>, Vec<(i64, Watched)>) {
        let (mut old, mut new) = (Vec::new(), Vec::new());
        while sent.has_room()
            && let Some(id) = self.to_end.pop_front()
        {
            if sent.watches.remove(&id) {
                sent.unconfirmed.insert(id);
                old.push(id);
            }
        }
        while sent.has_room()
            && let Some(id) = self.to_begin.pop_front()
        {
            if let Some(watched) = self.watched.get(&id) {
                sent.add(id);
                new.push((id, watched.clone()));
            }
        }
        (old, new)
    }
}

impl Sent {
    fn has_room(&self) -> bool {
        self.unconfirmed.len() < MOST_UNCONFIRMED
    }

    fn add(&mut self, id: i64) {
        self.watches.insert(id);
        self.unconfirmed.insert(id);
    }
}

fn options(id: i64) -> WatchOptions {
    WatchOptions::new().with_watch_id(id).with_filters([WatchFilterType::NoPut])
}
