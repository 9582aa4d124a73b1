//! Which backend a URL names.

use std::sync::Arc;
use std::time::Duration;

use super::contract::{Backend, Context};
#[cfg(feature = "etcd")]
use super::etcd;
use super::plan::Plan;
use super::{hosts, local, memory, redis};
use crate::error::Error;

/// Opens the backend that a URL names. Checks the URL; connects to nothing.
///
/// # Errors
/// As [`parse`].
pub fn from_url(url: &str, context: Context) -> Result<Arc<dyn Backend>, Error> {
    Ok(parse(url, &context.namespace, context.op_timeout)?.open(context))
}

/// Reads the URL of a backend for clients with this namespace and timeout. Certificates that it names are read here, and never again.
///
/// # Errors
/// [`Error::InvalidOptions`] for an unknown scheme or parameters that the backend does not have.
pub fn parse(url: &str, namespace: &str, op_timeout: Duration) -> Result<Plan, Error> {
    hosts::check_login(url)?;
    // Before they are parsed as others are: they name several hosts.
    match url.split_once("://") {
        #[cfg(feature = "etcd")]
        Some(("etcd" | "etcds", _)) => return etcd::parse(url),
        Some(("redis+sentinel" | "rediss+sentinel", _)) => return redis::parse_service(url, namespace, op_timeout),
        _ => {}
    }
    let refuse = |allowed: &str| Error::invalid("url", hosts::shown(url), allowed);
    let parsed = url::Url::parse(url).map_err(|error| match error {
        url::ParseError::InvalidPort => refuse(PORTS),
        _ => refuse(URLS),
    })?;
    if parsed.port() == Some(0) {
        return Err(refuse(PORTS));
    }
    match parsed.scheme() {
        "memory" => memory::parse(&parsed),
        "local" => local::parse(&parsed),
        "redis" | "rediss" | "redis+unix" | "unix" => redis::parse(&parsed, namespace, op_timeout),
        _ => Err(refuse(URLS)),
    }
}

#[cfg(feature = "etcd")]
const URLS: &str = "local:, local:///path, memory:, memory:name, redis://host:port/db, redis+sentinel://host:port/service or etcd://host:port,host:port";
#[cfg(not(feature = "etcd"))]
const URLS: &str = "local:, local:///path, memory:, memory:name, redis://host:port/db or redis+sentinel://host:port/service";
const PORTS: &str = "a port from 1 to 65535, or none";
