//! A client in Python: makes locks, and asks about keys.

use std::time::Duration;

use dlock::{ClientOptions, LockOptions, Unit, Variables};
use pyo3::prelude::*;

use crate::call::Call;
use crate::caller::Caller;
use crate::completion::{Completions, Outcome, start};
use crate::error::raise;
use crate::lock::Lock;
use crate::objects::{abilities, figures};
use crate::observe::Subscription;
use crate::values::{self, duration, duration_or_none, flag, share, text, whom};

/// One backend connection and one session. It is lazy: the first use connects and starts the engine.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct Client(dlock::Client);

/// The options of a client, with defaults for those that were not given.
fn options(
    namespace: Option<&Bound<'_, PyAny>>,
    op_timeout: Option<&Bound<'_, PyAny>>,
    connect_timeout: Option<&Bound<'_, PyAny>>,
    renewal: Option<&Bound<'_, PyAny>>,
    require_url: Option<&Bound<'_, PyAny>>,
) -> PyResult<ClientOptions> {
    let default = ClientOptions::default();
    Ok(ClientOptions {
        namespace: namespace.map(|value| text("namespace", value)).transpose()?.unwrap_or(default.namespace),
        op_timeout: duration_or_none("op_timeout", op_timeout)?.unwrap_or(default.op_timeout),
        connect_timeout: duration_or_none("connect_timeout", connect_timeout)?.unwrap_or(default.connect_timeout),
        renewal: renewal.map(values::renewal).transpose()?.unwrap_or(default.renewal),
        require_url: require_url.map(|value| flag("require_url", value)).transpose()?.unwrap_or(default.require_url),
        unit: Unit::Seconds,
    })
}

#[pymethods]
impl Client {
    /// A client for a URL. Without one the environment names it.
    #[new]
    #[pyo3(signature = (url, *, namespace = None, op_timeout = None, connect_timeout = None, renewal = None, require_url = None))]
    fn new(
        url: Option<&Bound<'_, PyAny>>,
        namespace: Option<&Bound<'_, PyAny>>,
        op_timeout: Option<&Bound<'_, PyAny>>,
        connect_timeout: Option<&Bound<'_, PyAny>>,
        renewal: Option<&Bound<'_, PyAny>>,
        require_url: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let options = options(namespace, op_timeout, connect_timeout, renewal, require_url)?;
        let url = url.map(|url| text("url", url)).transpose()?;
        let variables = Variables::of_process().map_err(raise)?;
        dlock::Client::choose(url.as_deref(), &variables, options).map(Self).map_err(raise)
    }

    /// The client of the whole program.
    #[staticmethod]
    fn of_program() -> PyResult<Self> {
        dlock::Client::of_program(None).map(Self).map_err(raise)
    }

    /// Sets where the locks of the whole program's client are.
    #[pyo3(signature = (url, *, namespace = None, op_timeout = None, connect_timeout = None, renewal = None, require_url = None))]
    fn configure(
        &self,
        url: Option<&Bound<'_, PyAny>>,
        namespace: Option<&Bound<'_, PyAny>>,
        op_timeout: Option<&Bound<'_, PyAny>>,
        connect_timeout: Option<&Bound<'_, PyAny>>,
        renewal: Option<&Bound<'_, PyAny>>,
        require_url: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let options = options(namespace, op_timeout, connect_timeout, renewal, require_url)?;
        let url = url.map(|url| text("url", url)).transpose()?;
        self.0.configure(url.as_deref(), None, options).map_err(raise)
    }

    /// Puts the whole program's client back to its first state.
    fn reset(&self, completions: &Completions, number: u64) -> PyResult<Call> {
        let client = self.0.clone();
        start(completions, number, async move { client.reset(None).await.map(|()| Outcome::Done) })
    }

    /// Lets a closed client work again.
    fn reopen(&self) -> PyResult<()> {
        self.0.reopen().map_err(raise)
    }

    /// The server's address without its password.
    #[getter]
    fn server(&self) -> String {
        self.0.server().to_string()
    }

