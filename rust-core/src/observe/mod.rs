//! What of a client can be seen from outside: figures, events, metrics, health, log records.

mod attempts;
mod courier;
mod events;
mod figures;
pub mod health;
mod histogram;
pub mod logs;
mod metrics;
mod observer;
mod queue;
mod stats;
mod subscription;

pub(crate) use attempts::ObservedAttempt;
pub use events::{Event, Kind, Kinds};
pub(crate) use figures::Operation;
pub use health::{Health, HealthStatus};
pub(crate) use observer::{Observer, Subject};
pub use queue::QUEUE;
pub(crate) use stats::Gauges;
pub use stats::{Calls, Lag, Stats};
pub use subscription::Subscription;

#[cfg(test)]
mod tests;
