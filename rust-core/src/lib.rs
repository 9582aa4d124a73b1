//! Locks that several programs share: with no server across the processes of one machine, on Redis across machines.
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
//! A [`Client`] speaks to one backend and makes [`Lock`]s: reusable handles of a key with options. Acquiring one gives a [`Lease`], with a
//! fencing token and an end that the engine pushes out by renewing it. A lease is given back by [`Lease::release`], by leaving
//! [`Lock::with`], or by dropping its last handle; one that ends otherwise is *lost*, and [`Lease::lost`] says so.
//!
//! Behind a client is one session: an identity under which leases and waiters are registered with the [`backend`]. Callers of one session
//! that want the same key stand in a local line, and only the first of them talks to the backend. A [`lease_state`] machine says what is
//! to be done about a lease at any moment; one heap of deadlines asks it for all leases, and sends renewals in batches.
//!
//! The engine runs on threads of its own, started by the first operation, whatever runtime the caller is on.

#![forbid(unsafe_code)]

mod acquire;
mod attempt;
pub mod backend;
pub mod caller;
mod calls;
pub mod choice;
pub mod client;
pub mod clock;
mod closing;
mod deadlines;
pub mod error;
pub mod fencing;
pub mod fork;
mod give_back;
#[doc(hidden)]
pub mod ground;
pub mod health;
mod held;
pub mod holder;
mod known;
pub mod lease;
pub mod lease_state;
pub mod lock;
pub mod logs;
pub mod observe;
mod observing;
pub mod options;
pub mod owner;
mod places;
mod process;
mod reentry;
mod renewal;
mod retry;
mod runtime;
mod self_wait;
mod session;
#[doc(hidden)]
pub mod shown;
pub mod unit;
mod waiters;

pub use caller::Caller;
pub use choice::{ChosenBy, Variables};
pub use client::Client;
pub use error::{Error, LossReason, Result};
pub use health::{Health, HealthStatus};
pub use lease::{Discarded, Lease};
pub use lease_state::Status;
pub use lock::Lock;
pub use observe::Stats;
pub use options::{ClientOptions, LockOptions, Renewal, Retry};
pub use runtime::{Call, call, shutdown};
pub use unit::Unit;

/// The samples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// Those of the page for who comes from go-lynx.
#[cfg(doctest)]
#[doc = include_str!("../../docs/lynx.md")]
struct Lynx;
