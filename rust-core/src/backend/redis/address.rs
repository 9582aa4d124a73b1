//! Reads a URL: where the server is and how to log in.

use std::sync::Arc;

use redis::{ConnectionAddr, ProtocolVersion};
use url::{Host, Url};

use super::dial::DialTarget;
use super::parameters::{Parameters, RedisLogin, UrlKind};
use super::sentinel::{Sentinel, Service};
use crate::backend::hosts::{Parts, decoded, refused_url};
use crate::error::Error;

const DEFAULT_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

const EXPECTED: &str = "redis+sentinel://host:port,host:port/service";

/// A parsed URL.
#[derive(Clone)]
pub(super) struct RedisUrl {
    /// Where the server is, with the password.
    pub(super) address: ServerAddress,
    /// The name that the server's `CLIENT LIST` shows.
    pub(super) client_name: String,
    /// The URL for errors and logs, without its password.
    pub(super) shown: Arc<str>,
}

/// Where the server is.
#[derive(Clone)]
pub(super) enum ServerAddress {
    /// One server.
    Fixed(DialTarget),
    /// The master that sentinels name.
    Service(Arc<Service>),
}

/// Reads `redis://[[user]:password@]host[:port][/db]`, or `rediss://` for TLS, with the parameters `ca`, `cert` and `key`: paths of PEM
/// files; and `redis+unix:///path[?db=&user=&pass=]`. All may have a `client_name`.
pub(super) fn parse(url: &Url) -> Result<RedisUrl, Error> {
    let shown = shown(url);
    let refuse = |allowed: String| refused_url(url, &shown, allowed);
    let (kind, secure) = match url.scheme() {
        "redis" => (UrlKind::Server, false),
        "rediss" => (UrlKind::Server, true),
        "redis+unix" | "unix" => (UrlKind::Socket, false),
        _ => return Err(refuse("a redis://, rediss:// or redis+unix:// URL".to_owned())),
    };
    if url.fragment().is_some() {
        return Err(refuse("a URL without #fragment".to_owned()));
    }
    let mut parameters = Parameters::read(kind, url.query().unwrap_or_default()).map_err(refuse)?;
    let tls = parameters.tls(secure).map_err(refuse)?;
    let shown = match parameters.login.db {
        Some(db) if kind == UrlKind::Socket => format!("{shown}?db={db}"),
        Some(db) => format!("{}/{db}", shown.trim_end_matches('/')),
        None => shown.clone(),
    };
    let address = match kind {
        UrlKind::Socket => socket(url),
        _ => tcp(url, &mut parameters.login),
    };
    let client_name = parameters.client_name();
    let target = address.and_then(|address| DialTarget::new(address, parameters.login.settings(ProtocolVersion::RESP3), tls));
    let target = target.map_err(|allowed| refuse(allowed.to_owned()))?;
    Ok(RedisUrl { address: ServerAddress::Fixed(target), client_name, shown: shown.into() })
}

/// Reads `redis+sentinel://[[user]:password@]host[:port][,host[:port]…]/service[/db]`, or `rediss+sentinel://` for TLS, with
/// `sentinel_user`, `sentinel_password` and the parameters of the others. User and password are the server's; hosts are the sentinels'.
pub(super) fn parse_service(url: &str) -> Result<RedisUrl, Error> {
    let parts = Parts::of(url);
    read_service(&parts).map_err(|allowed| parts.refused(allowed))
}

fn read_service(parts: &Parts<'_>) -> Result<RedisUrl, String> {
    let secure = match parts.scheme {
        "redis+sentinel" => false,
        "rediss+sentinel" => true,
        _ => return Err(format!("a URL such as {EXPECTED}")),
    };
    if parts.fragment.is_some() {
        return Err("a URL without #fragment".to_owned());
    }
    let sentinels = parts.servers(SENTINEL_PORT, EXPECTED)?;
    let mut parameters = Parameters::read(UrlKind::Sentinels, parts.query)?;
    let (name, db) = service(parts.path)?;
    parameters.login.db = db;
    let (user, password) = match parts.user_info.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        Some((user, password)) => (user, Some(password).filter(|password| !password.is_empty())),
        None => ("", None),
    };
    parameters.login.take(user, password)?;
    let (client_name, tls) = (parameters.client_name(), parameters.tls(secure)?);
    let login = parameters.sentinel.settings(ProtocolVersion::RESP2);
    let sentinels = sentinels.into_iter().map(|server| {
        let address = ConnectionAddr::Tcp(bare(&server.host), server.port);
        Ok(Sentinel { shown: server.to_string(), target: DialTarget::new(address, login.clone(), tls.clone())? })
    });
    let sentinels = sentinels.collect::<Result<_, &str>>()?;
    let service = Service::new(name, sentinels, parameters.login.settings(ProtocolVersion::RESP3), tls);
    Ok(RedisUrl { address: ServerAddress::Service(Arc::new(service)), client_name, shown: parts.shown().into() })
}

