//! How the etcd backend reaches its servers: what it refuses, how it logs in, whom it asks when one of them is not well.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod failing_over;
mod logging_in;
mod parrot;
mod refusals;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use dlock::backend::etcd::servers::address::EtcdAddress;
use dlock::backend::etcd::servers::endpoints::{Endpoints, ServerAnswer};
use dlock::error::BackendError;

/// The engine's defaults.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const OP_TIMEOUT: Duration = Duration::from_secs(1);

fn open(url: &str) -> Endpoints {
    Endpoints::new(EtcdAddress::parse(url).unwrap(), CONNECT_TIMEOUT)
}

/// A request that goes through the cluster's log, and may be repeated.
async fn put(endpoints: &Endpoints, timeout: Duration) -> Result<ServerAnswer<()>, BackendError> {
    endpoints.run(timeout, |mut client| async move { client.put("key", "value", None).await.map(drop) }).await
}

/// A first call, as `Client::connect` makes it.
async fn connect(url: &str) -> Result<ServerAnswer<()>, BackendError> {
    put(&open(url), CONNECT_TIMEOUT).await
}
