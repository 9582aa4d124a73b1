//! One connection to one server, logged in and known to be etcd's.

use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, Error};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::{self, ClientTlsConfig};

use super::address::{Endpoint, Login};
use super::failure::{Failed, Scope};
use crate::error::Failure;

/// How often a connection with open streams is asked for a sign of life, and how long that may take: then it is closed. etcd hangs up on
/// those who ask more often than every five seconds.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach a cluster's servers.
pub(super) struct Wiring {
    pub(super) login: Option<Login>,
    pub(super) tls: Option<ClientTlsConfig>,
    pub(super) connect_timeout: Duration,
}

/// A connection that is logged in.
pub(super) struct Link {
    /// Clones share the connection.
    pub(super) client: Client,
    /// The server's version.
    pub(super) version: String,
    /// The cluster that it is a member of.
    pub(super) cluster: u64,
    answered: Mutex<Instant>,
}

impl Link {
    /// Connects, logs in, and asks who is there.
    pub(super) async fn open(endpoint: &Endpoint, wiring: &Wiring) -> Result<Self, Failed> {
        let server = endpoint.to_string();
        tokio::time::timeout(wiring.connect_timeout, Self::connect(&server, wiring)).await.unwrap_or_else(|_| {
            Err(Failed::new(&server, Scope::Server, Failure::NotSent, "not connected within connect_timeout: it does not answer"))
        })
    }

    async fn connect(server: &str, wiring: &Wiring) -> Result<Self, Failed> {
        let failed = |error| Failed::of_connecting(server, wiring.tls.is_some(), error);
        let channel =
            transport(server, wiring).map_err(Error::from).map_err(failed)?.connect().await.map_err(Error::from).map_err(failed)?;
        // A server that is cut off from the others says so at once, instead of having requests wait for a leader.
        let options = ConnectOptions::new().with_require_leader(true);
        let mut client = Client::from_channel(Channel::Tonic(channel), Some(options)).await.map_err(failed)?;
        if let Some(login) = &wiring.login {
            log_in(&mut client, login).await.map_err(failed)?;
        }
        let status = client.status().await.map_err(failed)?;
        if status.is_learner() {
            return Err(Failed::new(server, Scope::Server, Failure::NotSent, "it is a learner: it does not serve requests yet"));
        }
        let cluster = status.header().map_or(0, etcd_client::ResponseHeader::cluster_id);
        let version = status.version().to_owned();
        Ok(Self { client, version, cluster, answered: Mutex::new(Instant::now()) })
    }

    /// Notes an answer.
    pub(super) fn beat(&self) {
        *self.answered.lock() = Instant::now();
    }

    /// True if nothing was answered after `instant`.
    pub(super) fn is_silent_since(&self, instant: Instant) -> bool {
        *self.answered.lock() < instant
    }
}

fn transport(server: &str, wiring: &Wiring) -> Result<transport::Endpoint, transport::Error> {
    let scheme = if wiring.tls.is_some() { "https" } else { "http" };
    let endpoint = transport::Endpoint::from_shared(format!("{scheme}://{server}"))?
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    match &wiring.tls {
        Some(tls) => endpoint.tls_config(tls.clone()),
        None => Ok(endpoint),
    }
}

/// Gets a token, which goes with every request from then on.
async fn log_in(client: &mut Client, login: &Login) -> Result<(), Error> {
    match client.update_user(Some((login.user.clone(), login.password.clone()))).await {
        // Nobody has to log in here. Should that change, requests will be told, and come back.
        Err(Error::GRpcStatus(status)) if status.code() == Code::FailedPrecondition && status.message().contains("not enabled") => {
            Ok(())
        }
        other => other,
    }
}
