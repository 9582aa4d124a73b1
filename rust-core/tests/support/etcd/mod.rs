//! Real servers of etcd: one alone, or a cluster of three.

mod cluster;
mod server;

pub use cluster::EtcdCluster;
pub use server::{EtcdServer, Options, Status, Tls, Version};
