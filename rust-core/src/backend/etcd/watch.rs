//! Watches: each waiter watches the queue key directly ahead of its own, and nothing else. So a release wakes one waiter, not all.
//!
//! One stream carries all watches of a session. A server or connection that falls silent does not report it, so the session asks for a
//! sign of life on the stream, and goes to another server when none comes.
//!
//! A watch begins with the next event; a waiter whose last look is older than that looks again. A watch that begins in the past would be
//! slow: a server catches up with those ten times a second, and gives no sign of life before it has.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use etcd_client::{EventType, ResponseHeader, WatchFilterType, WatchOptions, WatchRequestSender, WatchResponse};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant as Timer, sleep, sleep_until, timeout};

use super::answer::Ahead;
use super::servers::endpoints::{Endpoints, StreamServer};
use crate::backend::{Context, Hint};
use crate::backoff::Backoff;
use crate::error::{BackendError, Failure};
use crate::observe::logs::target;
use crate::owner::OwnerId;

/// A stream with watches may be silent for this long at most.
const LONGEST_SILENCE: Duration = Duration::from_secs(2);

/// How many watches begin or end before the server has confirmed the first of them. A server stops reading requests while its own messages
/// are not read.
const MOST_UNCONFIRMED: usize = 64;

/// The pauses between streams that end early.
const WATCH_BACKOFF: Backoff = Backoff::millis(50, 800);

/// All watches of a session.
pub(super) struct Watches {
    endpoints: Arc<Endpoints>,
    context: Context,
    table: Mutex<WatchTable>,
    changed: Notify,
}

#[derive(Default)]
struct WatchTable {
    watches: BTreeMap<i64, WaiterWatch>,
    last_id: i64,
    /// Not sent on the stream yet.
    to_begin: VecDeque<i64>,
    to_end: VecDeque<i64>,
}

/// What was sent on one stream.
#[derive(Default)]
struct StreamState {
    watches: HashSet<i64>,
    unconfirmed: HashSet<i64>,
}

/// One waiter's watch.
#[derive(Clone)]
struct WaiterWatch {
    lock: Arc<str>,
    owner: OwnerId,
    /// The queue key whose deletion the waiter waits for.
    next: Vec<u8>,
    since: i64,
    ttl: Duration,
}

/// A watch, until it is dropped.
pub(super) struct WatchHandle {
    watches: Weak<Watches>,
    id: i64,
    next: Vec<u8>,
}

impl WatchHandle {
    /// True if it watches this key and has not seen its deletion yet.
    pub(super) fn is_on(&self, next: &[u8]) -> bool {
        self.next == next && self.watches.upgrade().is_some_and(|watches| watches.table.lock().watches.contains_key(&self.id))
    }
}

impl Drop for WatchHandle {
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

    /// Sends the owner a hint when the key ahead of its own is deleted.
    pub(super) fn watch(self: &Arc<Self>, ahead: &Ahead, lock: Arc<str>, owner: OwnerId, ttl: Duration) -> WatchHandle {
        let watch = WaiterWatch { lock, owner, next: ahead.next.clone(), since: ahead.since, ttl };
        let id = {
            let mut table = self.table.lock();
            table.last_id += 1;
            let id = table.last_id;
            table.watches.insert(id, watch);
            table.to_begin.push_back(id);
            id
        };
        self.changed.notify_one();
        WatchHandle { watches: Arc::downgrade(self), id, next: ahead.next.clone() }
    }

    /// Keeps a stream open while there are watches. Runs until it is dropped.
    pub(super) async fn run(self: Arc<Self>) {
        let mut pauses = WATCH_BACKOFF.pauses();
        loop {
            while self.table.lock().watches.is_empty() {
                self.changed.notified().await;
            }
            let started = Timer::now();
            if let Err(error) = self.stream().await {
                let server = self.endpoints.shown();
                tracing::warn!(target: target::ETCD_WATCH, %server, %error, "the watch stream ended, opening another one");
            }
            if started.elapsed() > WATCH_BACKOFF.longest {
                pauses = WATCH_BACKOFF.pauses();
            }
            sleep(pauses.next()).await;
        }
    }

