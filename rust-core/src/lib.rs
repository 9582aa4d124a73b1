//! Locks that several programs share: on one machine without a server, across machines on Redis or etcd.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> dlock::Result<()> {
//! let client = dlock::Client::new("memory:")?;
//! let lease = client.lock("invoice:42").acquire().await?;
//! assert!(lease.is_valid());
//! lease.release().await?;
//! # Ok(()) }
//! ```
//!
//! # The tour
//!
//! A [`Client`] speaks to one backend and makes [`Lock`]s: reusable handles of a key with options. Acquiring one gives a [`Lease`],
//! with a fencing token and an end that the engine pushes out by renewing it. A lease is released by [`Lease::release`], by leaving
//! [`Lock::with`], or by dropping its last handle. A lease that ends otherwise is *lost*, and [`Lease::lost`] says so.
//!
//! Behind a client is one session: an identity under which leases and waiters are registered with the [`backend`]. Callers of one
//! session that want the same key stand in a local line, and only the first of them talks to the backend. The state machine of a
//! lease ([`lease_state`]) decides what to do about it at any moment. One heap of deadlines drives all of these machines, and sends
//! renewals in batches.
//!
//! The engine runs on threads of its own, started by the first operation, whatever runtime the caller is on.

#![forbid(unsafe_code)]

pub mod backend;
mod backoff;
pub mod caller;
pub mod choice;
pub mod client;
pub mod clock;
mod driver;
mod engine;
pub mod error;
pub mod fencing;
pub mod holder;
mod json;
pub mod lease;
pub mod lock;
pub mod observe;
pub mod options;
pub mod owner;
#[doc(hidden)]
pub mod printable;
mod process;
pub mod unit;

pub use caller::Caller;
pub use choice::{ChosenBy, Variables};
pub use client::Client;
pub use driver::{QueuedOutcome, Reader, Socket};
pub use engine::call::{Call, call};
#[doc(hidden)]
pub use engine::environment;
pub use engine::fork_hooks as fork;
pub use engine::lease_state;
pub use engine::lease_state::Status;
pub use engine::shutdown::shutdown;
pub use error::{Error, LossReason, Result};
pub use lease::{Discarded, Lease};
pub use lock::Lock;
pub use observe::{Health, HealthStatus, Stats, health, logs};
pub use options::{ClientOptions, LockOptions, Renewal, Retry};
pub use process::EXIT_GRACE;
pub use unit::Unit;

/// The samples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
