//! Connects and logs in: over TCP, over TLS or through a socket file.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use super::direct_connection::DirectConnection;
use super::failure;
use super::tls::Tls;
use crate::backend::direct::{CallerConnection, EngineWait};
use crate::error::{BackendError, Failure};

/// An address to connect to, and how to log in there.
#[derive(Clone)]
pub(super) struct DialTarget {
    pub(super) info: ConnectionInfo,
    pub(super) tls: Option<Tls>,
}

/// A connection that is logged in.
pub(super) struct Wire {
    pub(super) connection: MultiplexedConnection,
    /// Where it leads.
    pub(super) target: DialTarget,
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
        Ok(Wire { connection, target: self.clone(), _driver: None })
    }

    async fn dial_tls(&self, tls: &Tls, (host, port): (&str, u16), config: &AsyncConnectionConfig) -> Result<Wire, BackendError> {
        let stream = connect_tls(tls, (host, port)).await?;
        let logged_in = MultiplexedConnection::new_with_config(self.info.redis_settings(), stream, config.clone()).await;
        let (connection, driver) = logged_in.map_err(|error| failure::of_login(error, true))?;
        Ok(Wire { connection, target: self.clone(), _driver: Some(AbortOnDropHandle::new(tokio::spawn(driver))) })
    }

    /// Connects and logs in for a direct connection.
    pub(super) async fn dial_direct(&self, client_name: &str) -> Result<DirectConnection, BackendError> {
        let failed = |error: io::Error| failure::of_connecting(error.into());
        let (fd, tls): (OwnedFd, _) = match (&self.tls, self.info.addr()) {
            (Some(tls), ConnectionAddr::Tcp(host, port)) => {
                let (stream, tls) = connect_tls(tls, (host, *port)).await?.into_inner();
                (stream.into_std().map_err(failed)?.into(), Some(tls))
            }
            (_, ConnectionAddr::Tcp(host, port)) => (connect((host, *port)).await?.into_std().map_err(failed)?.into(), None),
            (_, ConnectionAddr::Unix(path)) => {
                (UnixStream::connect(path).await.map_err(failed)?.into_std().map_err(failed)?.into(), None)
            }
            _ => return Err(BackendError::new(Failure::NotSent, "an address of another kind")),
        };
        let mut connection = DirectConnection::new(fd, tls);
        let login = self.info.redis_settings();
        if let Some(password) = login.password() {
            let mut auth = redis::cmd("AUTH");
            if let Some(user) = login.username() {
                auth.arg(user);
            }
            said(&mut connection, auth.arg(password)).await?;
        }
        if login.db() != 0 {
            said(&mut connection, redis::cmd("SELECT").arg(login.db())).await?;
        }
        // A server that forbids it serves locks all the same.
        let _ = said(&mut connection, redis::cmd("CLIENT").arg("SETNAME").arg(client_name)).await;
        // One that takes no more clients says so now, and hangs up.
        said(&mut connection, &redis::cmd("PING")).await?;
        Ok(connection)
    }
}

async fn connect(server: (&str, u16)) -> Result<TcpStream, BackendError> {
    let failed = |error: io::Error| failure::of_connecting(error.into());
    let stream = TcpStream::connect(server).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

async fn connect_tls(tls: &Tls, server: (&str, u16)) -> Result<TlsStream<TcpStream>, BackendError> {
    tls.begin();
    let stream = connect(server).await?;
    tls.shake_hands(server.0, stream).await.map_err(failure::of_handshake)
}

/// Sends a command on a connection that nobody else uses yet, and waits for its answer.
async fn said(connection: &mut DirectConnection, command: &Cmd) -> Result<(), BackendError> {
    let failed = |error: io::Error| failure::of_connecting(error.into());
    connection.send(command).map_err(failed)?;
    let mut wait = EngineWait::default();
    loop {
        if let Some(answer) = connection.receive().map_err(failure::of_connecting)? {
            return answer.extract_error().map(drop).map_err(failure::of_connecting);
        }
        poll_fn(|context| wait.poll(context, connection.socket())).await.map_err(failed)?;
    }
}
