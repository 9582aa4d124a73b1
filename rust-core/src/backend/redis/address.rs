//! The URL: where the server is and how to log in.

use std::sync::Arc;

use redis::io::tcp::TcpSettings;
use redis::{ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};
use url::{Host, Url};

use super::dial::Target;
use super::tls::Tls;
use crate::backend::pem::Files;
use crate::error::Error;

const DEFAULT_PORT: u16 = 6379;
const CLIENT_NAME: &str = "dlock";

/// A parsed URL.
pub(super) struct Address {
    /// Password included.
    pub(super) target: Target,
    /// What the server's `CLIENT LIST` shows.
    pub(super) client_name: String,
    /// What people may read.
    pub(super) shown: Arc<str>,
}

/// Reads `redis://[[user]:password@]host[:port][/db]`, or `rediss://` for TLS, with the parameters `ca`, `cert` and `key`: paths of PEM
/// files; and `redis+unix:///path[?db=&user=&pass=]`. All may have a `client_name`.
pub(super) fn parse(url: &Url) -> Result<Address, Error> {
    let shown = shown(url);
    let refuse = |allowed: &str| Error::invalid("url", shown.as_str(), allowed);
    let mut login = Login::default();
    let (unix, secure) = match url.scheme() {
        "redis" => (false, false),
        "rediss" => (false, true),
        "redis+unix" | "unix" => (true, false),
        _ => return Err(refuse("a redis://, rediss:// or redis+unix:// URL")),
    };
    let (mut files, mut client_name) = (Files::default(), CLIENT_NAME.to_owned());
    if url.fragment().is_some() {
        return Err(refuse("a URL without #fragment"));
    }
    for (name, value) in url.query_pairs() {
        match (&*name, unix) {
            ("db", _) => login.db = Some(value.parse().map_err(|_| refuse("db must be a number from 0"))?),
            ("user", true) => login.user = Some(value.into_owned()),
            ("pass", true) => login.password = Some(value.into_owned()),
            ("client_name", _) if is_name(&value) => client_name = value.into_owned(),
            ("client_name", _) => return Err(refuse("a client_name of printable ASCII without spaces")),
            _ if files.take(&name, &value).map_err(|allowed| refuse(&allowed))? => {}
            _ => return Err(refuse(&format!("there is no parameter {name:?}"))),
        }
    }
    if !secure && files != Files::default() {
        return Err(refuse("ca, cert and key are for rediss://"));
    }
    let in_query = login.db;
    let address = if unix {
        if url.path().len() < 2 || url.host().is_some() {
            return Err(refuse("redis+unix:///path/of/socket"));
        }
        ConnectionAddr::Unix(decoded(url.path()).ok_or_else(|| refuse("a path in UTF-8"))?.into())
    } else {
        tcp(url, &mut login).map_err(refuse)?
    };
    let info = address.into_connection_info().map_err(|_| refuse("a redis:// URL"))?;
    let info = info.set_redis_settings(login.settings()).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let tls = if secure { Some(files.read().and_then(|pem| Tls::new(&pem)).map_err(|allowed| refuse(&allowed))?) } else { None };
    let shown = match in_query {
        Some(db) if unix => format!("{shown}?db={db}"),
        Some(db) => format!("{}/{db}", shown.trim_end_matches('/')),
        None => shown,
    };
    Ok(Address { target: Target { info, tls }, client_name, shown: shown.into() })
}

/// What `CLIENT SETNAME` takes.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[derive(Default)]
struct Login {
    user: Option<String>,
    password: Option<String>,
    db: Option<u32>,
}

impl Login {
    fn settings(self) -> RedisConnectionInfo {
        let mut settings = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name()
            .set_db(i64::from(self.db.unwrap_or(0)));
        if let Some(user) = self.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = self.password {
            settings = settings.set_password(password);
        }
        settings
    }
}

