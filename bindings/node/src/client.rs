//! Clients: they are made from a URL and options, asked about keys, and closed.

use dlock::backend::Whom;
use dlock::{Client, ClientOptions, Error, Renewal, Result, Unit, Variables};
use napi::bindgen_prelude::Either;
use napi_derive::napi;
use serde_json::Value;

use crate::bridge::Bridge;
use crate::completion::Outcome;
use crate::error::describe;
use crate::lock::duration;

/// What a user may set on a client; times in milliseconds.
#[napi(object)]
pub struct ClientSettings {
    /// The prefix of every key.
    pub namespace: Option<String>,
    /// How long one backend request may take.
    pub op_timeout: Option<f64>,
    /// How long connecting may take.
    pub connect_timeout: Option<f64>,
    /// How leases are renewed.
    pub renewal: Option<RenewalSettings>,
    /// Refuses the default if nothing names a backend.
    pub require_url: Option<bool>,
}

/// The variables of an environment that name the backend.
#[napi(object)]
pub struct NodeVariables {
    /// `DLOCK_URL`.
    pub url: Option<String>,
    /// `DLOCK_REQUIRE_URL`.
    pub require_url: Option<String>,
}

impl From<NodeVariables> for Variables {
    fn from(NodeVariables { url, require_url }: NodeVariables) -> Self {
        Self { url, require_url }
    }
}

/// What a user may set on `renewal`.
#[napi(object)]
pub struct RenewalSettings {
    /// The longest pause after renewals without an answer.
    pub max_delay: Option<f64>,
    /// The first such pause.
    pub base_delay: Option<f64>,
    /// How long one request may take.
    pub call_timeout: Option<f64>,
    /// The most leases in one request.
    pub batch: Option<f64>,
}

impl RenewalSettings {
    fn renewal(self) -> Result<Renewal> {
        let defaults = Renewal::default();
        Ok(Renewal {
            max_delay: duration("renewal.max_delay", self.max_delay)?.unwrap_or(defaults.max_delay),
            base_delay: duration("renewal.base_delay", self.base_delay)?.unwrap_or(defaults.base_delay),
            call_timeout: duration("renewal.call_timeout", self.call_timeout)?,
            batch: self.batch.map(|value| Unit::count("renewal.batch", value)).transpose()?,
        })
    }
}

impl ClientSettings {
    fn options(self) -> Result<ClientOptions> {
        let mut options = ClientOptions { unit: Unit::Millis, ..ClientOptions::default() };
        if let Some(namespace) = self.namespace {
            options.namespace = namespace;
        }
        if let Some(op_timeout) = duration("op_timeout", self.op_timeout)? {
            options.op_timeout = op_timeout;
        }
        if let Some(connect_timeout) = duration("connect_timeout", self.connect_timeout)? {
            options.connect_timeout = connect_timeout;
        }
        if let Some(renewal) = self.renewal {
            options.renewal = renewal.renewal()?;
        }
        options.require_url = self.require_url.unwrap_or(options.require_url);
        Ok(options)
    }
}

#[napi]
impl Bridge {
    /// Makes a client for a URL. Without one the environment names it. Returns the error, or nothing.
    #[napi]
    pub fn create_client(
        &self,
        client: i64,
        url: Option<String>,
        variables: NodeVariables,
        settings: ClientSettings,
    ) -> Option<String> {
        self.keep(client, settings.options().and_then(|options| Client::choose(url.as_deref(), &variables.into(), options)))
    }

    /// Makes the client of the whole program. Without an environment, that of the process counts.
    #[napi]
    pub fn create_program_client(&self, client: i64, variables: Option<NodeVariables>) -> Option<String> {
        self.keep(client, Client::of_program(variables.map(Variables::from)))
    }

    fn keep(&self, client: i64, made: Result<Client>) -> Option<String> {
        match made {
            Ok(made) => {
                self.tables.borrow_mut().clients.insert(client, made);
                None
            }
            Err(error) => Some(describe(&error)),
        }
    }

    /// Sets where the locks of the whole program's client are. Returns the error, or nothing.
    #[napi]
    pub fn configure_client(
        &self,
        client: i64,
        url: Option<String>,
        variables: NodeVariables,
        settings: ClientSettings,
    ) -> Option<String> {
        let tables = self.tables.borrow();
        let client = tables.clients.get(&client)?;
        let configured = settings.options().and_then(|options| client.configure(url.as_deref(), Some(variables.into()), options));
        configured.err().map(|error| describe(&error))
    }

