//! A lease: what a holder has.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::caller::Caller;
use crate::clock::Instant;
use crate::driver::Reader;
use crate::engine::call::Call;
use crate::engine::lease_record::LeaseRecord;
use crate::engine::lease_state::{LeaseState, Status};
use crate::engine::session::Session;
use crate::error::{Error, LossReason, Result};
use crate::observe::logs::target;
use crate::options::check_ttl;
use crate::owner::OwnerId;
use crate::process::Bound;

/// One grant of a lock.
///
/// Cloning gives another handle of the same lease. When the last handle is dropped while the lease is held, the engine releases it
/// and logs a warning: a dropped lease is not renewed for ever. The [`Lock`](crate::Lock) that acquired it keeps a handle as
/// well.
#[derive(Clone)]
pub struct Lease {
    handle: Arc<Handle>,
}

/// How many heartbeats a holder sends within `max_stall`.
const HEARTBEATS: u32 = 4;

pub(crate) type Outstanding = Mutex<Vec<Lease>>;

pub(crate) struct Handle {
    record: Arc<LeaseRecord>,
    session: Bound<Session>,
    /// How many releases come before the one that gives up the key.
    entered: AtomicU32,
    /// The lock that keeps this lease until it is released.
    lock: Weak<Outstanding>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("key", &self.key()).field("token", &self.token()).field("status", &self.status()).finish()
    }
}

impl From<Arc<Handle>> for Lease {
    fn from(handle: Arc<Handle>) -> Self {
        Self { handle }
    }
}

impl Handle {
    pub(crate) fn has_ended(&self) -> bool {
        self.record.status() != Status::Held
    }
}

impl Lease {
    pub(crate) fn new(record: Arc<LeaseRecord>, session: Bound<Session>, lock: &Arc<Outstanding>) -> Self {
        let handle = Arc::new(Handle { record, session, entered: AtomicU32::new(0), lock: Arc::downgrade(lock) });
        let (handles, lock) = (Arc::downgrade(&handle), Arc::downgrade(lock));
        handle.record.handled_by(handles, lock);
        Self { handle }
    }

    fn record(&self) -> &Arc<LeaseRecord> {
        &self.handle.record
    }

    /// The key that was granted.
    pub fn key(&self) -> &Arc<str> {
        &self.record().key
    }

    /// The fencing token: greater than every token granted for this key before. Pass it to the protected resource.
    pub fn token(&self) -> u64 {
        self.record().token
    }

    /// The owner id of the attempt that was granted, as other processes see it.
    pub fn owner(&self) -> String {
        self.record().owner.to_string()
    }

    /// The owner id in its parts: all leases of a client have the same session.
    pub fn owner_id(&self) -> OwnerId {
        self.record().owner
    }

    /// Who holds it. For bindings, which pass it on to name the caller of further acquires.
    pub fn holder(&self) -> Caller {
        self.record().holder.clone()
    }

    /// The lease time of the latest grant or extension.
    pub fn ttl(&self) -> Duration {
        self.record().read(LeaseState::ttl)
    }

    /// For how long the engine still vouches for the lease; zero once it is not valid.
    pub fn remaining(&self) -> Duration {
        if !self.is_valid() {
            return Duration::ZERO;
        }
        self.valid_until().since(self.record().now())
    }

    /// The end of the lease as it stands, on the engine's clock. Renewal moves it.
    pub fn valid_until(&self) -> Instant {
        self.record().read(LeaseState::valid_until)
    }

    /// Whether the holder may rely on the lease now. This reads the clock and is no flag: after a pause that outlived the lease it
    /// is false at once. Always false in a forked child.
    pub fn is_valid(&self) -> bool {
        self.handle.session.get().is_ok() && self.record().is_valid()
    }

    /// How the lease stands. A lease that has run out is lost, also if nobody has noticed yet.
    pub fn status(&self) -> Status {
        match self.record().status() {
            Status::Held => {
                let now = self.record().now();
                self.record().read(|state| state.run_out(now)).map_or(Status::Held, Status::Lost)
            }
            status => status,
        }
    }

