//! `etcd://`: locks on an etcd cluster, which survive the loss of a server.

#[doc(hidden)] // for the tests that break servers
pub mod address;
mod cluster;
#[doc(hidden)]
pub mod endpoints;
mod failure;
mod link;
mod member;
mod tls;
mod versions;