    /// Runs one stream until it ends or falls silent.
    async fn stream(&self) -> Result<(), BackendError> {
        let best = self.endpoints.best(self.context.op_timeout).await;
        // If no server answers, waiters learn it by asking; without a hint they would not ask for a long time.
        let server = best.inspect_err(|_| (self.context.on_hint)(Hint::All))?;
        let Some((first, watch)) = self.table.lock().begin_anew() else { return Ok(()) };
        let mut client = server.client.clone();
        let opened = timeout(self.silence(), client.watch(watch.next.clone(), Some(options(first)))).await;
        let stream = opened.map_err(|_| self.silent(&server))?.map_err(|error| self.endpoints.failed(&server, error))?;
        let (mut sender, mut receiver) = stream.split();
        let mut sent = StreamState::default();
        sent.add(first);
        let mut last_message = Timer::now();
        loop {
            timeout(self.silence(), self.send(&mut sender, &mut sent))
                .await
                .map_err(|_| self.silent(&server))?
                .map_err(|error| self.endpoints.failed(&server, error))?;
            let waiting_since = Timer::now();
            tokio::select! {
                message = receiver.message() => {
                    last_message = Timer::now();
                    match message.map_err(|error| self.endpoints.failed(&server, error))? {
                        Some(response) => self.take(&response, &mut sent)?,
                        None => return Err(BackendError::new(Failure::Unknown, "the server ended the stream")),
                    }
                }
                () = self.changed.notified() => {}
                () = sleep_until(waiting_since + self.silence() / 2), if !sent.watches.is_empty() => {
                    if last_message + self.silence() < Timer::now() {
                        return Err(self.silent(&server));
                    }
                    // The server answers this with a sign of life.
                    sender.request_progress().await.map_err(|error| self.endpoints.failed(&server, error))?;
                }
            }
        }
    }

    fn silent(&self, server: &StreamServer) -> BackendError {
        self.endpoints.suspect(server);
        BackendError::new(Failure::Unknown, format!("{}: no sign of life", server.name()))
    }

    /// How long the stream may be silent: a third of the shortest TTL among the waiters.
    fn silence(&self) -> Duration {
        let shortest = self.table.lock().watches.values().map(|watch| watch.ttl).min();
        (shortest.unwrap_or(LONGEST_SILENCE) / 3).min(LONGEST_SILENCE)
    }

    /// Ends watches that nobody needs and begins new ones, as many as may be unconfirmed.
    async fn send(&self, sender: &mut WatchRequestSender, sent: &mut StreamState) -> Result<(), etcd_client::Error> {
        let (old, new) = self.table.lock().next(sent);
        for id in old {
            sender.cancel(id).await?;
        }
        for (id, watch) in new {
            sender.watch(watch.next, Some(options(id))).await?;
        }
        Ok(())
    }

    fn take(&self, response: &WatchResponse, sent: &mut StreamState) -> Result<(), BackendError> {
        let id = response.watch_id();
        if response.created() {
            sent.unconfirmed.remove(&id);
            self.begun(id, response.header().map_or(i64::MAX, ResponseHeader::revision));
        }
        let deleted = response.events().iter().any(|event| event.event_type() == EventType::Delete);
        // Compacted: the server has forgotten the past that was to be watched, so the deletion may have happened in it.
        if deleted || response.compact_revision() > 0 {
            self.fire(id);
        } else if response.canceled() && sent.watches.contains(&id) && self.table.lock().watches.contains_key(&id) {
            return Err(BackendError::new(Failure::Unknown, format!("the server ended a watch: {}", response.cancel_reason())));
        }
        if response.canceled() {
            sent.watches.remove(&id);
            sent.unconfirmed.remove(&id);
        }
        Ok(())
    }

    /// The watch reports events after this revision. If its waiter's last look is older, the deletion may lie between.
    fn begun(&self, id: i64, revision: i64) {
        let missed = self.table.lock().watches.get(&id).filter(|watch| watch.since <= revision).map(WaiterWatch::hint);
        if let Some(hint) = missed {
            (self.context.on_hint)(hint);
        }
    }

    fn fire(&self, id: i64) {
        let watch = self.table.lock().remove(id);
        if let Some(watch) = watch {
            (self.context.on_hint)(watch.hint());
        }
    }
}

impl WaiterWatch {
    fn hint(&self) -> Hint {
        Hint::Key(self.lock.clone(), Some(self.owner))
    }
}

impl WatchTable {
    fn remove(&mut self, id: i64) -> Option<WaiterWatch> {
        let watch = self.watches.remove(&id)?;
        self.to_end.push_back(id);
        Some(watch)
    }

    /// The first watch for a new stream, which is opened with it; all others are to begin.
    fn begin_anew(&mut self) -> Option<(i64, WaiterWatch)> {
        self.to_begin = self.watches.keys().copied().collect();
        self.to_end.clear();
        let first = self.to_begin.pop_front()?;
        Some((first, self.watches.get(&first)?.clone()))
    }

    /// The watches to end and to begin next.
    fn next(&mut self, sent: &mut StreamState) -> (Vec<i64>, Vec<(i64, WaiterWatch)>) {
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
            if let Some(watch) = self.watches.get(&id) {
                sent.add(id);
                new.push((id, watch.clone()));
            }
        }
        (old, new)
    }
}

impl StreamState {
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