    /// Wall time of the grant, for display.
    pub fn acquired_at(&self) -> SystemTime {
        self.record().acquired_at
    }

    /// Wall time up to which the engine vouches for the lease, for display.
    pub fn expires_at(&self) -> SystemTime {
        self.record().wall() + self.remaining()
    }

    /// An error if the holder must not go on.
    ///
    /// # Errors
    /// [`Error::LockLost`] if the lease was lost, [`Error::NotHeld`] if it was released, [`Error::Forked`] in a child process.
    pub fn check(&self) -> Result<()> {
        self.handle.session.get()?;
        match self.status() {
            Status::Held => Ok(()),
            Status::Lost(reason) => Err(Error::LockLost { key: self.key().clone(), token: self.token(), reason }),
            _ => Err(Error::NotHeld { key: self.key().clone(), operation: "check" }),
        }
    }

    /// Resolves when the lease is lost. Never resolves for a lease that is released.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn lost(&self) -> LossReason {
        match self.record().until(|status| matches!(status, Status::Lost(_))).await {
            Status::Lost(reason) => reason,
            _ => std::future::pending().await,
        }
    }

    /// Calls `callback` once when the lease is lost, on an engine thread or on the thread that releases a lease which has run out; at
    /// once if it is lost already. Replaces an earlier callback.
    pub fn on_lost(&self, callback: impl FnOnce(LossReason) + Send + 'static) {
        self.record().when_lost(Box::new(move |status| {
            if let Status::Lost(reason) = status {
                callback(reason);
            }
        }));
    }

    /// Enters the lease once more: from here on it takes one release more to give up the key. False if the lease is no longer
    /// valid.
    ///
    /// Reentrant locks are made of this. A loss ends the lease however often it was entered.
    pub fn enter(&self) -> bool {
        let entered = self.is_valid();
        if entered {
            self.handle.entered.fetch_add(1, Ordering::Relaxed);
        }
        entered
    }

    /// Undoes one entry. False if there was none: then the key is to be released.
    fn undo_entry(&self) -> bool {
        let entered = &self.handle.entered;
        // Almost no lease is entered again, so a plain read comes first.
        entered.load(Ordering::Relaxed) > 0
            && entered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |entered| entered.checked_sub(1)).is_ok()
    }

    /// Sets the life of the lease: `ttl` from now, and for later renewals.
    ///
    /// # Errors
    /// [`Error::LockLost`] or [`Error::NotHeld`] if the lease has ended, [`Error::InvalidOptions`] for a `ttl` that the backend does not
    /// take, [`Error::BackendUnavailable`] if no answer came: then the lease counts as shortened, but not as extended.
    ///
    /// # Cancel safety
    /// The extension goes on when the future is dropped.
    pub async fn extend(&self, ttl: Duration) -> Result<()> {
        let session = self.handle.session.get()?.clone();
        check_ttl(ttl, session.options.unit, session.backend.capabilities())?;
        self.check_before("extend")?;
        let (task, record) = (session.clone(), self.record().clone());
        let extension = session.tasks.track_future(async move { task.renewals.extend(&record, ttl).await });
        // It goes on if nobody waits for it.
        match session.engine.finish(extension).await? {
            Ok(Ok(())) => self.check_before("extend"),
            Ok(Err(error)) => Err(session.unavailable("extend", Some(self.key().clone()), error)),
            Err(_) => Err(Error::ClientClosed { operation: "extend" }),
        }
    }

    fn check_before(&self, operation: &'static str) -> Result<()> {
        self.check().map_err(|error| match error {
            Error::NotHeld { key, .. } => Error::NotHeld { key, operation },
            error => error,
        })
    }

    /// Switches automatic renewal on or off while the lease is held.
    pub fn auto_renew(&self, renew: bool) {
        self.record().set_renew(renew);
        if let Ok(session) = self.handle.session.get() {
            session.engine.waking(|| session.renewals.schedule(self.record()));
        }
    }

    /// A heartbeat: with the option `max_stall`, the lease ends when none came for that long. False once the lease has ended.
    ///
    /// [`Lock::with`](crate::Lock::with) sends heartbeats while the task that awaits it is polled, asyncio and Node by a timer of
    /// their event loops. Any other holder calls this.
    pub fn heartbeat(&self) -> bool {
        let heard = |session: &Arc<Session>| session.engine.waking(|| session.heartbeat(self.record()));
        self.handle.session.get().is_ok_and(|session| heard(session).unwrap_or(false))
    }

    /// How often to call [`Lease::heartbeat`]: several times within `max_stall`, so that one late call costs nothing. `None` without `max_stall`.
    pub fn heartbeat_every(&self) -> Option<Duration> {
        self.record().read(LeaseState::max_stall).map(|max_stall| max_stall / HEARTBEATS)
    }

    /// Checks a grant that reaches its caller across threads or event loops. An error if the lease has ended on the way, so that no
    /// caller begins to work without it; a lease that ran out unnoticed is then released and reported as lost.
    ///
    /// # Errors
    /// As [`Lease::check`].
    pub fn claim(&self) -> Result<()> {
        let claimed = self.check();
        if let Err(Error::LockLost { .. }) = claimed {
            self.begin_release()?;
        }
        claimed
    }

    /// Copies of the open files that hold the key, for a child process that must not outlive its lock: while the child has them
    /// open, the death of this process does not free the key. They are close-on-exec; drop them once the child has its own.
    /// Releasing the lease frees the key all the same.
    ///
    /// Empty on backends that hold keys by other means.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child process, [`Error::BackendUnavailable`] if no descriptor is left.
    pub fn lock_files(&self) -> Result<Vec<OwnedFd>> {
        let session = self.handle.session.get()?;
        let files = session.backend.lock_files(self.key(), self.record().owner);
        files.map_err(|source| session.unavailable("lock_files", Some(self.key().clone()), source))
    }

    /// Releases the key. True if the backend confirmed it; if not, [`Lease::status`] says how the lease stands, and the engine goes
    /// on trying until the lease would have run out. Waits at most `op_timeout`.
    ///
    /// On a lease that was entered again, this undoes one entry and returns true while the lease is still held.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child process. A failing backend is no error here.
    ///
    /// # Cancel safety
    /// The release goes on when the future is dropped.
    pub async fn release(&self) -> Result<bool> {
        let session = self.handle.session.get()?.clone();
        if self.undo_entry() {
            return Ok(self.is_valid());
        }
        let (tell, mut told) = oneshot::channel();
        let mut call = None;
        self.begin_release_with(|record| {
            let then = move |status| {
                let _ = tell.send(status);
            };
            call = session.release_then(record, || session.engine.reader(), then);
        });
        let status = match call {
            Some(call) => session.engine.drive(&call, &mut told).await,
            None => None,
        };
        let status = match status {
            Some(status) => status,
            None => told.await,
        };
        // An engine that stops drops what it was to call.
        Ok(status.unwrap_or_else(|_| self.record().status()) == Status::Released)
    }

    /// [`Lease::release`] for callers that wait elsewhere: calls `then`, once, with the status of the lease when the backend has answered
    /// or `op_timeout` is over, on the engine, or on this thread before this returns. False if this undid one of several entries: then
    /// the key is not released yet, and `then` has been called.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child process; then `then` is not called.
    pub fn release_then(&self, then: impl FnOnce(Status) + Send + 'static) -> Result<bool> {
        self.release_for(Reader::Never, then).map(|call| call.is_some())
    }

    /// [`Lease::release_then`] for bindings that can wait for a socket. `None` if this undid one of several entries; otherwise a call that
    /// may be over already, and that the caller may drive. Dropping it leaves the release to the engine.
    ///
    /// # Errors
    /// As [`Lease::release_then`].
    pub fn release_for(&self, reader: Reader, then: impl FnOnce(Status) + Send + 'static) -> Result<Option<Call>> {
        let session = self.handle.session.get()?;
        if self.undo_entry() {
            then(self.status());
            return Ok(None);
        }
        let mut call = None;
        self.begin_release_with(|record| call = session.release_then(record, || Some(reader), then));
        Ok(Some(call.unwrap_or_else(|| Call::of_task(&session.engine, None))))
    }

    /// Ends validity and renewal at once and leaves the rest to the engine, however often the lease was entered.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child process.
    pub fn begin_release(&self) -> Result<()> {
        let session = self.handle.session.get()?;
        self.begin_release_with(|record| session.release(record));
        Ok(())
    }

    fn begin_release_with(&self, release: impl FnOnce(&Arc<LeaseRecord>)) {
        release(self.record());
        if let Some(outstanding) = self.handle.lock.upgrade() {
            let kept = {
                let mut outstanding = outstanding.lock();
                let position = outstanding.iter().position(|lease| Arc::ptr_eq(&lease.handle, &self.handle));
                position.map(|position| outstanding.swap_remove(position))
            };
            // Dropped outside the lock.
            drop(kept);
        }
    }

    /// Whether this is the last handle of a lease that is still held: dropping it releases the lease with a warning.
    pub fn is_last_handle(&self) -> bool {
        Arc::strong_count(&self.handle) == 1 && self.handle.session.get().is_ok() && self.record().status() == Status::Held
    }

    /// Up to when the engine vouches for the lease, heartbeats included; `None` once it does not. It keeps no handle of the lease,
    /// for simulations.
    #[doc(hidden)]
    pub fn gauge(&self) -> impl Fn() -> Option<Instant> + Send + Sync + use<> {
        let record = self.record().clone();
        move || record.read(|state| state.is_valid(record.now()).then(|| state.ends_at()))
    }

    /// The lease without a handle of it, for callers that learn later that nobody can release it any more.
    pub fn discarded(&self) -> Discarded {
        Discarded(Arc::downgrade(&self.handle))
    }

    pub(crate) fn downgrade(&self) -> Weak<Handle> {
        Arc::downgrade(&self.handle)
    }

    /// Whether the caller has dropped every handle, so that only its lock keeps the lease.
    pub(crate) fn is_discarded(&self) -> bool {
        Arc::strong_count(&self.handle) == 1
    }
}

