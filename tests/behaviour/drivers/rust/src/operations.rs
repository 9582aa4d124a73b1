//! The operations, each a call or two of the public interface.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dlock::backend::Whom;
use dlock::error::Error;
use dlock::observe::{Event, Kind, Kinds, Subscription};
use dlock::{Client, ClientOptions, Lease, Lock, LockOptions};
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::shown::{figures, happening, health};
use crate::wire::{self, Args, Request, duration, event, inspection, stamp};

/// What the requests have made so far, by the names that they gave.
#[derive(Default)]
pub(crate) struct Driver {
    clients: RefCell<HashMap<String, Client>>,
    locks: RefCell<HashMap<String, Lock>>,
    leases: RefCell<HashMap<String, Lease>>,
    bodies: RefCell<HashMap<String, Rc<Notify>>>,
    heard: RefCell<HashMap<String, Heard>>,
}

/// What a client has heard, by one subscription: of two, each would keep an order of its own.
struct Heard {
    subscription: Subscription,
    kinds: Vec<Kind>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Heard {
    fn by(client: &Client) -> Self {
        let events = Arc::<Mutex<Vec<Event>>>::default();
        let heard = events.clone();
        let subscription = client.on(Kinds::default(), move |event| heard.lock().push(event.clone()));
        Self { subscription, kinds: Vec::new(), events }
    }

    fn listen_to(&mut self, kind: Kind) {
        self.kinds.push(kind);
        self.subscription.set_kinds(self.kinds.iter().copied().collect());
    }
}

impl Driver {
    pub(crate) async fn run(&self, request: &Request) -> Result<Value, Error> {
        let args = &request.args;
        match request.op.as_str() {
            "client" => self.make_client(&request.client, args),
            "lock" => {
                let lock = self.lock(&request.client, args)?;
                self.locks.borrow_mut().insert(args.name.clone(), lock);
                Ok(Value::Null)
            }
            "acquire" => {
                let lock = self.lock(&request.client, args)?;
                Ok(self.keep(args, lock.acquire().await?))
            }
            "try_acquire" => {
                let lease = self.lock(&request.client, args)?.try_acquire().await?;
                Ok(lease.map_or(Value::Null, |lease| self.keep(args, lease)))
            }
            "with" => self.with(request).await,
            "leave" => {
                let body = self.bodies.borrow_mut().remove(&args.lease);
                Ok(body.inspect(|body| body.notify_one()).is_some().into())
            }
            "nest" => self.nest(&request.client, args).await,
            "work" => self.work(&request.client, args).await,
            "contend" => self.contend(&request.client, args).await,
            "release" => Ok(self.lease(args).release().await?.into()),
            "release_lock" => Ok(self.lock(&request.client, args)?.release().await?.into()),
            "extend" => {
                let ttl = duration("ttl", args.ttl.as_ref())?.unwrap_or_default();
                let lease = self.lease(args);
                lease.extend(ttl).await?;
                Ok(wire::lease(&lease))
            }
            "auto_renew" => {
                self.lease(args).auto_renew(args.renewing.unwrap_or_default());
                Ok(true.into())
            }
            "lease" => Ok(wire::lease(&self.lease(args))),
            "check" => self.lease(args).check().map(|()| true.into()),
            "wait_lost" => Ok(self.lease(args).lost().await.as_str().into()),
            "drop" => Ok(self.leases.borrow_mut().remove(&args.lease).is_some().into()),
            "drop_lock" => Ok(args.lock.as_ref().is_some_and(|name| self.locks.borrow_mut().remove(name).is_some()).into()),
            _ => self.ask(request).await,
        }
    }

