//! A lock: a reusable handle, a key with its options.

mod reentry;
mod settings;
mod with;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::caller::Caller;
use crate::client::Client;
use crate::driver::Reader;
use crate::engine::attempt::Attempt;
use crate::engine::call::Call;
use crate::engine::lease_state::Status;
use crate::engine::pending_calls::stopped;
use crate::engine::session::Session;
use crate::engine::shared_client::Target;
use crate::error::{Error, Result};
use crate::lease::{Lease, Outstanding};
use crate::options::{LockOptions, check_key, check_wait};
use crate::process::Bound;

use reentry::{Entered, Taker};

/// A reusable lock: a key and options, made by [`Client::lock`].
///
/// A lock is no lease: several tasks may share one, and each acquire gets a lease of its own, one after the other. The lock keeps
/// its leases until they are released, lost ones included.
///
/// # Which call should you use?
///
/// [`Lock::with`] for a piece of work, [`Lock::acquire`] when a lease must outlive a scope, [`Lock::try_acquire`] when it is just
/// as well if somebody else does the work.
#[derive(Clone)]
pub struct Lock {
    client: Client,
    key: Arc<str>,
    /// Shared by clones, and by attempts that are under way.
    options: Arc<LockOptions>,
    /// Key and options were checked against this target and need no second check.
    checked: Arc<Mutex<Option<Arc<Target>>>>,
    outstanding: Arc<Outstanding>,
    /// The leases of a reentrant lock.
    entered: Option<Arc<Entered>>,
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("key", &self.key).field("options", &self.options).finish_non_exhaustive()
    }
}

impl Client {
    /// A lock for `key` with default options; [`Lock`]'s methods change them.
    pub fn lock(&self, key: &str) -> Lock {
        self.lock_with(key, LockOptions::default())
    }

    /// A lock for `key` with these options. [`Lock::validate`] checks them, and so does every acquire.
    pub fn lock_with(&self, key: &str, options: LockOptions) -> Lock {
        Lock::new(self.clone(), key, options)
    }

    /// Runs `work` while holding `key`; see [`Lock::with`].
    ///
    /// # Errors
    /// As [`Lock::with`].
    ///
    /// # Cancel safety
    /// As [`Lock::with`].
    pub async fn with_lock<T, F, W>(&self, key: &str, work: F) -> Result<T>
    where
        F: FnOnce(Lease) -> W,
        W: Future<Output = T>,
    {
        self.lock(key).with(work).await
    }
}

impl Lock {
    pub(crate) fn new(client: Client, key: &str, options: LockOptions) -> Self {
        let entered = options.reentrant.then(Arc::default);
        let (checked, outstanding) = Default::default();
        Self { client, key: key.into(), options: Arc::new(options), checked, outstanding, entered }
    }

    /// The key.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// The options.
    pub fn options(&self) -> &LockOptions {
        &self.options
    }

    /// The client that made this lock.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Checks key and options against what the backend can do, without any I/O. Every acquire does it first.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] naming the field, its value and the allowed range.
    pub fn validate(&self) -> Result<()> {
        self.validate_for(&self.client.target(), self.options.wait)
    }

    /// Checks everything the first time, and after that only what an acquire can set.
    fn validate_for(&self, target: &Arc<Target>, wait: Option<Duration>) -> Result<()> {
        let unit = target.options.unit;
        // Never waits: in a forked child, a thread that does not exist there may hold this mutex.
        let is_same = |checked: &Option<Arc<Target>>| checked.as_ref().is_some_and(|checked| Arc::ptr_eq(checked, target));
        if self.checked.try_lock().is_some_and(|checked| is_same(&checked)) {
            return check_wait(wait, unit);
        }
        check_key(&self.key, target.capabilities())?;
        self.options.validate_with(wait, unit, target.capabilities())?;
        if let Some(mut checked) = self.checked.try_lock() {
            *checked = Some(target.clone());
        }
        Ok(())
    }

    /// Waits for the key and returns the lease.
    ///
    /// # Errors
    /// [`Error::AcquireTimeout`] when `wait` is over, [`Error::LockBusy`] when it is zero and the key is held,
    /// [`Error::RetriesExhausted`] when the attempts of `retry` are used up, [`Error::BackendUnavailable`] when the backend failed for
    /// `connect_timeout`, or was failing when `wait` ended, [`Error::BackendRefused`], [`Error::InvalidOptions`],
    /// [`Error::ClientClosed`], [`Error::Forked`].
    ///
    /// # Cancel safety
    /// May be dropped at any time: a grant that is under way is released.
    pub async fn acquire(&self) -> Result<Lease> {
        self.acquire_within(self.options.wait).await
    }

