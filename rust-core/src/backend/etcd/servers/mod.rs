//! Which server to ask. Nothing in this folder knows of locks.
//!
//! `address` reads the URL, and `tls` the files that it names. `endpoints` sends a request to the best server and to the next best when
//! that one fails. `member` is one server and its health, `link` one connection to it and `login` how it is made; `direct` and
//! `direct_channel` are for lone requests. `failure` says what an error means, and `cluster`
//! keeps what the servers have in common; `versions` lists the faults of etcd's own versions.

pub mod address;
mod cluster;
mod direct;
mod direct_channel;
pub mod endpoints;
mod failure;
mod link;
mod login;
mod member;
mod tls;
mod versions;
