//! `local:` between real processes. Each test starts copies of itself, whose part is in the environment.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod actor;
mod client;
mod ended_holders;
mod parts;
mod taking_turns;

use std::time::Duration;

/// The promise: the key of a holder whose process ends is free within this time.
const HAND_OVER: Duration = Duration::from_millis(100);

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}
