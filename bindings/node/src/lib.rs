//! The engine as Node sees it. Data in, data out; policy stays in the engine, promises and classes stay in JavaScript.
//!
//! JavaScript names clients, locks, leases and calls by numbers that it chooses; no pointer crosses the border. A call returns at once, and
//! its outcome comes back through the completion queue.
#![deny(unsafe_code)]
#![allow(clippy::needless_pass_by_value)] // text from JavaScript arrives as a String of ours

mod bridge;
mod client;
mod completion;
mod direct;
mod drain;
mod error;
mod event;
mod lease;
mod lock;
mod numbers;
mod observe;

pub use bridge::Bridge;
use napi_derive::napi;

/// Memory that one thread allocates is often freed on another, which the system allocator serialises (measured: a tenth of the time of an
/// acquire and release).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Version of the engine, shared by every package of the project.
#[napi]
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The log message of a client for which nothing chose a backend.
#[napi]
pub const DEFAULT_CHOSEN: &str = dlock::choice::DEFAULT_CHOSEN;
