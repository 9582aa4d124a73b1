//! The URL: which servers, how to log in, what to trust.
//!
//! `etcd://[user:password@]host[:port][,host[:port]…][/prefix]`, or `etcds://` for TLS, with the parameters `ca`, `cert` and `key`: paths
//! of PEM files.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{self, ClientTlsConfig};
use url::form_urlencoded;

use super::tls;
use crate::backend::hosts::{Parts, decoded, no_parameter};
use crate::backend::pem::Files;
use crate::error::Error;

const DEFAULT_PORT: u16 = 2379;

/// How often the transport asks for a sign of life on a connection with open streams, and after what silence it closes the connection.
/// etcd closes connections on which it is asked more often than every five seconds.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

const EXPECTED: &str = "etcd://host:port,host:port/prefix or etcds://…";

/// A parsed URL.
#[derive(Clone)]
pub struct EtcdAddress {
    /// The servers, in the order of the URL.
    pub(super) endpoints: Vec<Endpoint>,
    /// User and password.
    pub(super) credentials: Option<Credentials>,
    prefix: String,
    shown: Arc<str>,
}

/// One server's address.
#[derive(Clone)]
pub(super) struct Endpoint {
    name: String,
    transport: transport::Endpoint,
    direct_transport: transport::Endpoint,
}

impl Endpoint {
    /// Makes connections to it.
    pub(super) fn transport(&self) -> &transport::Endpoint {
        &self.transport
    }

    /// Makes connections that send nothing by themselves.
    pub(super) fn direct_transport(&self) -> &transport::Endpoint {
        &self.direct_transport
    }

    /// True with TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.transport.uri().scheme_str() == Some("https")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A user and a password.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

impl EtcdAddress {
    /// Reads a URL and the files it names; connects to nothing.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] for a URL or file that cannot be used.
    pub fn parse(url: &str) -> Result<Self, Error> {
        let parts = Parts::of(url);
        let refuse = |allowed: String| parts.refused(allowed);
        let secure = match parts.scheme {
            "etcd" => false,
            "etcds" => true,
            _ => return Err(refuse(format!("a URL such as {EXPECTED}"))),
        };
        if parts.fragment.is_some() {
            return Err(refuse("a URL without #fragment".to_owned()));
        }
        let servers = parts.servers(DEFAULT_PORT, EXPECTED).map_err(refuse)?;
        let credentials = credentials(parts.user_info).map_err(refuse)?;
        let files = files(&parts).map_err(refuse)?;
        if !secure && files != Files::default() {
            return Err(refuse("ca, cert and key are for etcds://".to_owned()));
        }
        let prefix = prefix(parts.path).map_err(refuse)?;
        let tls = if secure { Some(tls::config(&files).map_err(refuse)?) } else { None };
        let endpoints =
            servers.iter().map(|server| endpoint(server.to_string(), tls.as_ref())).collect::<Result<_, _>>().map_err(refuse)?;
        Ok(Self { endpoints, credentials, prefix, shown: parts.shown().into() })
    }

    /// The URL for logs and errors, without user information and parameters.
    pub fn shown(&self) -> Arc<str> {
        self.shown.clone()
    }

    /// The beginning of every key: the URL's path without its first slash, and with one at its end unless it is empty.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl fmt::Debug for EtcdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EtcdAddress").field(&self.shown).finish()
    }
}

fn endpoint(name: String, tls: Option<&ClientTlsConfig>) -> Result<Endpoint, String> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let transport =
        transport::Endpoint::from_shared(format!("{scheme}://{name}")).map_err(|_| format!("{name} is not host:port"))?;
    let direct_transport = match tls {
        Some(tls) => transport.tls_config(tls.clone()).map_err(|error| tls::unusable(&error))?,
        None => transport,
    };
    let transport = direct_transport.clone().tcp_nodelay(true);
    let transport = transport.http2_keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
    Ok(Endpoint { name, transport, direct_transport })
}

fn credentials(user_info: Option<&str>) -> Result<Option<Credentials>, String> {
    let Some(user_info) = user_info else { return Ok(None) };
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let decode = |text: &str| decoded(text).ok_or("a user and a password in UTF-8");
    let (user, password) = (decode(user)?, decode(password)?);
    if user.is_empty() || password.is_empty() {
        return Err("a user and a password, as in etcd://user:password@host".to_owned());
    }
    Ok(Some(Credentials { user, password }))
}

