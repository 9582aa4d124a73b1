//! One connection to one server, logged in and known to be etcd's.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::address::Endpoint;
use super::direct::EtcdDirectConnection;
use super::failure::{FailureScope, ServerFailure};
use super::login::{EtcdLogin, LoggedIn};
use crate::backend::direct::DirectAccess;
use crate::error::Failure;

/// A connection that is logged in.
pub(super) struct ServerLink {
    pub(super) logged_in: LoggedIn,
    /// For requests that nothing else is under way with.
    pub(super) direct: Arc<DirectAccess<EtcdDirectConnection>>,
    answered: Mutex<Instant>,
}

impl ServerLink {
    /// Connects, logs in, and asks the server for its version and cluster.
    pub(super) async fn open(server: &Endpoint, login: &EtcdLogin) -> Result<Self, ServerFailure> {
        let silent =
            || ServerFailure::new(server, FailureScope::Silent, Failure::NotSent, "it does not answer within connect_timeout");
        timeout(login.connect_timeout, Self::connect(server, login)).await.unwrap_or_else(|_| Err(silent()))
    }

    async fn connect(server: &Endpoint, login: &EtcdLogin) -> Result<Self, ServerFailure> {
        let channel = server.transport().connect().await;
        let channel = channel.map_err(|error| ServerFailure::of_connecting(server, error.into()))?;
        let logged_in = login.on(server, channel).await?;
        Ok(Self { logged_in, direct: Arc::default(), answered: Mutex::new(Instant::now()) })
    }

    /// Notes an answer.
    pub(super) fn note_answer(&self) {
        *self.answered.lock() = Instant::now();
    }

    /// True if the server has answered nothing since `instant`.
    pub(super) fn is_silent_since(&self, instant: Instant) -> bool {
        *self.answered.lock() < instant
    }
}
