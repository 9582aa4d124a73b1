//! From asking for a key to holding it.
//!
//! An attempt is a small state machine ([`LocalAttempt`]). Each step makes short system calls while the client's attempts are locked. Between
//! two steps an attempt may pause, and then a leave may end it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant as Timer;

use super::attempts::{LocalAttempt, LocalAttempts, unlock_ungranted};
use super::hub::Notify;
use super::lock_file::{Found, HeldLock, LockFile, seek};
use super::record::HolderRecord;
use super::state::Local;
use super::tokens::TokenSlot;
use super::{left_behind, locks, names, process};
use crate::backend::{Acquire, Acquired, Grant, Hint, Waiting};
use crate::error::{BackendError, Failure};
use crate::fencing::Token;

/// When a waiter looks again without a notification.
///
/// No event reports a holder that died while a child, forked past our hooks, keeps its file open.
const BACKSTOP: Duration = Duration::from_millis(500);

/// When a waiter looks again where it cannot watch the file.
const POLL: Duration = Duration::from_millis(20);

/// A pause between two steps yields to other tasks this often, then it sleeps.
const YIELDS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(1);

/// How often a lock is tried that should be free in a moment.
const TRIES: u32 = 12;

/// The result of one step.
enum StepResult {
    Answer(Acquired),
    /// The next step is worth trying in a moment.
    Pause,
}

impl Local {
    /// Asks for a key until there is an answer.
    pub(super) async fn attempt(&self, request: Acquire) -> Result<Acquired, BackendError> {
        let deadline = Timer::now() + request.timeout;
        if let Some(stand_back) = self.stand_back(&request) {
            tokio::time::sleep(stand_back.min(request.timeout)).await;
        }
        let mut unanswered = UnansweredAcquire { local: self, request: &request, path: None };
        for round in 0.. {
            match self.step(&mut unanswered, round)? {
                StepResult::Answer(answer) => {
                    unanswered.path = None;
                    return Ok(answer);
                }
                StepResult::Pause if Timer::now() >= deadline => break,
                StepResult::Pause if round < YIELDS => tokio::task::yield_now().await,
                StepResult::Pause => tokio::time::sleep(PAUSE).await,
            }
        }
        Err(BackendError::new(Failure::NotSent, "local: another process keeps the key's token slot busy"))
    }

    /// Asks on behalf of the waiter that a release hands over to. Where this client should stand back, the waiter asks again later, so that
    /// the release need not wait.
    pub(super) async fn attempt_after_release(&self, request: Acquire) -> Result<Acquired, BackendError> {
        match self.stand_back(&request) {
            Some(look_again) => Ok(Acquired::Waiting(Waiting { look_again, position: None, holder: None })),
            None => self.attempt(request).await,
        }
    }

    /// How long this client leaves the key to others first.
    fn stand_back(&self, request: &Acquire) -> Option<Duration> {
        let attempts = self.attempts.lock();
        attempts.recent_holds.stand_back(&request.key, std::time::Instant::now()).filter(|_| request.fair)
    }

