//! A client: one backend and one session. Locks are made from it in [`crate::lock`].

mod observe;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Backend, Capabilities, Inspection, Whom};
use crate::caller::Caller;
use crate::choice::{ChosenBy, DEFAULT_CHOSEN, Variables};
use crate::clock::{BootClock, Clock, Instant};
use crate::engine::environment::Environment;
use crate::engine::session::Session;
use crate::engine::shared_client::{SharedClient, Target};
use crate::error::{BackendError, Error, Result};
use crate::observe::Observer;
use crate::observe::logs::target;
use crate::options::{ClientOptions, check_key};
use crate::process::Bound;

/// Makes locks on one backend. It connects, and starts the engine, at its first use.
///
/// Cloning gives another handle of the same client. A client that was used before a fork cannot be used in the child; a client that
/// was not used yet can.
#[derive(Clone)]
pub struct Client {
    shared: Arc<SharedClient>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target();
        f.debug_struct("Client").field("server", target.server()).field("namespace", &target.options.namespace).finish()
    }
}

impl Client {
    /// A client for `local:`, `local:///path`, `memory:`, `memory:name`, `redis://[user:password@]host[:port][/db]` or
    /// `etcd://[user:password@]host[:port],host...`; `rediss://` and `etcds://` with TLS and `?ca=/file.pem&cert=/file.pem&key=/file.pem`;
    /// `redis+sentinel://[user:password@]host[:port],host.../service[/db]`, also as `rediss+sentinel://`, with `?sentinel_password=`.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] for a URL that cannot be used. Nothing is connected yet.
    pub fn new(url: &str) -> Result<Self> {
        Self::with_options(url, ClientOptions::default())
    }

    /// [`Client::new`] with options.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`].
    pub fn with_options(url: &str, options: ClientOptions) -> Result<Self> {
        Self::with_clock(url, options, Arc::new(BootClock))
    }

    /// [`Client::with_options`] on another clock, for tests.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`].
    pub fn with_clock(url: &str, options: ClientOptions, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(Self { shared: SharedClient::at(Target::at(url.to_owned(), clock, options, ChosenBy::Argument)?) })
    }

    /// [`Client::with_options`] in another environment, for simulations.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`].
    #[doc(hidden)]
    pub fn in_environment(options: ClientOptions, environment: Environment) -> Result<Self> {
        Ok(Self { shared: SharedClient::at(Target::new(environment, options)?) })
    }

    /// A client for the URL in `DLOCK_URL`, or for `local:` if that is not set. `DLOCK_REQUIRE_URL=1` refuses that default, and so
    /// does the option [`require_url`](ClientOptions::require_url).
    ///
    /// # Errors
    /// [`Error::InvalidOptions`].
    pub fn from_env() -> Result<Self> {
        Self::from_env_with(ClientOptions::default())
    }

    /// [`Client::from_env`] with options.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`].
    pub fn from_env_with(options: ClientOptions) -> Result<Self> {
        let client = Self::choose(None, &Variables::of_process()?, options)?;
        if client.chosen_by() == ChosenBy::Default {
            tracing::info!(target: target::CLIENT, "{DEFAULT_CHOSEN}");
        }
        Ok(client)
    }

    /// A client for this URL or, without one, for what these variables say: for hosts whose programs have environments of their
    /// own.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`].
    pub fn choose(url: Option<&str>, variables: &Variables, options: ClientOptions) -> Result<Self> {
        Ok(Self { shared: SharedClient::at(Target::chosen(url, variables, options)?) })
    }

    /// The one client of a whole program, for hosts that have one. Its first operation decides where its locks are, so that
    /// [`Client::configure`] may come after locks were made. Without `variables` it reads those of the process then.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] for a `DLOCK_URL` that cannot be used.
    pub fn of_program(variables: Option<Variables>) -> Result<Self> {
        Ok(Self { shared: SharedClient::of_program(variables)? })
    }

