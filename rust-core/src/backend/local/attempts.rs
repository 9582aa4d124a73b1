//! Attempts: from asking for a key to holding it.
//!
//! An attempt is a small state machine, moved by short system calls under the book's lock; in between it may pause, and then anybody may
//! end it by leaving.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant as Deadline;

use super::files::Descriptor;
use super::place::{Found, Holding, Place, let_go, seek};
use super::record::Record;
use super::tokens::Slot;
use super::turns::Turns;
use super::watch::Notify;
use super::{Local, left_behind, locks, names};
use crate::backend::{Acquire, Acquired, Grant, Hint, Waiting};
use crate::error::{BackendError, Failure};
use crate::fencing::Token;
use crate::holder::Holder;
use crate::owner::OwnerId;

/// When a waiter looks again without having been told to.
///
/// No event tells of a holder that died while a child, forked past our hooks, keeps its file open.
pub(super) const BACKSTOP: Duration = Duration::from_millis(500);

/// When a waiter looks again where nobody can tell it.
const POLL: Duration = Duration::from_millis(20);

/// Lets others run first, then waits a little.
const YIELDS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(1);

/// How often a lock that should be free in a moment is tried.
const TRIES: u32 = 12;

type Id = (Arc<str>, OwnerId);

/// What a client holds and waits for.
#[derive(Debug, Default)]
pub(super) struct Book {
    attempts: HashMap<Id, Attempt>,
    turns: Turns,
    closed: bool,
}

#[derive(Debug)]
enum Attempt {
    /// Somebody else has the lock.
    Waiting(Place),
    /// The lock is ours, the token is not: its slot was in use.
    Locked(Descriptor),
    /// The key is ours.
    Held(Holding),
}

impl Book {
    pub(super) fn holding(&mut self, key: &Arc<str>, owner: OwnerId) -> Option<&mut Holding> {
        match self.attempts.get_mut(&(Arc::clone(key), owner)) {
            Some(Attempt::Held(holding)) => Some(holding),
            _ => None,
        }
    }

    pub(super) fn forget(&mut self, key: &Arc<str>, owner: OwnerId) {
        self.attempts.remove(&(Arc::clone(key), owner));
    }

    /// Frees what `owner` holds; false if that is nothing. A place that it waits at is kept.
    pub(super) fn release(&mut self, key: &Arc<str>, owner: OwnerId, path: &Path) -> io::Result<bool> {
        if self.holding(key, owner).is_none() {
            return Ok(false);
        }
        self.leave(key, owner, path)
    }

    /// Frees whatever `owner` has; true if that was the key.
    pub(super) fn leave(&mut self, key: &Arc<str>, owner: OwnerId, path: &Path) -> io::Result<bool> {
        match self.attempts.remove(&(Arc::clone(key), owner)) {
            Some(Attempt::Held(holding)) => {
                let began = holding.began();
                let waited = holding.end(path)?;
                if waited == Some(true) {
                    self.turns.end(key, began, std::time::Instant::now());
                }
                Ok(waited.is_some())
            }
            Some(Attempt::Locked(file)) => {
                give_up(path, &file)?;
                Ok(false)
            }
            Some(Attempt::Waiting(_)) | None => Ok(false),
        }
    }

    /// Frees everything, for good.
    pub(super) fn close(&mut self, path: impl Fn(&str) -> Option<PathBuf>) {
        self.closed = true;
        let ids: Vec<Id> = self.attempts.keys().cloned().collect();
        for (key, owner) in ids {
            // What cannot be unlinked is at least closed, and so unlocked.
            let _ = path(&key).map(|path| self.leave(&key, owner, &path));
        }
        self.attempts.clear();
    }
}

/// Gives up a lock that never became a grant.
fn give_up(path: &Path, file: &Descriptor) -> io::Result<()> {
    let at_path = file.is_at(path)?;
    let_go(path, file, at_path);
    Ok(())
}

/// What one turn of the machine came to.
enum Turn {
    Answer(Acquired),
    /// It is worth trying again in a moment.
    Pause,
}

impl Local {
    /// Asks for a key until there is an answer.
    pub(super) async fn attempt(&self, request: Acquire) -> Result<Acquired, BackendError> {
        let deadline = Deadline::now() + request.timeout;
        if let Some(courtesy) = self.stand_back(&request) {
            tokio::time::sleep(courtesy.min(request.timeout)).await;
        }
        let mut asking = Asking { local: self, request: &request, path: None };
        for round in 0.. {
            match self.turn(&mut asking, round)? {
                Turn::Answer(answer) => {
                    asking.path = None;
                    return Ok(answer);
                }
                Turn::Pause if Deadline::now() >= deadline => break,
                Turn::Pause if round < YIELDS => tokio::task::yield_now().await,
                Turn::Pause => tokio::time::sleep(PAUSE).await,
            }
        }
        Err(BackendError::new(Failure::NotSent, "local: another process keeps the key's token slot busy"))
    }

    /// The answer to the waiter that a release goes on to: it need not wait for others to have had a chance.
    pub(super) async fn attempt_after_release(&self, request: Acquire) -> Result<Acquired, BackendError> {
        match self.stand_back(&request) {
            Some(look_again) => Ok(Acquired::Waiting(Waiting { look_again, position: None, holder: None })),
            None => self.attempt(request).await,
        }
    }

    fn stand_back(&self, request: &Acquire) -> Option<Duration> {
        self.book.lock().turns.stand_back(&request.key, std::time::Instant::now()).filter(|_| request.fair)
    }