    /// Puts the whole program's client back to its first state.
    #[napi]
    pub fn reset_client(&self, client: i64, call: i64, variables: Option<NodeVariables>) {
        self.ask(client, call, |client| async move { client.reset(variables.map(Variables::from)).await.map(|()| Outcome::Done) });
    }

    /// Lets a closed client work again. Returns the error, or nothing.
    #[napi]
    pub fn reopen_client(&self, client: i64) -> Option<String> {
        self.tables.borrow().clients.get(&client)?.reopen().err().map(|error| describe(&error))
    }

    /// The server's address without its password.
    #[napi]
    pub fn server(&self, client: i64) -> Option<String> {
        self.tables.borrow().clients.get(&client).map(|client| client.server().to_string())
    }

    /// What chose the backend, in a word.
    #[napi]
    pub fn chosen_by(&self, client: i64) -> Option<&'static str> {
        self.tables.borrow().clients.get(&client).map(|client| client.chosen_by().as_str())
    }

    /// What the backend can do, as a JSON text.
    #[napi]
    pub fn capabilities(&self, client: i64) -> Option<String> {
        self.tables.borrow().clients.get(&client).map(|client| client.capabilities().to_json(Unit::Millis).to_string())
    }

    /// Drops a client that JavaScript can no longer reach.
    #[napi]
    pub fn drop_client(&self, client: i64) {
        let dropped = self.tables.borrow_mut().clients.remove(&client);
        drop(dropped);
    }

    /// One round trip.
    #[napi]
    pub fn ping(&self, client: i64, call: i64, inside: i64) {
        self.ask_as(client, call, inside, |client| async move { client.ping().await.map(|()| Outcome::Done) });
    }

    /// Answers with the holder and the queue.
    #[napi]
    pub fn inspect(&self, client: i64, call: i64, inside: i64, key: String) {
        self.ask_as(client, call, inside, |client| async move {
            let found = client.inspect(&key).await?;
            Ok(Outcome::Answer(found.to_json(Unit::Millis).to_string()))
        });
    }

    /// Answers with the held keys that begin with `prefix`.
    #[napi]
    pub fn list_locks(&self, client: i64, call: i64, inside: i64, prefix: String) {
        self.ask_as(client, call, inside, |client| async move {
            let found = client.list_locks(&prefix).await?;
            Ok(Outcome::Answer(found.iter().map(|found| found.to_json(Unit::Millis)).collect::<Value>().to_string()))
        });
    }

    /// Answers whether anybody holds the key.
    #[napi]
    pub fn is_locked(&self, client: i64, call: i64, inside: i64, key: String) {
        self.ask_as(client, call, inside, |client| async move { client.is_locked(&key).await.map(Outcome::Flag) });
    }

    /// Takes the key away from the holder with this token or owner id.
    #[napi]
    pub fn force_release(&self, client: i64, call: i64, inside: i64, key: String, holder: Either<i64, String>) {
        self.ask_as(client, call, inside, |client| async move {
            let whom = match holder {
                Either::A(token) => Whom::Token(u64::try_from(token).unwrap_or_default()),
                Either::B(owner) => Whom::Owner(owner),
            };
            client.force_release(&key, whom).await.map(Outcome::Flag)
        });
    }

    /// Closes the client.
    #[napi]
    pub fn close_client(&self, client: i64, call: i64, timeout: f64) {
        self.ask(client, call, |client| {
            // Called here: what is asked after this is refused.
            let closing = Unit::Millis.duration("timeout", timeout).map(|timeout| client.close(timeout));
            async move { closing?.await.map(|()| Outcome::Done) }
        });
    }

    /// Asks about keys. While the client is being closed, only bodies that hold one of its leases may ask. `inside`: see
    /// [`Bridge::acquire`].
    fn ask_as<W>(&self, client: i64, call: i64, inside: i64, work: impl FnOnce(Client) -> W)
    where
        W: Future<Output = Result<Outcome>> + Send + 'static,
    {
        let (caller, _) = self.callers(inside, false);
        self.ask(client, call, |client| caller.scope(work(client)));
    }

    pub(crate) fn ask<W>(&self, client: i64, call: i64, work: impl FnOnce(Client) -> W)
    where
        W: Future<Output = Result<Outcome>> + Send + 'static,
    {
        let Some(client) = self.tables.borrow().clients.get(&client).cloned() else {
            return self.fail(call, Error::ClientClosed { operation: "call" });
        };
        let answer = work(client);
        self.start(call, answer);
    }
}
