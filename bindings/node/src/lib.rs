//! The engine as Node sees it. Data in, data out; policy stays in the engine.
#![deny(unsafe_code)]

use napi_derive::napi;

/// Version of the engine, shared by every package of the project.
#[napi]
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
