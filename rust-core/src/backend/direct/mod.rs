//! The direct connection of a link: a second one, for lone requests, whose callers send them and read the answers themselves.
//!
//! `access` says who may use it now, and when one is made or given up. `socket_bytes` is its socket's bytes, and `engine_wait` how the engine waits for
//! an answer that its caller has left to it. What is asked on the connection, and how answers are read, is the backend's: see `direct` of
//! `redis` and of `etcd::servers`.

mod access;
mod engine_wait;
mod socket_bytes;

pub(in crate::backend) use access::{CallerConnection, DirectAccess, keep_while_used};
pub(in crate::backend) use engine_wait::EngineWait;
pub(in crate::backend) use socket_bytes::{SocketBytes, hang_up};