    /// Decides where the locks of [`Client::of_program`] are. Locks made before follow it; their options are checked again when
    /// they are used.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`], and [`Error::InUse`] after the first operation.
    pub fn configure(&self, url: Option<&str>, variables: Option<Variables>, options: ClientOptions) -> Result<()> {
        self.shared.configure(url, variables, options)
    }

    /// Puts a client of [`Client::of_program`] back to its beginning: it ends what is held and its observers, counts from zero, and
    /// lets its first operation decide again where its locks are. For tests.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child process, [`Error::InvalidOptions`] for a `DLOCK_URL` that cannot be used.
    ///
    /// # Cancel safety
    /// Dropping it leaves the former leases renewed until their handles are gone.
    pub async fn reset(&self, variables: Option<Variables>) -> Result<()> {
        if let Some(session) = self.shared.reset(variables)? {
            let session = session.get()?.clone();
            let now = session.clock.now();
            close(session, now).await;
        }
        Ok(())
    }

    /// [`Client::new`], then one round trip.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`], [`Error::BackendUnavailable`] within `connect_timeout`, [`Error::BackendRefused`].
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn connect(url: &str) -> Result<Self> {
        let client = Self::new(url)?;
        client.ping().await?;
        Ok(client)
    }

    /// What the backend can do.
    pub fn capabilities(&self) -> Capabilities {
        self.target().capabilities().clone()
    }

    /// The options this client was made with.
    pub fn options(&self) -> ClientOptions {
        self.target().options.clone()
    }

    /// The server's address without its password.
    pub fn server(&self) -> Arc<str> {
        self.target().server().clone()
    }

    /// What chose the backend: a URL that was given, `DLOCK_URL`, or the default.
    pub fn chosen_by(&self) -> ChosenBy {
        self.target().chosen_by
    }

    /// Whether this is a forked child whose parent has used the client: then the child needs another client.
    pub fn is_inherited(&self) -> bool {
        self.shared.is_inherited()
    }

    /// One round trip to the backend, connecting if need be.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`] within `connect_timeout`, [`Error::BackendRefused`].
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn ping(&self) -> Result<()> {
        let timeout = self.target().options.connect_timeout;
        self.ask("connect", None, move |backend| Box::pin(async move { backend.ping(timeout).await })).await
    }

