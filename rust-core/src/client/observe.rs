//! What a client shows to observers: figures, events, metrics, health.

use crate::client::Client;
use crate::error::{CLOSED, Error, Result};
use crate::health::Health;
use crate::observe::{Event, Gauges, Kinds, Stats, Subscription};

impl Client {
    /// What this client has done and has under way. Cheap: no I/O, and a look at each lease.
    pub fn stats(&self) -> Stats {
        let target = self.target();
        Stats { server: target.server().clone(), chosen_by: target.chosen_by, ..self.observer().stats(self.gauges()) }
    }

    /// The figures in the `OpenMetrics` text format, to be served as `application/openmetrics-text; version=1.0.0; charset=utf-8`. Each
    /// client has a registry of its own, and no label holds a key.
    pub fn metrics(&self) -> String {
        self.observer().metrics(self.gauges())
    }

    /// Calls `observe` with every event of these kinds, one after the other, on a thread that is free to block. The events of one
    /// lease come in the order in which they happened.
    ///
    /// It goes on until [`Subscription::end`], or until the client is gone. An observer that is too slow misses events
    /// ([`Stats::dropped_events`] counts them) and delays nobody. If an observer panics, the panic is logged and the observer is
    /// called again.
    pub fn on(&self, kinds: impl Into<Kinds>, observe: impl FnMut(&Event) + Send + 'static) -> Subscription {
        self.observer().on(kinds.into(), observe)
    }

    /// [`Client::on`] for subscribers that take events themselves, with [`Subscription::take`]: `wake` is called on an engine
    /// thread when there is something to take, and when nothing more will come. It must be cheap and must not block.
    pub fn subscribe(&self, kinds: impl Into<Kinds>, wake: impl Fn() + Send + Sync + 'static) -> Subscription {
        self.observer().subscribe(kinds.into(), wake)
    }

    /// Asks the backend, within `op_timeout`, whether a key can be acquired and released here and now, and looks at the leases. A
    /// backend that does not answer or refuses is no error here, nor is a closed client: both are
    /// [`Down`](crate::health::HealthStatus::Down). Nothing stays behind, and no token moves.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::Error::Forked) in a child process.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn health(&self) -> Result<Health> {
        let health = match self.session("health") {
            Ok(session) => {
                let engine = session.engine.clone();
                match engine.run(async move { session.health().await }).await {
                    Ok(health) => health,
                    Err(error) => Health::down(self.server(), error.to_string()),
                }
            }
            Err(Error::ClientClosed { .. }) => Health::down(self.server(), CLOSED.to_owned()),
            Err(error) => return Err(error),
        };
        Ok(Health { chosen_by: self.chosen_by(), ..health })
    }

    /// A client that was not used in this process has nothing under way.
    fn gauges(&self) -> Gauges {
        self.session_in_use().map(|session| session.gauges()).unwrap_or_default()
    }
}
