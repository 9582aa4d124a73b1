//! Clients: made from a URL and options, asked about keys, closed.

use dlock::backend::{Inspection, Whom};
use dlock::{Client, ClientOptions, Error, Renewal, Result, Unit};
use napi::bindgen_prelude::Either;
use napi_derive::napi;
use serde_json::Value;

use crate::Bridge;
use crate::completion::Outcome;
use crate::error::describe;
use crate::lock::duration;

/// What a user may set on a client; times in milliseconds.
#[napi(object)]
pub struct ClientSettings {
    /// Put before every key.
    pub namespace: Option<String>,
    /// How long one backend request may take.
    pub op_timeout: Option<f64>,
    /// How long connecting may take.
    pub connect_timeout: Option<f64>,
    /// How leases are renewed.
    pub renewal: Option<RenewalSettings>,
}

/// What a user may set on `renewal`.
#[napi(object)]
pub struct RenewalSettings {
    /// The longest pause after renewals without an answer.
    pub max_delay: Option<f64>,
    /// The first such pause.
    pub base_delay: Option<f64>,
    /// The longest that one request may take.
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
        Ok(options)
    }
}

#[napi]
impl Bridge {
    /// Makes a client. Returns the error, or nothing.
    #[napi]
    pub fn create_client(&self, client: i64, url: String, settings: ClientSettings) -> Option<String> {
        match settings.options().and_then(|options| Client::with_options(&url, options)) {
            Ok(made) => {
                self.tables.borrow_mut().clients.insert(client, made);
                None
            }
            Err(error) => Some(describe(&error)),
        }
    }

    /// The server's address without its password.
    #[napi]
    pub fn server(&self, client: i64) -> Option<String> {
        self.tables.borrow().clients.get(&client).map(|client| client.server().to_string())
    }

    /// Nobody can reach the client any more.
    #[napi]
    pub fn drop_client(&self, client: i64) {
        let dropped = self.tables.borrow_mut().clients.remove(&client);
        drop(dropped);
    }

    /// One round trip.
    #[napi]
    pub fn ping(&self, client: i64, call: i64) {
        self.ask(client, call, |client| async move { client.ping().await.map(|()| Outcome::Done) });
    }

    /// Answers with the holder and the queue.
    #[napi]
    pub fn inspect(&self, client: i64, call: i64, key: String) {
        self.ask(client, call, |client| async move {
            let found = client.inspect(&key).await?;
            Ok(Outcome::Answer(inspection(&found).to_string()))
        });
    }

    /// Answers with the held keys that begin with `prefix`.
    #[napi]
    pub fn list_locks(&self, client: i64, call: i64, prefix: String) {
        self.ask(client, call, |client| async move {
            let found = client.list_locks(&prefix).await?;
            Ok(Outcome::Answer(found.iter().map(inspection).collect::<Value>().to_string()))
        });
    }

    /// Answers whether anybody holds the key.
    #[napi]
    pub fn is_locked(&self, client: i64, call: i64, key: String) {
        self.ask(client, call, |client| async move { client.is_locked(&key).await.map(Outcome::Flag) });
    }

    /// Takes the key away from the holder with this token or owner id.
    #[napi]
    pub fn force_release(&self, client: i64, call: i64, key: String, holder: Either<i64, String>) {
        self.ask(client, call, |client| async move {
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
        self.ask(client, call, |client| async move {
            let timeout = Unit::Millis.duration("timeout", timeout)?;
            client.close(timeout).await.map(|()| Outcome::Done)
        });
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

fn inspection(found: &Inspection) -> Value {
    let mut shown = found.to_json(Unit::Millis);
    shown["waitingHere"] = found.waiting_here.into();
    shown
}
