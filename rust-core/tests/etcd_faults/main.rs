//! What the etcd backend does when servers, connections and leases fail, and what it costs the cluster when nothing does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod batches;
mod cluster;
mod cost;
mod dead_leases;
mod key_numbers;
mod late_requests;
mod leaving;
mod names;
mod optimistic_batches;
mod session;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod waiting;