    /// Who holds a key and who waits for it: one queue entry for each client, and how many callers of this client wait. See
    /// [`Inspection`].
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] for a bad key, [`Error::BackendUnavailable`], [`Error::BackendRefused`].
    pub async fn inspect(&self, key: &str) -> Result<Inspection> {
        check_key(key, self.target().capabilities())?;
        let (key, timeout): (Arc<str>, _) = (key.into(), self.target().options.op_timeout);
        let asked = key.clone();
        let found =
            self.ask("inspect", Some(key), move |backend| Box::pin(async move { backend.inspect(asked, timeout).await })).await?;
        self.with_own_line(found)
    }

    fn with_own_line(&self, mut found: Inspection) -> Result<Inspection> {
        found.waiting_here = self.session("inspect")?.lines.waiting(&found.key);
        Ok(found)
    }

    /// The held keys that begin with `prefix`, in order.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`].
    pub async fn list_locks(&self, prefix: &str) -> Result<Vec<Inspection>> {
        let (prefix, timeout): (Arc<str>, _) = (prefix.into(), self.target().options.op_timeout);
        let found =
            self.ask("list_locks", None, move |backend| Box::pin(async move { backend.list(prefix, timeout).await })).await?;
        found.into_iter().map(|found| self.with_own_line(found)).collect()
    }

    /// Whether anybody holds the key.
    ///
    /// # Errors
    /// As [`Client::inspect`].
    pub async fn is_locked(&self, key: &str) -> Result<bool> {
        Ok(self.inspect(key).await?.holder.is_some())
    }

    /// Takes the key away from the holder with this token or owner id; true if that holder had it. The holder finds out at its next
    /// renewal. Until then two holders may believe that they have the key, and only the fencing token protects the data.
    ///
    /// # Errors
    /// As [`Client::inspect`].
    pub async fn force_release(&self, key: &str, whom: Whom) -> Result<bool> {
        check_key(key, self.target().capabilities())?;
        let (key, timeout): (Arc<str>, _) = (key.into(), self.target().options.op_timeout);
        self.ask("force_release", Some(key.clone()), move |backend| {
            Box::pin(async move { backend.force_release(key, whom, timeout).await })
        })
        .await
    }

    /// Refuses new work, waits up to `timeout` for holders to finish while their leases are still renewed, then ends
    /// the leases that are left: their holders lose them. A client that was never used has nothing to close.
    ///
    /// Until then a caller that holds a lease of this client may acquire more and may ask about keys, and so may the callers that
    /// it started (see [`Caller`](crate::Caller)); their attempts go on waiting. Every other caller gets [`Error::ClientClosed`] at
    /// once. Outside of tokio, where callers cannot be told apart, any acquire is admitted while a lease is held that was held when
    /// closing began.
    ///
    /// In a web server, drain the server first, then close the client: to the client, requests are new work. If it is called
    /// several times, the call whose time is up first ends the drain of all.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child process.
    ///
    /// # Cancel safety
    /// Dropping it leaves the client closed to new acquires, with its leases still renewed.
    pub fn close(&self, timeout: Duration) -> impl Future<Output = Result<()>> + Send + use<> {
        let begun = self.begin_close(timeout);
        async move {
            if let Some((session, until)) = begun? {
                close(session.get()?.clone(), until).await;
            }
            Ok(())
        }
    }

    fn begin_close(&self, timeout: Duration) -> Result<Option<(Bound<Session>, Instant)>> {
        let Some(session) = self.shared.begin_close()? else { return Ok(None) };
        let known = session.get()?;
        let until = known.clock.now() + timeout;
        known.engine.waking(|| known.announce_closing());
        Ok(Some((session, until)))
    }

    /// Lets a closed client work again: its next operation starts another session, and locks made before follow it. Does nothing to
    /// a client that is open. Leases of the former session stay lost; observers and counts go on.
    ///
    /// It does not wait for a [`Client::close`] that is still draining. That call goes on with the leases held before; what is
    /// acquired from now on belongs to the new session.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child process.
    pub fn reopen(&self) -> Result<()> {
        self.shared.reopen()
    }

    pub(crate) fn session(&self, operation: &'static str) -> Result<Arc<Session>> {
        Ok(self.bound(operation)?.get()?.clone())
    }

    /// The session, started if need be.
    pub(crate) fn bound(&self, operation: &'static str) -> Result<Bound<Session>> {
        self.shared.bound(operation)
    }

    /// The session, if this process has started one.
    pub(crate) fn session_in_use(&self) -> Option<Arc<Session>> {
        self.shared.session_in_use()
    }

    pub(crate) fn target(&self) -> Arc<Target> {
        self.shared.target()
    }

    /// The target, and the session if there is one.
    pub(crate) fn target_and_session(&self) -> (Arc<Target>, Option<Bound<Session>>) {
        self.shared.target_and_session()
    }

    pub(crate) fn observer(&self) -> Arc<Observer> {
        self.shared.observer()
    }

    async fn ask<T, A>(&self, operation: &'static str, key: Option<Arc<str>>, ask: A) -> Result<T>
    where
        T: Send + 'static,
        A: FnOnce(Arc<dyn Backend>) -> futures_util::future::BoxFuture<'static, std::result::Result<T, BackendError>>
            + Send
            + 'static,
    {
        let session = self.session(operation)?;
        if !session.may_ask(&Caller::current()) {
            return Err(Error::ClientClosed { operation });
        }
        let engine = session.engine.clone();
        engine
            .run(async move { ask(session.backend.clone()).await.map_err(|source| session.unavailable(operation, key, source)) })
            .await?
    }
}

async fn close(session: Arc<Session>, until: Instant) {
    let engine = session.engine.clone();
    let closing = session.clone();
    if engine.run(async move { closing.close(until).await }).await.is_err() {
        // The engine has stopped, and nothing of the session goes on. It is closed for those who ask later.
        session.closing.begun.cancel();
    }
}
