//! The engine: how a key is acquired, kept and released, behind [`Client`](crate::Client), [`Lock`](crate::Lock) and
//! [`Lease`](crate::Lease).

pub(crate) mod acquire;
pub(crate) mod attempt;
pub(crate) mod background;
pub(crate) mod call;
pub(crate) mod closing;
pub(crate) mod deadlines;
pub(crate) mod driven;
pub mod environment;
pub mod fork_hooks;
pub(crate) mod health;
pub(crate) mod lease_record;
pub mod lease_state;
pub(crate) mod leases;
pub(crate) mod leaving;
pub(crate) mod line;
pub(crate) mod line_status;
pub(crate) mod pending_calls;
pub(crate) mod release;
pub(crate) mod renewal;
pub(crate) mod retry;
pub(crate) mod runtime;
pub(crate) mod rust_calls;
pub(crate) mod self_wait;
pub(crate) mod session;
pub(crate) mod shared_client;
pub(crate) mod shutdown;
pub(crate) mod takeover;
pub(crate) mod waiter_heartbeats;
pub(crate) mod weak_list;