fn files(parts: &Parts<'_>) -> Result<Files, String> {
    let mut files = Files::default();
    for (name, value) in form_urlencoded::parse(parts.query.as_bytes()) {
        if !files.take(&name, &value)? {
            return Err(format!("{}; there are ca, cert and key", no_parameter(parts.query, &name)));
        }
    }
    Ok(files)
}

fn prefix(path: &str) -> Result<String, String> {
    let path = decoded(path).ok_or("a path in UTF-8")?;
    if path.chars().any(char::is_control) {
        return Err("a path without control characters".to_owned());
    }
    let path = path.trim_matches('/');
    Ok(if path.is_empty() { String::new() } else { format!("{path}/") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_endpoints(url: &str) -> Vec<String> {
        EtcdAddress::parse(url).unwrap().endpoints.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_url_gives_endpoints_login_and_prefix() {
        let address = EtcdAddress::parse("etcd://me:s%40c+r/e%20t@h1,h2:7000,[::1]:1,10.0.0.1/app/locks/").unwrap();
        let endpoints: Vec<_> = address.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(endpoints, ["h1:2379", "h2:7000", "[::1]:1", "10.0.0.1:2379"]);
        let credentials = address.credentials.as_ref().unwrap();
        assert_eq!((&*credentials.user, &*credentials.password), ("me", "s@c+r/e t"));
        assert_eq!(address.prefix(), "app/locks/");
        assert_eq!(&*address.shown(), "etcd://h1,h2:7000,[::1]:1,10.0.0.1/app/locks/");
    }

    #[test]
    fn defaults_are_understood() {
        assert_eq!(shown_endpoints("etcd://localhost"), ["localhost:2379"]);
        assert_eq!(shown_endpoints("etcds://h:443/"), ["h:443"]);
        assert_eq!(shown_endpoints("etcd://[fe80::1]"), ["[fe80::1]:2379"]);
        let address = EtcdAddress::parse("etcd://localhost").unwrap();
        assert!(address.credentials.is_none() && !address.endpoints[0].is_secure() && address.prefix().is_empty());
    }

    #[test]
    fn r18_what_is_shown_holds_no_password() {
        for url in [
            "etcd://me:secret@h:1/p",
            "etcd://me:secret@h?what=1",
            "etcd://me:a@b/secret@h1,,h2",
            "etcd://secret@h",
            "etcd://me:secret?more@h",
            "etcd://me:12?secret@h",
            "etcd://secret:12?more@h",
            "etcd://secret,secret?more@h",
            "etcd://me:12?secret&more@h",
            "etcd://me:12#secret?more@h",
            "etcd://me:12/secret#more@h",
            "etcd://me:a@b?secret@h",
            "etcd://secret:a@b,secret?more@h",
            "etcd:me:secret@h",
            "x://a:secret@h",
        ] {
            let shown = EtcdAddress::parse(url).map_or_else(|error| error.to_string(), |address| format!("{address:?}"));
            assert!(!shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn r15_urls_that_cannot_be_used_are_refused() {
        for (url, message) in [
            ("etcd://", "\"\" is not host:port"),
            ("etcd:h", "etcd://host:port"),
            ("etcd://h1:2379,,h2", "\"\" is not host:port"),
            ("etcd://h1:23x9,h2", "\"h1:23x9\" is not host:port"),
            ("etcd://h1:0", "\"h1:0\" is not host:port"),
            ("etcd://h1:99999", "\"h1:99999\" is not host:port"),
            ("etcd://h1;h2", "\"h1;h2\" is not host:port"),
            ("etcd://h1, h2", "\" h2\" is not host:port"),
            ("etcd://::1", "\"::1\" is not host:port"),
            ("etcd://http://h1", "\"http:\" is not host:port"),
            ("etcd://h1:2379,h1", "h1:2379 is named twice"),
            ("etcd://me@h", "a user and a password"),
            ("etcd://:secret@h", "a user and a password"),
            ("etcd://h?timeout=1", "there is no parameter \"timeout\""),
            ("etcd://h?ca=/x", "ca, cert and key are for etcds://"),
            ("etcds://h?ca=/x&ca=/y", "ca is given twice"),
            ("etcds://h?cert=/x", "cert and key"),
            ("etcd://h#f", "#fragment"),
            ("etcd://h/%00", "control characters"),
        ] {
            let error = EtcdAddress::parse(url).expect_err(url);
            assert!(matches!(&error, Error::InvalidOptions { .. }) && error.to_string().contains(message), "{url}: {error}");
        }
    }
}