    fn turn(&self, asking: &mut Asking<'_>, round: u32) -> Result<Turn, BackendError> {
        match self.turn_in_directory(asking, round)? {
            // Somebody removed the directory: it is made anew, once.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget_directory();
                self.turn_in_directory(asking, 0)?.map_err(|error| self.failed(error))
            }
            other => other.map_err(|error| self.failed(error)),
        }
    }

    fn turn_in_directory(&self, asking: &mut Asking<'_>, round: u32) -> Result<io::Result<Turn>, BackendError> {
        let directory = self.directory()?;
        let path = asking.path.get_or_insert_with(|| self.path(&directory, &asking.request.key));
        Ok(self.step(&directory, path, asking.request, round))
    }

    fn step(&self, directory: &Path, path: &Path, request: &Acquire, round: u32) -> io::Result<Turn> {
        let id = (Arc::clone(&request.key), request.owner);
        let mut book = self.book.lock();
        if book.closed {
            return Err(io::Error::other("the backend is closed"));
        }
        let mut place = None;
        let mut locked = None;
        match book.attempts.remove(&id) {
            Some(Attempt::Held(mut holding)) if holding.is_at(path)? => {
                holding.show_deadline(self.context.clock.now() + request.ttl);
                let grant = Grant { token: holding.token, ttl: request.ttl, age: Duration::ZERO };
                book.attempts.insert(id, Attempt::Held(holding));
                return Ok(Turn::Answer(Acquired::Granted(grant)));
            }
            Some(Attempt::Locked(file)) => locked = Some(file),
            Some(Attempt::Waiting(waiting)) => place = Some(waiting),
            None if round > 0 => return Err(io::Error::other("the attempt was given up")),
            // Taken away or never asked: a new grant begins.
            Some(Attempt::Held(_)) | None => {}
        }
        let notify = request.enqueue.then(|| self.notify(request));
        loop {
            let file = match locked.take() {
                Some(file) => file,
                None => match seek(path, place.take(), notify.as_ref())? {
                    Some(Found::Locked(file)) => file,
                    Some(Found::Blocked(blocked)) => return self.blocked(&mut book, (directory, path), blocked, request, round),
                    None => return Err(io::Error::new(io::ErrorKind::ResourceBusy, "the lock file keeps vanishing")),
                },
            };
            let raised = Slot::lock(directory, self.slot(request)).and_then(|slot| match slot {
                Some(slot) => slot.raise(request.floor, self.context.clock.wall()).map(|token| Some((slot, token))),
                None => Ok(None),
            });
            let Some((_until_it_is_held, token)) = raised.inspect_err(|_| drop(give_up(path, &file)))? else {
                book.attempts.insert(id, Attempt::Locked(file));
                return Ok(Turn::Pause);
            };
            if let Some(holding) = Holding::begin(path, file, self.record(request, token), &mut book.turns)? {
                book.attempts.insert(id, Attempt::Held(holding));
                return Ok(Turn::Answer(Acquired::Granted(Grant { token, ttl: request.ttl, age: Duration::ZERO })));
            }
        }
    }

    /// The lock is somebody else's. A few more tries are worth while if that somebody is dead, or is about to say who it is.
    fn blocked(
        &self,
        book: &mut Book,
        (directory, path): (&Path, &Path),
        place: Place,
        request: &Acquire,
        round: u32,
    ) -> io::Result<Turn> {
        let id = (Arc::clone(&request.key), request.owner);
        let record = Record::decode(&place.file.read()?);
        if round < TRIES && record.as_ref().is_some_and(|record| locks::is_left_behind(record, self.process)) {
            // Freed, or somebody is about to change it: look again in either case.
            left_behind::free(directory, self.slot(request), path, self.process)?;
            book.attempts.insert(id, Attempt::Waiting(place));
            return Ok(Turn::Pause);
        }
        let passing = place.take_closed() || round > 0 || record.as_ref().is_none_or(|record| !locks::is_running(record.pid));
        let watched = place.watch.is_some();
        if passing && round < TRIES {
            book.attempts.insert(id, Attempt::Waiting(place));
            return Ok(Turn::Pause);
        }
        if request.enqueue {
            book.attempts.insert(id, Attempt::Waiting(place));
        }
        let holder: Option<Holder> = record.map(|record| record.holder(self.context.clock.now()));
        let look_again = if watched { BACKSTOP } else { POLL };
        Ok(Turn::Answer(Acquired::Waiting(Waiting { look_again, position: None, holder })))
    }

    fn slot(&self, request: &Acquire) -> u8 {
        names::slot(&self.context.namespace, &request.key)
    }

    fn record(&self, request: &Acquire, token: Token) -> Record {
        Record {
            passed: 0,
            shown: 0,
            owner: request.owner.to_string(),
            token,
            pid: self.process.pid,
            started: self.process.started,
            boot: self.process.boot,
            pid_namespace: self.process.pid_namespace,
            time_namespace: self.process.time_namespace,
            namespace: (&*self.context.namespace).into(),
            key: (&*request.key).into(),
            note: (&*request.note).into(),
            deadline: self.context.clock.now() + request.ttl,
        }
    }

    fn notify(&self, request: &Acquire) -> Notify {
        let on_hint = Arc::clone(&self.context.on_hint);
        let (key, owner) = (Arc::clone(&request.key), request.owner);
        Arc::new(move || on_hint(Hint::Key(Arc::clone(&key), Some(owner))))
    }
}

/// An attempt without an answer yet. Dropped so, it leaves nothing behind.
struct Asking<'a> {
    local: &'a Local,
    request: &'a Acquire,
    /// The lock file; `None` before the first turn and after the answer.
    path: Option<PathBuf>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        if self.local.check_process().is_ok() {
            let _ = self.local.book.lock().leave(&self.request.key, self.request.owner, &path);
        }
    }
}
