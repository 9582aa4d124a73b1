//! A lock: a reusable handle, a key with its options.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::attempt::Attempt;
use crate::caller::Caller;
use crate::calls::stopped;
use crate::client::{Client, Target};
use crate::error::{Error, Result};
use crate::lease::{Lease, Outstanding, Scope};
use crate::lease_state::Status;
use crate::options::{LockOptions, Retry, check_key};
use crate::process::Bound;
use crate::reentry::{Entered, Taker};
use crate::runtime::Call;
use crate::session::Session;

/// How many signs of life a holder gives in the time that `max_stall` allows without one.
const SIGNS: u32 = 4;

/// A reusable lock: a key and options, made by [`Client::lock`].
///
/// A lock is no lease: several tasks may share one, and each acquire gets a lease of its own, one after the other. The lock remembers the
/// leases it took and that were not given back yet, lost ones included.
///
/// # Which call should you use?
/// [`Lock::with`] for a piece of work, [`Lock::acquire`] when a lease must outlive a scope, [`Lock::try_acquire`] when somebody else doing
/// the work is just as well.
#[derive(Clone)]
pub struct Lock {
    client: Client,
    key: Arc<str>,
    options: LockOptions,
    outstanding: Arc<Outstanding>,
    /// Of a reentrant lock.
    entered: Option<Arc<Entered>>,
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("key", &self.key).field("options", &self.options).finish_non_exhaustive()
    }
}

impl Lock {
    pub(crate) fn new(client: Client, key: &str, options: LockOptions) -> Self {
        let entered = options.reentrant.then(Arc::default);
        Self { client, key: key.into(), options, outstanding: Arc::default(), entered }
    }