    /// `argument`, `variable` or `default`.
    #[getter]
    fn chosen_by(&self) -> &'static str {
        self.0.chosen_by().as_str()
    }

    /// Whether the parent process used it before this one was forked.
    #[getter]
    fn inherited(&self) -> bool {
        self.0.is_inherited()
    }

    /// A lock for `key`. Checks key and options, without any I/O.
    #[pyo3(signature = (key, *, ttl = None, wait = None, renew = None, renewal_threshold = None, retry = None, fair = None,
                        max_hold = None, max_stall = None, reentrant = None, metadata = None, op_timeout = None))]
    #[allow(clippy::too_many_arguments)] // one for each option
    fn lock(
        &self,
        key: &Bound<'_, PyAny>,
        ttl: Option<&Bound<'_, PyAny>>,
        wait: Option<&Bound<'_, PyAny>>,
        renew: Option<&Bound<'_, PyAny>>,
        renewal_threshold: Option<&Bound<'_, PyAny>>,
        retry: Option<&Bound<'_, PyAny>>,
        fair: Option<&Bound<'_, PyAny>>,
        max_hold: Option<&Bound<'_, PyAny>>,
        max_stall: Option<&Bound<'_, PyAny>>,
        reentrant: Option<&Bound<'_, PyAny>>,
        metadata: Option<&Bound<'_, PyAny>>,
        op_timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Lock> {
        let default = LockOptions::default();
        let options = LockOptions {
            ttl: duration_or_none("ttl", ttl)?.unwrap_or(default.ttl),
            wait: duration_or_none("wait", wait)?,
            renew: renew.map(|value| flag("renew", value)).transpose()?.unwrap_or(default.renew),
            renewal_threshold: renewal_threshold
                .map(|value| share("renewal_threshold", value))
                .transpose()?
                .unwrap_or(default.renewal_threshold),
            retry: retry.map(values::retry).transpose()?,
            fair: fair.map(|value| flag("fair", value)).transpose()?.unwrap_or(default.fair),
            max_hold: duration_or_none("max_hold", max_hold)?,
            max_stall: duration_or_none("max_stall", max_stall)?,
            reentrant: reentrant.map(|value| flag("reentrant", value)).transpose()?.unwrap_or(default.reentrant),
            metadata: metadata.map(|value| text("metadata", value)).transpose()?,
            op_timeout: duration_or_none("op_timeout", op_timeout)?,
        };
        let lock = self.0.lock_with(&text("key", key)?, options);
        lock.validate().map_err(raise)?;
        Ok(Lock::new(lock))
    }

    /// One round trip to the backend.
    fn ping(&self, completions: &Completions, number: u64, caller: &Caller) -> PyResult<Call> {
        let client = self.0.clone();
        start(completions, number, caller.0.scope(async move { client.ping().await.map(|()| Outcome::Done) }))
    }

    /// Who holds a key and who waits for it.
    fn inspect(&self, completions: &Completions, number: u64, caller: &Caller, key: &Bound<'_, PyAny>) -> PyResult<Call> {
        let (client, key) = (self.0.clone(), text("key", key)?);
        let asked = async move { Ok(Outcome::Inspected(Box::new(client.inspect(&key).await?))) };
        start(completions, number, caller.0.scope(asked))
    }

    /// The held keys that begin with `prefix`.
    fn list_locks(&self, completions: &Completions, number: u64, caller: &Caller, prefix: &Bound<'_, PyAny>) -> PyResult<Call> {
        let (client, prefix) = (self.0.clone(), text("prefix", prefix)?);
        start(completions, number, caller.0.scope(async move { client.list_locks(&prefix).await.map(Outcome::Listed) }))
    }

    /// Whether anybody holds the key.
    fn is_locked(&self, completions: &Completions, number: u64, caller: &Caller, key: &Bound<'_, PyAny>) -> PyResult<Call> {
        let (client, key) = (self.0.clone(), text("key", key)?);
        start(completions, number, caller.0.scope(async move { client.is_locked(&key).await.map(Outcome::Answer) }))
    }

    /// Takes the key away from the holder with this token or owner id.
    fn force_release(
        &self,
        completions: &Completions,
        number: u64,
        caller: &Caller,
        key: &Bound<'_, PyAny>,
        holder: &Bound<'_, PyAny>,
    ) -> PyResult<Call> {
        let (client, key, whom) = (self.0.clone(), text("key", key)?, whom("holder", holder)?);
        start(completions, number, caller.0.scope(async move { client.force_release(&key, whom).await.map(Outcome::Answer) }))
    }

    /// What this client has done, and what it is doing.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        figures(py, &self.0.stats())
    }

    /// What the backend can do.
    fn capabilities<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        abilities(py, &self.0.capabilities())
    }

    /// The figures in the format of Prometheus.
    fn metrics(&self) -> String {
        self.0.metrics()
    }

    /// Makes a round trip and checks the leases.
    fn health(&self, completions: &Completions, number: u64) -> PyResult<Call> {
        let client = self.0.clone();
        start(completions, number, async move { client.health().await.map(|health| Outcome::Health(Box::new(health))) })
    }

    /// Subscribes to events. They come under `number`, once `listen` has named their kinds.
    fn subscribe(&self, completions: &Completions, number: u64) -> PyResult<Subscription> {
        Subscription::new(&self.0, completions, number)
    }

    /// Refuses new work, waits up to `timeout` for holders, then ends the leases that are left.
    fn close(&self, completions: &Completions, number: u64, timeout: &Bound<'_, PyAny>) -> PyResult<Call> {
        let timeout: Duration = duration("timeout", timeout)?;
        // Called here: what is asked after this is refused.
        let closing = self.0.close(timeout);
        start(completions, number, async move { closing.await.map(|()| Outcome::Done) })
    }
}
