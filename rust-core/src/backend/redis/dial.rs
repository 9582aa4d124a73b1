//! Connects and logs in: over TCP, over TLS or through a socket file.

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::failure;
use super::tls::Tls;
use crate::error::BackendError;

/// An address to connect to, and how to log in there.
#[derive(Clone)]
pub(super) struct DialTarget {
    pub(super) info: ConnectionInfo,
    pub(super) tls: Option<Tls>,
}

/// A connection that is logged in.
pub(super) struct Wire {
    pub(super) connection: MultiplexedConnection,
    /// Over TLS we connect, so the task that drives the connection is ours, and ends with this. Elsewhere the client library has it.
    _driver: Option<AbortOnDropHandle<()>>,
}

impl DialTarget {
    /// # Errors
    /// What is expected instead.
    pub(super) fn new(address: ConnectionAddr, login: RedisConnectionInfo, tls: Option<Tls>) -> Result<Self, &'static str> {
        let info = address.into_connection_info().map_err(|_| "an address to connect to")?;
        Ok(Self { info: info.set_redis_settings(login).set_tcp_settings(TcpSettings::default().set_nodelay(true)), tls })
    }

    /// The error that the server has not answered in time, where more is known than that.
    pub(super) fn late(&self) -> Option<BackendError> {
        self.tls.as_ref().and_then(Tls::late)
    }

    /// Connects and logs in.
    pub(super) async fn dial(&self, config: &AsyncConnectionConfig) -> Result<Wire, BackendError> {
        match (&self.tls, self.info.addr()) {
            (Some(tls), ConnectionAddr::Tcp(host, port)) => self.dial_tls(tls, (host, *port), config).await,
            _ => self.dial_plain(config).await,
        }
    }

    async fn dial_plain(&self, config: &AsyncConnectionConfig) -> Result<Wire, BackendError> {
        let client = Client::open(self.info.clone()).map_err(failure::of_connecting)?;
        let connected = client.get_multiplexed_async_connection_with_config(config).await;
        let connection = connected.map_err(|error| match self.info.addr() {
            ConnectionAddr::Tcp(..) => failure::of_login(error, false),
            _ => failure::of_connecting(error),
        })?;
        Ok(Wire { connection, _driver: None })
    }

    async fn dial_tls(&self, tls: &Tls, (host, port): (&str, u16), config: &AsyncConnectionConfig) -> Result<Wire, BackendError> {
        tls.begin();
        let stream = TcpStream::connect((host, port)).await.map_err(|error| failure::of_connecting(error.into()))?;
        stream.set_nodelay(true).map_err(|error| failure::of_connecting(error.into()))?;
        let stream = tls.shake_hands(host, stream).await.map_err(failure::of_handshake)?;
        let logged_in = MultiplexedConnection::new_with_config(self.info.redis_settings(), stream, config.clone()).await;
        let (connection, driver) = logged_in.map_err(|error| failure::of_login(error, true))?;
        Ok(Wire { connection, _driver: Some(AbortOnDropHandle::new(tokio::spawn(driver))) })
    }
}
