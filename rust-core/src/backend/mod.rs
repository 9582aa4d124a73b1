//! Where the truth about locks is kept: one contract, and a folder for each backend that keeps it.
//!
//! `contract` says what a backend promises, `memory` is its reference, `plan` and `urls` lead from a URL to a backend.

mod contract;
mod direct;
#[cfg(feature = "etcd")]
pub mod etcd;
mod hosts;
mod limits;
pub mod local;
pub(crate) mod measured;
pub mod memory;
mod pem;
mod plan;
pub mod redis;
mod timers;
mod urls;

pub use contract::{
    Acquire, Acquired, Backend, Capabilities, Context, Grant, Handover, Hint, Inspection, Outcome, Release, Renew, Renewed, Reply,
    Waiter, Waiting, Whom,
};
pub use plan::Plan;
pub use urls::{from_url, parse};