/// `/service[/db]`.
fn service(path: &str) -> Result<(String, Option<u32>), String> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let (name, db) = path.split_once('/').unwrap_or((path, ""));
    let name = decoded(name).filter(|name| !name.is_empty() && !name.chars().any(char::is_control));
    let name = name.ok_or_else(|| format!("a service that the sentinels know, as in {EXPECTED}"))?;
    let db = db.trim_end_matches('/');
    let db = if db.is_empty() { None } else { Some(db.parse().map_err(|_| "after the service a database number, such as /0")?) };
    Ok((name, db))
}

fn socket(url: &Url) -> Result<ConnectionAddr, &'static str> {
    if url.path().len() < 2 || !url.path().starts_with('/') || url.host().is_some() {
        return Err("redis+unix:///path/of/socket");
    }
    Ok(ConnectionAddr::Unix(decoded(url.path()).ok_or("a path in UTF-8")?.into()))
}

fn tcp(url: &Url, login: &mut RedisLogin) -> Result<ConnectionAddr, &'static str> {
    let host = match url.host().map(|host| host.to_owned()) {
        // The parser knows IPv4 addresses only in the schemes of the web, and leaves them as a name here. Connecting is the same.
        Some(Host::Domain(name)) if !name.is_empty() => decoded(&name).ok_or("a host in UTF-8")?,
        Some(host @ (Host::Ipv4(_) | Host::Ipv6(_))) => bare(&host),
        _ => return Err("a URL that names a host, such as redis://localhost:6379"),
    };
    login.take(url.username(), url.password())?;
    let db = url.path().trim_matches('/');
    if !db.is_empty() {
        if login.db.is_some() {
            return Err("one database, in the path or as db=");
        }
        login.db = Some(db.parse().map_err(|_| "a path that is a database number, such as /0")?);
    }
    Ok(ConnectionAddr::Tcp(host, url.port().unwrap_or(DEFAULT_PORT)))
}

/// A host without the brackets that an IPv6 address has in a URL.
fn bare(host: &Host<String>) -> String {
    match host {
        Host::Ipv6(address) => address.to_string(),
        host => host.to_string(),
    }
}