    /// The questions to a client.
    async fn ask(&self, request: &Request) -> Result<Value, Error> {
        let (client, args) = (self.client(&request.client), &request.args);
        match request.op.as_str() {
            "ping" => client.ping().await.map(|()| true.into()),
            "inspect" => Ok(inspection(&client.inspect(&args.key).await?)),
            "is_locked" => Ok(client.is_locked(&args.key).await?.into()),
            "list" => Ok(client.list_locks(&args.prefix).await?.iter().map(inspection).collect()),
            "force_release" => {
                let token = || Whom::Token(args.token.unwrap_or_default());
                let whom = args.owner.clone().map_or_else(token, Whom::Owner);
                Ok(client.force_release(&args.key, whom).await?.into())
            }
            "stats" => Ok(figures(&client.stats())),
            "health" => Ok(health(&client.health().await?)),
            "metrics" => Ok(client.metrics().into()),
            "on" => {
                let kind = Kind::parse(&args.event)?;
                self.heard.borrow_mut().entry(request.client.clone()).or_insert_with(|| Heard::by(&client)).listen_to(kind);
                Ok(true.into())
            }
            "heard" => Ok(self.heard.borrow()[&request.client].events.lock().iter().map(happening).collect()),
            "close" => {
                client.close(duration("timeout", args.timeout.as_ref())?.unwrap_or_default()).await?;
                Ok(true.into())
            }
            "close_on_signal" => {
                // There is no call for this: a program listens as it likes. That takes the signal's own effect away.
                let mut terminate = signal(SignalKind::terminate()).map_err(|error| no_signals(&error))?;
                let timeout = duration("timeout", args.timeout.as_ref())?.unwrap_or_default();
                tokio::task::spawn_local(async move {
                    terminate.recv().await;
                    client.close(timeout).await
                });
                Ok(true.into())
            }
            unknown => Err(Error::InvalidOptions { field: "op".into(), value: unknown.into(), allowed: "an operation".into() }),
        }
    }

    fn make_client(&self, name: &str, args: &Args) -> Result<Value, Error> {
        let mut options = ClientOptions::default();
        if let Some(namespace) = &args.namespace {
            options.namespace.clone_from(namespace);
        }
        if let Some(timeout) = duration("op_timeout", args.op_timeout.as_ref())? {
            options.op_timeout = timeout;
        }
        if let Some(timeout) = duration("connect_timeout", args.connect_timeout.as_ref())? {
            options.connect_timeout = timeout;
        }
        if let Some(renewal) = &args.renewal {
            options.renewal = renewal.renewal()?;
        }
        let client = Client::with_options(&args.url, options)?;
        self.clients.borrow_mut().insert(name.to_owned(), client);
        self.heard.borrow_mut().remove(name);
        Ok(std::process::id().into())
    }

    fn client(&self, name: &str) -> Client {
        self.clients.borrow()[name].clone()
    }

    fn lease(&self, args: &Args) -> Lease {
        self.leases.borrow()[&args.lease].clone()
    }

    fn keep(&self, args: &Args, lease: Lease) -> Value {
        let seen = wire::lease(&lease);
        if !args.name.is_empty() {
            self.leases.borrow_mut().insert(args.name.clone(), lease);
        }
        seen
    }

    /// The lock that the request names, or a new one.
    fn lock(&self, client: &str, args: &Args) -> Result<Lock, Error> {
        if let Some(name) = &args.lock {
            return Ok(self.locks.borrow()[name].clone());
        }
        self.lock_named(client, &args.key, args)
    }

    fn lock_named(&self, client: &str, key: &str, args: &Args) -> Result<Lock, Error> {
        let defaults = LockOptions::default();
        let options = LockOptions {
            ttl: duration("ttl", args.ttl.as_ref())?.unwrap_or(defaults.ttl),
            wait: duration("wait", args.wait.as_ref())?,
            renew: args.renew.unwrap_or(defaults.renew),
            renewal_threshold: args.renewal_threshold.as_ref().map_or(defaults.renewal_threshold, wire::Number::value),
            fair: args.fair.unwrap_or(defaults.fair),
            retry: args.retry.as_ref().map(wire::RetryArgs::retry).transpose()?,
            max_hold: duration("max_hold", args.max_hold.as_ref())?,
            max_stall: duration("max_stall", args.max_stall.as_ref())?,
            reentrant: args.reentrant,
            metadata: args.metadata.clone(),
            op_timeout: duration("op_timeout", args.op_timeout.as_ref())?,
        };
        let lock = self.client(client).lock_with(key, options);
        lock.validate()?;
        Ok(lock)
    }

