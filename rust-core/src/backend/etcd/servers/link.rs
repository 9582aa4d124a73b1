//! One connection to one server, logged in and known to be etcd's.

use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, Error, ResponseHeader};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tonic::Code;

use super::address::{Credentials, Endpoint};
use super::failure::{FailureScope, ServerFailure};
use crate::error::Failure;

/// How to log in.
pub(super) struct EtcdLogin {
    pub(super) credentials: Option<Credentials>,
    /// How long connecting and logging in may take.
    pub(super) connect_timeout: Duration,
}

/// A connection that is logged in.
pub(super) struct ServerLink {
    /// Clones share the connection.
    pub(super) client: Client,
    /// The server's version.
    pub(super) version: String,
    /// The cluster that it is a member of.
    pub(super) cluster: u64,
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
        let failed = |error| ServerFailure::of_connecting(server, error);
        let channel = server.transport().connect().await.map_err(Error::from).map_err(failed)?;
        // A server that is cut off from the others then refuses requests at once, instead of letting them wait for a leader.
        let options = ConnectOptions::new().with_require_leader(true);
        let mut client = Client::from_channel(Channel::Tonic(channel), Some(options)).await.map_err(failed)?;
        login.log_in(&mut client).await.map_err(failed)?;
        let status = client.status().await.map_err(failed)?;
        if status.is_learner() {
            return Err(ServerFailure::new(
                server,
                FailureScope::Server,
                Failure::NotSent,
                "it is a learner, which does not serve yet",
            ));
        }
        let cluster = status.header().map_or(0, ResponseHeader::cluster_id);
        let version = status.version().to_owned();
        Ok(Self { client, version, cluster, answered: Mutex::new(Instant::now()) })
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

impl EtcdLogin {
    /// Gets a token, which the client adds to every later request.
    async fn log_in(&self, client: &mut Client) -> Result<(), Error> {
        let Some(Credentials { user, password }) = &self.credentials else { return Ok(()) };
        match client.update_user(Some((user.clone(), password.clone()))).await {
            // The server wants no login. If that changes, it refuses requests, and they lead to a new connection.
            Err(Error::GRpcStatus(status)) if is_not_needed(&status) => Ok(()),
            answer => answer,
        }
    }
}

fn is_not_needed(status: &tonic::Status) -> bool {
    status.code() == Code::FailedPrecondition && status.message().contains("authentication is not enabled")
}