    /// [`Lock::acquire`] with another `wait`: `None` waits for ever, zero tries once.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub async fn acquire_within(&self, wait: Option<Duration>) -> Result<Lease> {
        let caller = Caller::current();
        self.acquire_as(wait, caller.clone(), caller).await
    }

    async fn acquire_as(&self, wait: Option<Duration>, caller: Caller, holder: Caller) -> Result<Lease> {
        let Some(entered) = &self.entered else { return self.join_as(wait, caller, holder).await };
        let taker = Taker::current()?;
        if let Some(lease) = entered.again(taker) {
            return Ok(lease);
        }
        let lease = self.join_as(wait, caller, holder).await?;
        entered.remember(taker, &lease);
        Ok(lease)
    }

    /// [`Lock::acquire_within`] that joins the local line now, not when it is first polled: for callers that hand the waiting to
    /// another thread and want to be served in the order of their calls. Callers behind it wait until it is polled or dropped.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub fn join(&self, wait: Option<Duration>) -> impl Future<Output = Result<Lease>> + Send + use<> {
        let caller = Caller::current();
        self.join_as(wait, caller.clone(), caller)
    }

    fn join_as(
        &self,
        wait: Option<Duration>,
        caller: Caller,
        holder: Caller,
    ) -> impl Future<Output = Result<Lease>> + Send + use<> {
        let lock = self.clone();
        let joined = lock.begin(wait, caller, holder);
        async move {
            let (session, attempt) = joined?;
            let (engine, reader) = {
                let session = session.get()?;
                (session.engine.clone(), reader_of(session, &attempt, || session.engine.reader()))
            };
            // Boxed because it is large and would be moved as a whole with every future around it.
            let granted = Box::pin(lease(session, attempt, lock.outstanding.clone()));
            let lease = engine.run_here(reader, granted).await??;
            // Kept only once the caller has it: a lock must not keep a lease that no caller received.
            remember(&lock.outstanding, lease.clone());
            Ok(lease)
        }
    }

    /// [`Lock::acquire_within`] for callers that wait elsewhere: joins the local line now and calls `then`, once, with the outcome: on the
    /// engine, or on this thread before this returns. Aborting the call before that releases whatever is under way.
    ///
    /// # Errors
    /// Those of [`Lock::acquire`] that are known at once; then `then` is not called.
    pub fn acquire_then(&self, wait: Option<Duration>, then: impl FnOnce(Result<Lease>) + Send + 'static) -> Result<Call> {
        let caller = Caller::current();
        self.go_on(self.begin(wait, caller.clone(), caller)?, Reader::Never, then)
    }

    /// [`Lock::acquire_then`] for bindings, which name the caller and the `holder` (the caller itself or a body of it), and warn of
    /// self-waits themselves. A caller that can wait for a socket, in the way of `reader`, may drive the call.
    ///
    /// # Errors
    /// As [`Lock::acquire_then`].
    pub fn acquire_for(
        &self,
        caller: Caller,
        holder: Caller,
        wait: Option<Duration>,
        reader: Reader,
        then: impl FnOnce(Result<Lease>) + Send + 'static,
    ) -> Result<Call> {
        let (session, mut attempt) = self.begin(wait, caller, holder)?;
        attempt.warns = false;
        self.go_on((session, attempt), reader, then)
    }

    fn go_on(
        &self,
        (session, attempt): (Bound<Session>, Box<Attempt>),
        reader: Reader,
        then: impl FnOnce(Result<Lease>) + Send + 'static,
    ) -> Result<Call> {
        let (engine, reader) = {
            let session = session.get()?;
            (session.engine.clone(), reader_of(session, &attempt, || Some(reader)))
        };
        let outstanding = self.outstanding.clone();
        // Boxed as in `join_as`.
        let granted = Box::pin(lease(session, attempt, outstanding.clone()));
        let remembered = move |lease: Result<Lease>| {
            if let Ok(lease) = &lease {
                remember(&outstanding, lease.clone());
            }
            // Dropped before the caller learns the outcome: from then on only the lock's own handles count.
            drop(outstanding);
            then(lease);
        };
        Ok(match reader {
            Some(reader) => engine.call_here(reader, granted, remembered),
            None => engine.call(granted, remembered),
        })
    }

    /// Whether this client holds the key for an ancestor of the caller. True once for each lease, for bindings that warn.
    pub fn is_held_by_starter_of(&self, caller: &Caller) -> bool {
        self.client.session_in_use().is_some_and(|session| session.is_held_by_starter(&self.key, caller))
    }

    fn begin(&self, wait: Option<Duration>, caller: Caller, holder: Caller) -> Result<(Bound<Session>, Box<Attempt>)> {
        let (target, session) = self.client.target_and_session();
        self.validate_for(&target, wait)?;
        let session = if let Some(session) = session {
            session
        } else {
            // The first operation decides where the locks are, and what is allowed there.
            let session = self.client.bound("acquire")?;
            self.validate_for(&self.client.target(), wait)?;
            session
        };
        let this = session.get()?;
        let begin = || this.attempt(self.key.clone(), self.options.clone(), wait, caller, holder);
        let attempt = this.engine.waking(begin).ok_or_else(stopped)?;
        Ok((session, attempt))
    }

    /// Tries once; `None` if somebody else holds the key.
    ///
    /// # Errors
    /// As [`Lock::acquire`], but for the key being held.
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub async fn try_acquire(&self) -> Result<Option<Lease>> {
        match self.acquire_within(Some(Duration::ZERO)).await {
            Ok(lease) => Ok(Some(lease)),
            Err(Error::LockBusy { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Releases the one lease of this lock; see [`Lease::release`].
    ///
    /// # Errors
    /// [`Error::NotHeld`] if there is none, [`Error::Ambiguous`] if there are several.
    ///
    /// # Cancel safety
    /// As [`Lease::release`].
    pub async fn release(&self) -> Result<bool> {
        self.only_lease("release")?.release().await
    }

    /// The one lease that was acquired and not released yet.
    ///
    /// # Errors
    /// [`Error::NotHeld`] if there is none, [`Error::Ambiguous`] if there are several.
    pub fn only_lease(&self, operation: &'static str) -> Result<Lease> {
        match self.outstanding.lock().as_slice() {
            [] => Err(Error::NotHeld { key: self.key.clone(), operation }),
            [lease] => Ok(lease.clone()),
            several => Err(Error::Ambiguous { key: self.key.clone(), operation, leases: several.len() }),
        }
    }

    /// Whether anybody holds the key.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`].
    pub async fn is_locked(&self) -> Result<bool> {
        self.client.is_locked(&self.key).await
    }

    /// The discarded leases that are still held: only this lock keeps them, and dropping it releases them.
    pub fn forgotten(&self) -> Vec<(Arc<str>, u64)> {
        if Arc::strong_count(&self.outstanding) > 1 {
            return Vec::new();
        }
        let outstanding = self.outstanding.lock();
        outstanding.iter().filter(|lease| lease.is_last_handle()).map(|lease| (lease.key().clone(), lease.token())).collect()
    }
}

/// The reader, if a caller with it should poll the attempt itself: not behind others in the local line, nor before a release that the engine has.
fn reader_of(session: &Session, attempt: &Attempt, reader: impl FnOnce() -> Option<Reader>) -> Option<Reader> {
    if attempt.is_behind() || session.has_left_to_engine() { None } else { session.served_here(reader) }
}

/// Carries an attempt through until the key is granted.
async fn lease(session: Bound<Session>, attempt: Box<Attempt>, outstanding: Arc<Outstanding>) -> Result<Lease> {
    let record = session.get()?.clone().acquire(attempt).await?;
    Ok(Lease::new(record, session, &outstanding))
}

/// Keeps a lease; drops those that have ended and that no caller can ask about any more.
fn remember(outstanding: &Outstanding, lease: Lease) {
    let mut all = outstanding.lock();
    let ended: Vec<_> = all.extract_if(.., |lease| lease.status() != Status::Held && lease.is_discarded()).collect();
    all.push(lease);
    drop(all);
    // Dropped last: the last handle of a lease that has run out may report the loss, to a callback that asks for this lock.
    drop(ended);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::runtime::Handle;

    use super::*;
    use crate::clock::ManualClock;
    use crate::engine::environment::Environment;
    use crate::options::ClientOptions;

    #[tokio::test]
    async fn r05_a_try_that_overtakes_the_release_of_its_own_program_waits_for_it() {
        let plan = crate::backend::parse("memory:", "dlock", Duration::from_secs(1)).unwrap();
        let environment = Environment { engine: Some(Handle::current()), ..Environment::at(plan, Arc::new(ManualClock::new())) };
        let client = Client::in_environment(ClientOptions::default(), environment).unwrap();
        drop(client.lock("a").acquire().await.unwrap());
        // Polled on this thread, which has not let the engine run the release yet.
        let lock = client.lock("a");
        let (session, attempt) = lock.begin(Some(Duration::ZERO), Caller::nobody(), Caller::nobody()).unwrap();
        assert!(session.get().unwrap().has_left_to_engine(), "the release is over already");
        session.get().unwrap().clone().acquire(attempt).await.expect("granted once the release was answered");
    }

    #[tokio::test]
    async fn a_callback_for_a_loss_may_ask_for_the_lock() {
        let clock = ManualClock::new();
        // On this thread, so that the engine notices nothing before the next await.
        let plan = crate::backend::parse("memory:", "dlock", Duration::from_secs(1)).unwrap();
        let environment = Environment { engine: Some(Handle::current()), ..Environment::at(plan, Arc::new(clock.clone())) };
        let client = Client::in_environment(ClientOptions::default(), environment).unwrap();
        let lock = client.lock("a").renew(false).ttl(Duration::from_secs(10));
        let lease = lock.acquire().await.unwrap();
        let next = client.lock("b").acquire().await.unwrap();
        let (outstanding, called) = (lock.outstanding.clone(), Arc::new(AtomicBool::new(false)));
        let noted = called.clone();
        lease.on_lost(move |_| noted.store(!outstanding.is_locked(), Ordering::Relaxed));
        drop(lease);
        clock.advance(Duration::from_secs(10));
        remember(&lock.outstanding, next);
        assert!(called.load(Ordering::Relaxed), "not called, or while the lock's leases are locked");
    }
}
