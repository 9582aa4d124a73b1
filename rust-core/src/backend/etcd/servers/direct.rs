//! Lone requests: their callers send them and read the answers, and no thread stands between a caller and its server.
//!
//! A transaction that finds nothing else under way goes over a second connection to the same server, the *direct* one, which has no task of
//! its own ([`DirectChannel`]). [`crate::backend::direct`] has what is common to all backends.
//!
//! Two connections keep no order, and on etcd nothing depends on one: requests about one attempt wait for each other (`attempts`), and one that
//! is executed late does no harm (`guard`).

use std::sync::{Arc, Weak};

use etcd_client::Client;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::address::Endpoint;
use super::cluster::Cluster;
use super::direct_channel::DirectChannel;
use super::failure::{FailureScope, ServerFailure};
use super::login::EtcdLogin;
use crate::backend::direct::{CallerConnection, DirectAccess, keep_while_used};
use crate::driver::{Reader, Socket};
use crate::error::Failure;
use crate::observe::logs::target;

/// The direct connection of a link.
pub(super) struct EtcdDirectConnection {
    channel: Arc<DirectChannel>,
    client: Client,
}

impl CallerConnection for EtcdDirectConnection {
    fn socket(&self) -> &Arc<Socket> {
        self.channel.socket()
    }

    fn is_usable(&mut self) -> bool {
        self.channel.look();
        !self.channel.is_over()
    }
}

/// The direct connection, lent for one request.
pub(super) struct LentConnection {
    access: Arc<DirectAccess<EtcdDirectConnection>>,
    channel: Arc<DirectChannel>,
    pub(super) client: Client,
    is_answered: bool,
}

impl LentConnection {
    /// Sends a request with [`Self::client`] and reads its answer.
    ///
    /// # Cancel safety
    /// A request that is dropped may still be executed.
    pub(super) async fn ask<T>(mut self, request: impl Future<Output = T>) -> T {
        let answer = self.channel.drive(request).await;
        self.is_answered = true;
        answer
    }
}

impl Drop for LentConnection {
    fn drop(&mut self) {
        // A connection on which no answer has come may be dead.
        self.access.end(self.is_answered && !self.channel.is_over());
    }
}

/// The direct connection of a link, if it is free for a caller with this reader.
pub(super) fn lend(access: &Arc<DirectAccess<EtcdDirectConnection>>, reader: Reader) -> Option<LentConnection> {
    access.begin("", reader, |direct| LentConnection {
        access: access.clone(),
        channel: direct.channel.clone(),
        client: direct.client.clone(),
        is_answered: false,
    })
}

/// Makes the direct connection of a link, and ends it when it is not used any more. It does not keep the link.
pub(super) async fn connect(
    server: Endpoint,
    login: Arc<EtcdLogin>,
    cluster: Arc<Cluster>,
    access: Weak<DirectAccess<EtcdDirectConnection>>,
) {
    let made = timeout(login.connect_timeout, Box::pin(open(&server, &login, &cluster))).await;
    let silent =
        |_| Err(ServerFailure::new(&server, FailureScope::Silent, Failure::NotSent, "it does not answer within connect_timeout"));
    let made = made.unwrap_or_else(silent);
    if let Err(failed) = &made {
        tracing::debug!(target: target::ETCD_MEMBER, error = %failed.error, "no direct connection");
    }
    keep_while_used(access, made.ok()).await;
}

async fn open(server: &Endpoint, login: &EtcdLogin, cluster: &Cluster) -> Result<EtcdDirectConnection, ServerFailure> {
    let not_connected =
        |error: std::io::Error| ServerFailure::new(server, FailureScope::Server, Failure::NotSent, &error.to_string());
    let stream = TcpStream::connect(server.to_string()).await.map_err(not_connected)?;
    stream.set_nodelay(true).map_err(not_connected)?;
    let fd = stream.into_std().map_err(not_connected)?.into();
    let opened = DirectChannel::open(fd, server.direct_transport()).await;
    let (channel, transport) = opened.map_err(|error| ServerFailure::of_connecting(server, error.into()))?;
    let logged_in = Box::pin(channel.drive(login.on(server, transport))).await?;
    cluster.check(server, &logged_in)?;
    Ok(EtcdDirectConnection { channel, client: logged_in.client })
}
