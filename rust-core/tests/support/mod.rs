//! Shared code of the tests with real servers.

// Every test file is a separate crate and uses a part of this.
#![allow(dead_code, unused_imports, missing_docs, unreachable_pub)]
// A failing step fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod certificates;
pub mod etcd;
pub mod proxy;
pub mod redis;
pub mod sentinel;
pub mod soak;
pub mod starting;

use std::time::{Duration, Instant};

/// Repeats a check until it holds; panics after longer than any healthy machine needs.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < Duration::from_secs(20), "still not: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