    /// A scoped body that lasts until it is told to leave. Tells when it was entered, and when and how it ended.
    async fn with(&self, request: &Request) -> Result<Value, Error> {
        let (id, args) = (request.id, &request.args);
        let lock = self.lock(&request.client, args)?;
        let end = Rc::new(Notify::new());
        self.bodies.borrow_mut().insert(args.name.clone(), end.clone());
        let body = async |lease: Lease| {
            event(id, "entered", &self.keep(args, lease));
            let mut ended = Ended { id, how: "cancelled" };
            end.notified().await;
            ended.how = "left";
            match &args.then {
                Some(key) => self.client(&request.client).lock(key).acquire().await?.release().await.map(|_| "both"),
                None => Ok("left"),
            }
        };
        if args.stubborn {
            // Rust drops the body of `with` at once; one that goes on after a loss is written without it.
            let lease = lock.acquire().await?;
            let how = body(lease.clone()).await?;
            lease.release().await?;
            return lease
                .check()
                .or_else(|error| if error.code() == "NOT_HELD" { Ok(()) } else { Err(error) })
                .map(|()| how.into());
        }
        lock.with(body).await?.map(Value::from)
    }

    /// Acquires as often as `levels` says in one task, then releases as often; answers whether the key was held after each release.
    async fn nest(&self, client: &str, args: &Args) -> Result<Value, Error> {
        let lock = self.lock(client, args)?;
        let mut leases = Vec::new();
        for _ in 0..args.levels {
            leases.push(lock.acquire().await?);
        }
        let tokens: Vec<_> = leases.iter().map(Lease::token).collect();
        let mut held = Vec::new();
        for lease in leases.iter().rev() {
            lease.release().await?;
            held.push(lock.is_locked().await?);
        }
        Ok(json!({"token": tokens[0], "same": tokens.iter().all(|token| *token == tokens[0]), "held": held}))
    }

    /// Takes keys and holds each for a while, until the client is closed; counts what came of it.
    async fn work(&self, client: &str, args: &Args) -> Result<Value, Error> {
        let pause = duration("hold", args.hold.as_ref())?.unwrap_or_default();
        let done = Cell::new((0, 0, 0));
        let tasks = (0..args.tasks).map(|number| {
            let done = &done;
            // Each is a caller of its own, though one task polls them all.
            dlock::Caller::root().scope(async move {
                let lock = self.lock_named(client, &format!("{}-{}", args.key, number % args.keys.max(1)), args)?;
                loop {
                    let lease = match lock.acquire().await {
                        Err(Error::ClientClosed { .. }) => return Ok(()),
                        granted => granted?,
                    };
                    tokio::time::sleep(pause).await;
                    let lost = !lease.is_valid();
                    let unreleased = !lease.release().await?;
                    let (so_far, were_lost, were_unreleased) = done.get();
                    done.set((so_far + 1, were_lost + u32::from(lost), were_unreleased + u32::from(unreleased)));
                }
            })
        });
        try_join_all(tasks).await.map(|_: Vec<()>| ())?;
        let (held, lost, unreleased) = done.get();
        Ok(json!({"held": held, "lost": lost, "unreleased": unreleased}))
    }

    /// Takes the key again and again; answers `[token, from, to]` of each hold.
    async fn contend(&self, client: &str, args: &Args) -> Result<Value, Error> {
        let holds = (0..args.tasks.max(1)).map(|_| async {
            let lock = self.lock(client, args)?;
            let mut holds = Vec::new();
            for _ in 0..args.cycles {
                let lease = lock.acquire().await?;
                let from = stamp();
                tokio::time::sleep(Duration::from_micros(lease.token() % 2000)).await;
                holds.push(json!([lease.token(), from, stamp()]));
                lease.release().await?;
            }
            Ok::<_, Error>(holds)
        });
        Ok(try_join_all(holds).await?.concat().into())
    }
}

fn no_signals(error: &std::io::Error) -> Error {
    Error::InvalidOptions { field: "signal".into(), value: error.to_string(), allowed: "one that can be heard".into() }
}

/// Says how a body ended, also one that was dropped.
struct Ended {
    id: u64,
    how: &'static str,
}

impl Drop for Ended {
    fn drop(&mut self) {
        event(self.id, "ended", &self.how.into());
    }
}
