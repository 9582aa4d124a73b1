//! Distributed locks with fencing tokens, on one engine.

#![forbid(unsafe_code)]

pub mod backend;
pub mod clock;
pub mod error;
pub mod fencing;
pub mod holder;
pub mod owner;

pub use backend::local::fork;