    fn step(&self, unanswered: &mut UnansweredAcquire<'_>, round: u32) -> Result<StepResult, BackendError> {
        match self.step_in_directory(unanswered, round)? {
            // Somebody removed the directory: it is made anew, once.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget_directory();
                self.step_in_directory(unanswered, 0)?.map_err(|error| self.failed(error))
            }
            other => other.map_err(|error| self.failed(error)),
        }
    }

    fn step_in_directory(
        &self,
        unanswered: &mut UnansweredAcquire<'_>,
        round: u32,
    ) -> Result<io::Result<StepResult>, BackendError> {
        let directory = self.directory()?;
        let path = unanswered.path.get_or_insert_with(|| self.path(&directory, &unanswered.request.key));
        Ok(self.step_at(&directory, path, unanswered.request, round))
    }

    fn step_at(&self, directory: &Path, path: &Path, request: &Acquire, round: u32) -> io::Result<StepResult> {
        let id = (Arc::clone(&request.key), request.owner);
        let mut attempts = self.attempts.lock();
        if attempts.is_closed() {
            return Err(io::Error::other("the backend is closed"));
        }
        let mut waited_for = None;
        let mut locked = None;
        match attempts.take(&id) {
            Some(LocalAttempt::Held(mut lock)) if lock.is_at(path)? => {
                lock.show_deadline(self.context.clock.now() + request.ttl);
                let grant = Grant { token: lock.token, ttl: request.ttl, age: Duration::ZERO };
                attempts.put(id, LocalAttempt::Held(lock));
                return Ok(StepResult::Answer(Acquired::Granted(grant)));
            }
            Some(LocalAttempt::Locked(file)) => locked = Some(file),
            Some(LocalAttempt::Waiting(file)) => waited_for = Some(file),
            None if round > 0 => return Err(io::Error::other("the attempt was given up")),
            // The key was taken away, or this is the first request: a new grant begins.
            Some(LocalAttempt::Held(_)) | None => {}
        }
        let notify = request.enqueue.then(|| self.notify(request));
        loop {
            let file = match locked.take() {
                Some(file) => file,
                None => match seek(path, waited_for.take(), notify.as_ref())? {
                    Some(Found::Locked(file)) => file,
                    Some(Found::Blocked(file)) => return self.blocked(&mut attempts, (directory, path), file, request, round),
                    None => return Err(io::Error::new(io::ErrorKind::ResourceBusy, "the lock file keeps vanishing")),
                },
            };
            let raised = TokenSlot::lock(directory, self.slot(request)).and_then(|slot| match slot {
                Some(slot) => slot.raise(request.floor, self.context.clock.wall()).map(|token| Some((slot, token))),
                None => Ok(None),
            });
            let raised = raised.inspect_err(|_| drop(unlock_ungranted(path, &file)))?;
            let Some((_slot_until_held, token)) = raised else {
                attempts.put(id, LocalAttempt::Locked(file));
                return Ok(StepResult::Pause);
            };
            let held = HeldLock::begin(path, file, self.record(request, token), &mut attempts.recent_holds)?;
            if let Some(lock) = held {
                attempts.put(id, LocalAttempt::Held(lock));
                return Ok(StepResult::Answer(Acquired::Granted(Grant { token, ttl: request.ttl, age: Duration::ZERO })));
            }
        }
    }

    /// Somebody else has the lock. A few more tries are worthwhile if that holder is dead, or has yet to write its record.
    fn blocked(
        &self,
        attempts: &mut LocalAttempts,
        (directory, path): (&Path, &Path),
        file: LockFile,
        request: &Acquire,
        round: u32,
    ) -> io::Result<StepResult> {
        let id = (Arc::clone(&request.key), request.owner);
        let record = HolderRecord::decode(&file.descriptor.read()?);
        if round < TRIES && record.as_ref().is_some_and(|record| locks::is_left_behind(record, self.process)) {
            // The file is free now, or another process is about to change it: in either case the next step looks again.
            left_behind::free(directory, self.slot(request), path, self.process)?;
            attempts.put(id, LocalAttempt::Waiting(file));
            return Ok(StepResult::Pause);
        }
        let is_passing =
            file.take_writer_closed() || round > 0 || record.as_ref().is_none_or(|record| !process::is_running(record.pid));
        let is_watched = file.watch.is_some();
        if is_passing && round < TRIES {
            attempts.put(id, LocalAttempt::Waiting(file));
            return Ok(StepResult::Pause);
        }
        if request.enqueue {
            attempts.put(id, LocalAttempt::Waiting(file));
        }
        let holder = record.map(|record| record.holder(self.context.clock.now()));
        let look_again = if is_watched { BACKSTOP } else { POLL };
        Ok(StepResult::Answer(Acquired::Waiting(Waiting { look_again, position: None, holder })))
    }

    fn slot(&self, request: &Acquire) -> u8 {
        names::slot(&self.context.namespace, &request.key)
    }

    fn record(&self, request: &Acquire, token: Token) -> HolderRecord {
        HolderRecord {
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

/// An attempt without an answer yet. When it is dropped unanswered, it leaves nothing behind.
struct UnansweredAcquire<'a> {
    local: &'a Local,
    request: &'a Acquire,
    /// The lock file; `None` before the first step and after the answer.
    path: Option<PathBuf>,
}

impl Drop for UnansweredAcquire<'_> {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        if self.local.check_process().is_ok() {
            let _ = self.local.attempts.lock().leave(&self.request.key, self.request.owner, &path);
        }
    }
}
