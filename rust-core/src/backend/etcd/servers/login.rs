//! Logs in on a connection, and asks whether it leads to a server that serves.

use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, Error, ResponseHeader};
use tonic::{Code, transport};

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
pub(super) struct LoggedIn {
    /// Clones share the connection.
    pub(super) client: Client,
    /// The server's version.
    pub(super) version: String,
    /// The cluster that it is a member of.
    pub(super) cluster: u64,
}

impl EtcdLogin {
    /// Logs in on a connection.
    pub(super) async fn on(&self, server: &Endpoint, channel: transport::Channel) -> Result<LoggedIn, ServerFailure> {
        let failed = |error| ServerFailure::of_connecting(server, error);
        // A server that is cut off from the others then refuses requests at once, instead of letting them wait for a leader.
        let options = ConnectOptions::new().with_require_leader(true);
        let mut client = Client::from_channel(Channel::Tonic(channel), Some(options)).await.map_err(failed)?;
        self.log_in(&mut client).await.map_err(failed)?;
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
        Ok(LoggedIn { client, version, cluster })
    }

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