/// A lease whose caller has dropped its handle. The lock still keeps it, so that the caller may release the lock.
pub struct Discarded(Weak<Handle>);

impl Discarded {
    /// Whether the lease is still held.
    pub fn is_held(&self) -> bool {
        self.0.upgrade().is_some_and(|handle| !handle.has_ended())
    }

    /// To be called when the caller has ended: releases the lease if only its lock keeps it, and says which lease it was.
    pub fn release(&self) -> Option<(Arc<str>, u64)> {
        let lease = Lease { handle: self.0.upgrade()? };
        lease.handle.session.get().ok()?;
        // The lock's handle and this one.
        if Arc::strong_count(&lease.handle) > 2 || lease.handle.has_ended() {
            return None;
        }
        let released = (lease.key().clone(), lease.token());
        tracing::warn!(target: target::LEASE, key = %released.0, token = released.1, "a held lease was discarded and its caller has ended; the engine releases it");
        lease.begin_release().ok()?;
        Some(released)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The session comes first: in a forked child, a thread that does not exist there may hold the lease's own lock.
        if let Some(session) = self.session.take()
            && self.record.status() == Status::Held
        {
            tracing::warn!(target: target::LEASE, key = %self.record.key, token = self.record.token, "a held lease was dropped without release; the engine releases it");
            session.release(&self.record);
        }
    }
}
