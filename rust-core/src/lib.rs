//! Distributed locks with fencing tokens, on one engine.

#![forbid(unsafe_code)]

mod acquire;
pub mod backend;
pub mod client;
pub mod clock;
mod deadlines;
pub mod error;
pub mod fencing;
mod give_back;
mod held;
pub mod holder;
pub mod lease;
pub mod lease_state;
pub mod lock;
pub mod options;
pub mod owner;
mod places;
mod process;
mod renewal;
mod runtime;
mod session;
mod waiters;

pub use backend::local::fork;
pub use client::Client;
pub use error::{Error, LossReason, Result};
pub use lease::Lease;
pub use lease_state::Status;
pub use lock::Lock;
pub use options::{ClientOptions, LockOptions, Unit};
pub use runtime::{shutdown, spawn};
