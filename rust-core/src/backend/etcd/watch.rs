//! Watches: each waiter watches the key of the one before it, and nothing else. So a release wakes one waiter, not all.
//!
//! One stream carries all watches of a session. Servers and connections that fall silent do not say so, so the stream is asked for a sign
//! of life, and given up for another server when none comes. A new stream watches from where the waiters looked last: nothing is missed,
//! unless the cluster has forgotten that much of its past, and then the waiter looks again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use etcd_client::{EventType, WatchFilterType, WatchOptions, WatchRequestSender, WatchResponse};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant as Timer, sleep, sleep_until, timeout};

use super::endpoints::{Endpoints, Via};
use super::request::Ahead;
use crate::backend::{Context, Hint};
use crate::error::{BackendError, Failure};
use crate::owner::OwnerId;

/// The longest that a stream with watches may be silent.
const LONGEST_SILENCE: Duration = Duration::from_secs(2);

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
    watched: HashMap<i64, Watched>,
    last_id: i64,
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
        if watches.table.lock().watched.remove(&self.id).is_some() {
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
                tracing::warn!(server = %self.endpoints.shown(), %error, "the watch of waiters broke off, is taken up again");
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
        let via = self.endpoints.best(self.context.op_timeout).await?;
        let Some((first, watched)) = self.table.lock().watched.iter().next().map(|(id, watched)| (*id, watched.clone())) else {
            return Ok(());
        };
        let mut client = via.client.clone();
        let opened = timeout(self.silence(), client.watch(watched.next.clone(), Some(watched.options(first)))).await;
        let stream = opened.map_err(|_| self.silent(&via))?.map_err(|error| self.endpoints.failed(&via, error))?;
        let (mut sender, mut receiver) = stream.split();
        let mut sent = HashSet::from([first]);
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
                () = sleep_until(asked + self.silence() / 2), if !sent.is_empty() => {
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

    /// Asks for the watches that are new, and ends those that nobody needs any more.
    async fn send(&self, sender: &mut WatchRequestSender, sent: &mut HashSet<i64>) -> Result<(), etcd_client::Error> {
        let (new, old) = {
            let table = self.table.lock();
            let new = table.watched.iter().filter(|(id, _)| !sent.contains(id));
            let new: Vec<_> = new.map(|(id, watched)| (*id, watched.clone())).collect();
            let old: Vec<_> = sent.iter().filter(|id| !table.watched.contains_key(id)).copied().collect();
            (new, old)
        };
        for id in old {
            sent.remove(&id);
            sender.cancel(id).await?;
        }
        for (id, watched) in new {
            sent.insert(id);
            sender.watch(watched.next.clone(), Some(watched.options(id))).await?;
        }
        Ok(())
    }

    fn take(&self, response: &WatchResponse, sent: &mut HashSet<i64>) -> Result<(), BackendError> {
        let id = response.watch_id();
        let deleted = response.events().iter().any(|event| event.event_type() == EventType::Delete);
        // Compacted: the past that was to be watched is forgotten, so nobody knows what happened in it.
        if deleted || response.compact_revision() > 0 {
            self.fire(id);
        } else if response.canceled() && sent.contains(&id) && self.table.lock().watched.contains_key(&id) {
            return Err(BackendError::new(Failure::Unknown, format!("the server ended a watch: {}", response.cancel_reason())));
        }
        if response.canceled() {
            sent.remove(&id);
        }
        Ok(())
    }

    fn fire(&self, id: i64) {
        let watched = self.table.lock().watched.remove(&id);
        if let Some(watched) = watched {
            (self.context.on_hint)(Hint::Key(watched.lock, Some(watched.owner)));
        }
    }
}

impl Watched {
    fn options(&self, id: i64) -> WatchOptions {
        let options = WatchOptions::new().with_watch_id(id).with_filters([WatchFilterType::NoPut]);
        // Inclusive: in a batch, the one ahead may have gone in the very transaction that made our place.
        options.with_start_revision(self.since)
    }
}