    /// Lease time: without renewal a lease ends then. Default 30 s.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl = ttl;
        self
    }

    /// How long acquire waits; zero tries once. Default: for ever.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.options.wait = Some(wait);
        self
    }

    /// Whether leases are renewed by themselves. Default true.
    #[must_use]
    pub fn renew(mut self, renew: bool) -> Self {
        self.options.renew = renew;
        self
    }

    /// Arrival order where the backend can. Default true; false takes a free key past those who wait.
    #[must_use]
    pub fn fair(mut self, fair: bool) -> Self {
        self.options.fair = fair;
        self
    }

    /// Ends a lease after this long, renewed or not. Default: never.
    #[must_use]
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.options.max_hold = Some(max_hold);
        self
    }

    /// Ends a lease whose holder gave no sign of life for this long. Default: never. In [`Lock::with`] the sign is that the task which awaits
    /// it is polled; elsewhere it is [`Lease::heartbeat`].
    #[must_use]
    pub fn max_stall(mut self, max_stall: Duration) -> Self {
        self.options.max_stall = Some(max_stall);
        self
    }

    /// Bounded attempts instead of waiting: [`Error::RetriesExhausted`] ends them. `wait` bounds the whole. Default: wait.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.options.retry = Some(retry);
        self
    }

    /// Whether a task that holds the lock through this very instance, or a clone of it, may acquire it again: it then gets the same lease, and
    /// the last release gives the key back. Default false. Futures that one task polls at the same time are one caller.
    ///
    /// Needs a tokio runtime of the caller's; a thread in `block_on` counts as a task. [`Lock::join`] and [`Lock::acquire_then`] do not know
    /// who waits for them and never re-enter.
    #[must_use]
    pub fn reentrant(mut self, reentrant: bool) -> Self {
        self.options.reentrant = reentrant;
        self.entered = reentrant.then(Arc::default);
        self
    }

    /// How long one backend request about this lock may take. Default: the client's.
    #[must_use]
    pub fn op_timeout(mut self, op_timeout: Duration) -> Self {
        self.options.op_timeout = Some(op_timeout);
        self
    }

    /// Text that `inspect` shows beside host, pid and since.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<String>) -> Self {
        self.options.metadata = Some(metadata.into());
        self
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
        self.validate_for(&self.client.target(), &self.options)
    }

    fn validate_for(&self, target: &Target, options: &LockOptions) -> Result<()> {
        check_key(&self.key, &target.capabilities)?;
        options.validate(target.options.unit, &target.capabilities)
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
    /// May be dropped at any time: a grant that is under way is given back.
    pub async fn acquire(&self) -> Result<Lease> {
        self.acquire_within(self.options.wait).await
    }

    /// [`Lock::acquire`] with a `wait` of its own: `None` for ever, zero to try once.
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

    /// [`Lock::acquire_within`] that joins the local line now, not when it is first polled: for callers who hand the waiting to another
    /// thread and want to be served in the order of their calls. Until it is polled or dropped, those behind it wait.
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
            let (engine, outstanding) = (session.get()?.engine.clone(), lock.outstanding.clone());
            // Boxed: it is large, and would be moved as a whole with every future around it.
            let granted = Box::pin(lease(session, attempt, outstanding));
            let lease = engine.run(granted).await??;
            // Not before the caller has it: a lease that nobody was told of must not be kept by its lock.
            remember(&lock.outstanding, lease.clone());
            Ok(lease)
        }
    }

    /// [`Lock::acquire_within`] for callers who wait elsewhere: joins the local line now and calls `then` on the engine, once, with what
    /// came of it. Aborting the call before that gives back whatever is under way.
    ///
    /// # Errors
    /// Those of [`Lock::acquire`] that are known at once; then `then` is not called.
    pub fn acquire_then(&self, wait: Option<Duration>, then: impl FnOnce(Result<Lease>) + Send + 'static) -> Result<Call> {
        let caller = Caller::current();
        self.go_on(self.begin(wait, caller.clone(), caller)?, then)
    }

    /// [`Lock::acquire_then`] for bindings, which say who asks, for itself or for a body that is to be the `holder`, and warn of self-waits.
    ///
    /// # Errors
    /// As [`Lock::acquire_then`].
    pub fn acquire_for(
        &self,
        caller: Caller,
        holder: Caller,
        wait: Option<Duration>,
        then: impl FnOnce(Result<Lease>) + Send + 'static,
    ) -> Result<Call> {
        let (session, mut attempt) = self.begin(wait, caller, holder)?;
        attempt.tells = false;
        self.go_on((session, attempt), then)
    }

    fn go_on(
        &self,
        (session, attempt): (Bound<Session>, Box<Attempt>),
        then: impl FnOnce(Result<Lease>) + Send + 'static,
    ) -> Result<Call> {
        let (engine, outstanding) = (session.get()?.engine.clone(), self.outstanding.clone());
        let granted = lease(session, attempt, outstanding.clone());
        let remembered = move |lease: Result<Lease>| {
            if let Ok(lease) = &lease {
                remember(&outstanding, lease.clone());
            }
            // Before anybody is told: from then on only the lock's own handles count.
            drop(outstanding);
            then(lease);
        };
        Ok(engine.call(granted, remembered))
    }

    /// Whether this client holds the key for one who started the caller. True once for each lease, for bindings that warn.
    pub fn is_held_by_starter_of(&self, caller: &Caller) -> bool {
        self.client.session_in_use().is_some_and(|session| session.is_held_by_starter(&self.key, caller))
    }

    fn begin(&self, wait: Option<Duration>, caller: Caller, holder: Caller) -> Result<(Bound<Session>, Box<Attempt>)> {
        let options = LockOptions { wait, ..self.options.clone() };
        let (target, session) = self.client.standing();
        self.validate_for(&target, &options)?;
        let session = if let Some(session) = session {
            session
        } else {
            // The first operation settles where the locks are, and what is allowed there.
            let session = self.client.bound("acquire")?;
            self.validate_for(&self.client.target(), &options)?;
            session
        };
        let this = session.get()?;
        let attempt = this.engine.waking(|| this.attempt(self.key.clone(), options, caller, holder)).ok_or_else(stopped)?;
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

    /// Gives back the one lease that this lock has outstanding; see [`Lease::release`].
    ///
    /// # Errors
    /// [`Error::NotHeld`] if there is none, [`Error::Ambiguous`] if there are several.
    ///
    /// # Cancel safety
    /// As [`Lease::release`].
    pub async fn release(&self) -> Result<bool> {
        self.only_lease("release")?.release().await
    }

    /// The one lease that was taken and not given back.
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

    /// Runs `work` while holding the key, and gives it back whatever happens.
    ///
    /// When the lease is lost, `work` is dropped at its next await and the loss is returned.
    ///
    /// # Errors
    /// As [`Lock::acquire`], and [`Error::LockLost`].
    ///
    /// # Cancel safety
    /// Dropping it drops `work` and gives the key back.
    pub async fn with<T, F, W>(&self, work: F) -> Result<T>
    where
        F: FnOnce(Lease) -> W,
        W: Future<Output = T>,
    {
        let caller = Caller::current();
        let body = caller.body();
        let lease = self.acquire_as(self.options.wait, caller, body.clone()).await?;
        let scope = Scope::new(lease.clone());
        let result = tokio::select! {
            biased;
            reason = scope.lease.lost() => Err(Error::LockLost { key: self.key.clone(), token: scope.lease.token(), reason }),
            value = body.running(async { work(lease).await }) => Ok(value),
            error = self.signs_of_life(&scope.lease), if self.options.max_stall.is_some() => Err(error),
        };
        if result.is_ok()
            && let Status::Lost(_) = scope.lease.status()
        {
            scope.lease.check()?;
        }
        scope.leave().await?;
        result
    }

    /// Gives signs of life while it is polled: by the caller's task, and not by the engine, which is alive anyway. Ends only in an error.
    async fn signs_of_life(&self, lease: &Lease) -> Error {
        let every = self.options.max_stall.unwrap_or_default() / SIGNS;
        loop {
            let session = match self.client.session("acquire") {
                Ok(session) => session,
                Err(error) => return error,
            };
            let engine = session.engine.clone();
            if let Err(error) = engine.run(async move { session.clock.sleep_until(session.clock.now() + every).await }).await {
                return error;
            }
            lease.heartbeat();
        }
    }

    /// Whether anybody holds the key.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`].
    pub async fn is_locked(&self) -> Result<bool> {
        self.client.is_locked(&self.key).await
    }

    /// The leases that nobody but this lock remembers and that are still held: they are given back with the lock.
    pub fn forgotten(&self) -> Vec<(Arc<str>, u64)> {
        if Arc::strong_count(&self.outstanding) > 1 {
            return Vec::new();
        }
        let outstanding = self.outstanding.lock();
        outstanding.iter().filter(|lease| lease.is_last_handle()).map(|lease| (lease.key().clone(), lease.token())).collect()
    }
}