/// Scheme, host, port and path, without user information and parameters, which may contain a password.
fn shown(url: &Url) -> String {
    let mut shown = format!("{}://", url.scheme());
    if let Some(host) = url.host() {
        shown.push_str(&host.to_string());
        if url.scheme().starts_with("redis") {
            shown.push(':');
            shown.push_str(&url.port().unwrap_or(DEFAULT_PORT).to_string());
        }
    }
    shown.push_str(url.path());
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<RedisUrl, Error> {
        if url.contains("+sentinel:") { parse_service(url) } else { parse(&Url::parse(url).unwrap()) }
    }

    fn target(url: &str) -> DialTarget {
        match address(url).unwrap().address {
            ServerAddress::Fixed(target) => target,
            ServerAddress::Service(_) => panic!("{url}"),
        }
    }

    #[test]
    fn an_url_gives_host_port_database_and_login() {
        let target = target("redis://me:s%40cret@example.org:7000/3");
        assert_eq!(target.info.addr(), &ConnectionAddr::Tcp("example.org".into(), 7000));
        let login = target.info.redis_settings();
        assert_eq!((login.username(), login.password(), login.db()), (Some("me"), Some("s@cret"), 3));
    }

    #[test]
    fn defaults_and_sockets_are_understood() {
        assert_eq!(target("redis://localhost").info.addr(), &ConnectionAddr::Tcp("localhost".into(), 6379));
        assert_eq!(target("redis://[::1]:1").info.addr(), &ConnectionAddr::Tcp("::1".into(), 1));
        let socket = target("redis+unix:///run/my%20redis.sock?db=2&pass=x");
        assert_eq!(socket.info.addr(), &ConnectionAddr::Unix("/run/my redis.sock".into()));
        assert_eq!((socket.info.redis_settings().db(), socket.info.redis_settings().password()), (2, Some("x")));
    }

    #[test]
    fn clients_have_a_name() {
        for (url, name) in
            [("redis://h", "dlock"), ("redis://h?client_name=job-7", "job-7"), ("redis+unix:///s?client_name=%7Ejob", "~job")]
        {
            assert_eq!(address(url).unwrap().client_name, name);
        }
    }

    #[test]
    fn r18_what_is_shown_holds_no_password() {
        for url in [
            "redis://me:secret@h:1/2",
            "redis+unix:///s?pass=secret",
            "redis://:secret@h?what=secret",
            "redis+sentinel://me:a/se@secret@h1,h2/service?sentinel_password=secret",
            "redis+sentinel://:secret@h1,,h2/service?sentinel_password=secret",
            "redis+sentinel://me:secret?more@h1/service",
            "redis+sentinel://:a/secret?more@h1/service",
            "redis://me:12/secret@h:1/0",
            "redis://me:12?secret@h/0",
            "redis://secret:12?more@h/0",
            "redis://me:12?secret&more@h/0",
            "redis://me:12?secret=more@h/0",
            "redis://me:12?more#secret@h/0",
            "rediss://secret:12#more@h",
            "rediss://me:12#secret@h",
            "redis://me:a@b/secret@h:1",
            "redis://me:a@secret?more@h",
            "redis:me:secret@h",
            "redis+unix://me:12/secret@/s",
            "redis+unix:me:secret@/s",
            "redis+sentinel://me:12?secret@h/svc",
            "redis+sentinel://tok?secret@h/svc",
            "redis+sentinel://secret?more@h/svc",
            "redis+sentinel://secret,secret?more@h/svc",
            "redis+sentinel://secret:12#more?more@h/svc",
            "redis+sentinel://secret:a@secret?more@h/svc",
        ] {
            let shown = address(url).map_or_else(|error| error.to_string(), |address| address.shown.to_string());
            assert!(!shown.contains("secret"), "{shown}");
        }
        assert_eq!(&*address("redis://me:secret@h").unwrap().shown, "redis://h:6379");
    }

    #[test]
    fn an_at_sign_in_a_known_parameter_hides_nothing() {
        let shown = |url| address(url).unwrap().shown.to_string();
        assert_eq!(shown("redis://h?client_name=job@host"), "redis://h:6379");
        assert_eq!(shown("redis+unix:///run/me@work/s"), "redis+unix:///run/me@work/s");
        assert_eq!(shown("redis+sentinel://h/s?client_name=job@host"), "redis+sentinel://h/s");
        let error = address("rediss://h?ca=/none/me@work/none.pem").err().unwrap().to_string();
        assert!(error.contains("/none/me@work/none.pem: No such file"), "{error}");
    }

    #[test]
    fn what_is_shown_names_the_database_wherever_it_was_chosen() {
        let shown = |url| address(url).unwrap().shown.to_string();
        assert_eq!(shown("redis://h/1"), "redis://h:6379/1");
        assert_eq!(shown("redis://:secret@h/?db=1"), "redis://h:6379/1");
        assert_eq!(shown("redis://h?db=0"), "redis://h:6379/0");
        assert_eq!(shown("redis+unix:///s?pass=secret&db=2"), "redis+unix:///s?db=2");
    }

    #[test]
    fn an_url_gives_sentinels_service_and_two_logins() {
        let url =
            "redis+sentinel://me:s%40cret@h1,h2:7000,[::1]/the%20service/3?sentinel_user=s&sentinel_password=p+w&client_name=job";
        let RedisUrl { address: ServerAddress::Service(service), client_name, shown } = address(url).unwrap() else {
            panic!("no service")
        };
        assert_eq!((&*shown, &*client_name), ("redis+sentinel://h1,h2:7000,[::1]/the%20service/3", "job"));
        assert_eq!(service.name, "the service");
        assert_eq!((service.login.username(), service.login.password(), service.login.db()), (Some("me"), Some("s@cret"), 3));
        let addresses: Vec<_> = service.sentinels.iter().map(|sentinel| sentinel.target.info.addr().to_string()).collect();
        assert_eq!(addresses, ["h1:26379", "h2:7000", "::1:26379"]);
        for Sentinel { target, .. } in &service.sentinels {
            let login = target.info.redis_settings();
            assert_eq!((login.username(), login.password(), login.db()), (Some("s"), Some("p w"), 0));
        }
    }

    #[test]
    fn r15_urls_that_cannot_be_used_are_refused() {
        for (url, expected) in [
            ("redis://", "names a host"),
            ("redis://h/x", "a path that is a database number"),
            ("redis://h/1?db=2", "one database"),
            ("redis://h?timeout=1", "there is no parameter \"timeout\""),
            ("redis://h#f", "#fragment"),
            ("redis+unix://", "redis+unix:///path/of/socket"),
            ("redis+unix:path", "redis+unix:///path/of/socket"),
            ("redis://me:12/b@h", "%2F"),
            ("redis://me:12?b@h", "%3F"),
            ("redis://h?ca=/x", "ca, cert and key are for rediss://"),
            ("redis+unix:///s?key=/x", "ca, cert and key are for rediss://"),
            ("rediss://h?ca=/x&ca=/y", "ca is given twice"),
            ("rediss://h?cert=/x", "cert and key"),
            ("redis+sentinel://", "\"\" is not host:port"),
            ("redis+sentinel://h1,h1:26379/s", "h1:26379 is named twice"),
            ("redis+sentinel://h", "a service that the sentinels know"),
            ("redis+sentinel://h//0", "a service that the sentinels know"),
            ("redis+sentinel://h/s/x", "a database number"),
            ("redis+sentinel://h/s?db=1", "there is no parameter \"db\""),
            ("redis+sentinel://h/s?ca=/x", "ca, cert and key are for rediss://"),
            ("redis+sentinel://h/s#f", "#fragment"),
            ("redis://h?sentinel_password=x", "there is no parameter \"sentinel_password\""),
            ("redis://h?client_name=", "printable ASCII"),
            ("redis://h?client_name=my+job", "printable ASCII"),
            ("redis+unix:///s?client_name=a%0Ab", "printable ASCII"),
        ] {
            let error = address(url).err().unwrap_or_else(|| panic!("{url}"));
            assert!(matches!(&error, Error::InvalidOptions { .. }) && error.to_string().contains(expected), "{url}: {error}");
        }
    }
}