fn tcp(url: &Url, login: &mut Login) -> Result<ConnectionAddr, &'static str> {
    let host = match url.host() {
        // The scheme is not one of the web's, so the parser leaves an address of four numbers as a name: both connect alike.
        Some(Host::Domain(name)) if !name.is_empty() => decoded(name).ok_or("a host in UTF-8")?,
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        _ => return Err("a URL that names a host, such as redis://localhost:6379"),
    };
    if !url.username().is_empty() {
        login.user = Some(decoded(url.username()).ok_or("a user in UTF-8")?);
    }
    if let Some(password) = url.password() {
        login.password = Some(decoded(password).ok_or("a password in UTF-8")?);
    }
    let db = url.path().trim_matches('/');
    if !db.is_empty() {
        if login.db.is_some() {
            return Err("one database, in the path or as db=");
        }
        login.db = Some(db.parse().map_err(|_| "a path that is a database number, such as /0")?);
    }
    Ok(ConnectionAddr::Tcp(host, url.port().unwrap_or(DEFAULT_PORT)))
}

/// Scheme, host, port and path: neither user information nor parameters, which may hold a password.
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

/// Undoes percent-encoding.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let digit = |at: usize| tail.get(at).and_then(|&byte| char::from(byte).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).ok()?);
                rest = &tail[2..];
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<Address, Error> {
        parse(&Url::parse(url).unwrap())
    }

    #[test]
    fn an_url_gives_host_port_database_and_login() {
        let address = address("redis://me:s%40cret@example.org:7000/3").unwrap();
        assert_eq!(address.target.info.addr(), &ConnectionAddr::Tcp("example.org".into(), 7000));
        let login = address.target.info.redis_settings();
        assert_eq!((login.username(), login.password(), login.db()), (Some("me"), Some("s@cret"), 3));
    }

    #[test]
    fn defaults_and_sockets_are_understood() {
        assert_eq!(address("redis://localhost").unwrap().target.info.addr(), &ConnectionAddr::Tcp("localhost".into(), 6379));
        assert_eq!(address("redis://[::1]:1").unwrap().target.info.addr(), &ConnectionAddr::Tcp("::1".into(), 1));
        let socket = address("redis+unix:///run/my%20redis.sock?db=2&pass=x").unwrap();
        assert_eq!(socket.target.info.addr(), &ConnectionAddr::Unix("/run/my redis.sock".into()));
        assert_eq!((socket.target.info.redis_settings().db(), socket.target.info.redis_settings().password()), (2, Some("x")));
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
        for url in ["redis://me:secret@h:1/2", "redis+unix:///s?pass=secret", "redis://:secret@h?what=secret"] {
            let shown = address(url).map_or_else(|error| error.to_string(), |address| address.shown.to_string());
            assert!(!shown.contains("secret"), "{shown}");
        }
        assert_eq!(&*address("redis://me:secret@h").unwrap().shown, "redis://h:6379");
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
    fn r15_urls_that_cannot_be_used_are_refused() {
        for (url, told) in [
            ("redis://", "names a host"),
            ("redis://h/x", "a path that is a database number"),
            ("redis://h/1?db=2", "one database"),
            ("redis://h?timeout=1", "there is no parameter \"timeout\""),
            ("redis://h#f", "#fragment"),
            ("redis+unix://", "redis+unix:///path/of/socket"),
            ("redis://h?ca=/x", "ca, cert and key are for rediss://"),
            ("redis+unix:///s?key=/x", "ca, cert and key are for rediss://"),
            ("rediss://h?ca=/x&ca=/y", "ca is given twice"),
            ("rediss://h?cert=/x", "cert and key"),
            ("redis://h?client_name=", "printable ASCII"),
            ("redis://h?client_name=my+job", "printable ASCII"),
            ("redis+unix:///s?client_name=a%0Ab", "printable ASCII"),
        ] {
            let error = address(url).err().unwrap_or_else(|| panic!("{url}"));
            assert!(matches!(&error, Error::InvalidOptions { .. }) && error.to_string().contains(told), "{url}: {error}");
        }
    }
}