/// Goes on with an attempt until the key is got.
async fn lease(session: Bound<Session>, attempt: Box<Attempt>, outstanding: Arc<Outstanding>) -> Result<Lease> {
    let held = session.get()?.clone().acquire(attempt).await?;
    Ok(Lease::new(held, session, &outstanding))
}

/// Adds a lease; forgets those that were lost and that nobody can ask about any more.
fn remember(outstanding: &Outstanding, lease: Lease) {
    let mut all = outstanding.lock();
    let ended: Vec<_> = all.extract_if(.., |lease| lease.status() != Status::Held && lease.is_forgotten()).collect();
    all.push(lease);
    drop(all);
    // Not before: the last handle of a lease that has run out may tell of the loss, to somebody who asks for this lock.
    drop(ended);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::runtime::Handle;

    use super::*;
    use crate::clock::ManualClock;
    use crate::ground::Ground;
    use crate::options::ClientOptions;

    #[tokio::test]
    async fn who_is_told_of_a_loss_may_ask_for_the_lock() {
        let clock = ManualClock::new();
        // On this thread: what the engine would notice first, it does not before the next await.
        let ground = Ground { engine: Some(Handle::current()), ..Ground::at("memory:", Arc::new(clock.clone())) };
        let client = Client::on_ground(ClientOptions::default(), ground).unwrap();
        let lock = client.lock("a").renew(false).ttl(Duration::from_secs(10));
        let lease = lock.acquire().await.unwrap();
        let next = client.lock("b").acquire().await.unwrap();
        let (outstanding, told) = (lock.outstanding.clone(), Arc::new(AtomicBool::new(false)));
        let heard = told.clone();
        lease.on_lost(move |_| heard.store(!outstanding.is_locked(), Ordering::Relaxed));
        drop(lease);
        clock.advance(Duration::from_secs(10));
        remember(&lock.outstanding, next);
        assert!(told.load(Ordering::Relaxed), "not told, or while the lock's leases are in use");
    }
}
