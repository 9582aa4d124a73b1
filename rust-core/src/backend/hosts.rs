//! URLs that name several servers. `Url` reads only one host, so the list is taken apart here, and `Url` reads each host.

use std::fmt;

use url::{Host, Url, form_urlencoded};

use crate::error::Error;
use crate::printable::quoted;

/// What may be wrong if a user or password ends too soon.
const ESCAPED: &str =
    "in a user or password these are percent-encoded: # as %23, / as %2F, ? as %3F, @ as %40, [ as %5B, ] as %5D, % as %25";

/// The characters that must be percent-encoded in a user or password, in addition to spaces and control characters. Some parsers
/// accept some of them raw, so the meaning of such a URL would depend on its reader.
const RAW: [char; 6] = ['#', '/', '?', '@', '[', ']'];

/// Refuses a server's URL whose user or password may hold a raw character that ends it too soon. The error shows nothing of the
/// URL, since nobody can tell where the password ends.
pub(super) fn check_login(url: &str) -> Result<(), Error> {
    let Some((scheme, rest)) = url.split_once("://") else { return Ok(()) };
    let scheme = scheme.to_ascii_lowercase();
    if !["redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+unix", "unix", "etcd", "etcds"].contains(&&*scheme) {
        return Ok(());
    }
    let refuse = |allowed: &str| Err(refused(&scheme, String::new(), true, allowed.to_owned()));
    if rest.contains('#') {
        return refuse("a URL without #fragment");
    }
    if !is_percent_encoded(rest) {
        return refuse("a URL in which % stands before two hex digits");
    }
    let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = before_query.find('/').map_or((before_query, ""), |at| before_query.split_at(at));
    let login = authority.rsplit_once('@').map(|(login, _)| login);
    let is_raw = |character: char| RAW.contains(&character) || character.is_whitespace() || character.is_control();
    // The path of a socket may hold an `@`.
    let in_path = path.contains('@') && !(authority.is_empty() && scheme.ends_with("unix"));
    // A parameter may hold an `@`, unless what stands before it is no host with a port: then it is the end of a password.
    let port = authority.rsplit_once(':').filter(|(_, port)| !port.is_empty() && !port.contains(']'));
    let no_host = port.is_some_and(|(host, port)| host.is_empty() || port.parse::<u16>().is_err());
    let in_name = query.split('&').any(|parameter| parameter.split('=').next().is_some_and(|name| name.contains('@')));
    let in_query = in_name || query.contains('@') && login.is_none() && no_host;
    if in_path || in_query || login.is_some_and(|login| login.contains(is_raw)) {
        return refuse("scheme://user:password@host:port");
    }
    Ok(())
}

/// True if every `%` is followed by two hex digits.
fn is_percent_encoded(text: &str) -> bool {
    let mut parts = text.split('%');
    parts.next();
    parts.all(|part| part.len() >= 2 && part.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()))
}

/// A URL taken apart; nothing is decoded.
pub(super) struct Parts<'a> {
    pub(super) scheme: &'a str,
    pub(super) user_info: Option<&'a str>,
    pub(super) hosts: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) fragment: Option<&'a str>,
}

impl<'a> Parts<'a> {
    pub(super) fn of(url: &'a str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or_else(|| (url.split(':').next().unwrap_or_default(), ""));
        // A password may hold what ends an authority elsewhere: it reaches to the last `@` before a query.
        let login_end = rest.split('?').next().and_then(|rest| rest.rfind('@'));
        let (user_info, rest) = match login_end {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        let (rest, fragment) = rest.split_once('#').map_or((rest, None), |(rest, fragment)| (rest, Some(fragment)));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        Self { scheme, user_info, hosts, path, query, fragment }
    }

    /// A usable URL for people to read: without user information and parameters.
    pub(super) fn shown(&self) -> String {
        format!("{}://{}{}", self.scheme, self.hosts, self.path)
    }

    /// The servers, at least one. An error says what is wrong with the list; `example` is a URL that would do.
    pub(super) fn servers(&self, default_port: u16, example: &str) -> Result<Vec<Server>, String> {
        let mut servers = Vec::new();
        for text in self.hosts.split(',') {
            let printable = |name: &str| if self.may_show_a_password() { "***".to_owned() } else { name.to_owned() };
            let server = server(text, default_port)
                .ok_or_else(|| format!("{} is not host:port; a URL such as {example}", quoted(&printable(text))))?;
            if servers.contains(&server) {
                return Err(format!("{} is named twice", printable(&server.to_string())));
            }
            servers.push(server);
        }
        Ok(servers)
    }

    /// Why this URL cannot be used.
    pub(super) fn refused(&self, allowed: String) -> Error {
        refused(self.scheme, self.shown(), self.may_show_a_password(), allowed)
    }

    /// True if a `?` or `#` that was meant as a part of a password may have ended it too soon.
    fn may_show_a_password(&self) -> bool {
        self.query.contains('@') || self.fragment.is_some_and(|fragment| fragment.contains('@'))
    }
}

/// Why a URL of one host cannot be used. `shown` is what people may read if every part is in its place.
pub(super) fn refused_url(url: &Url, shown: &str, allowed: String) -> Error {
    let after_host = [Some(url.path()), url.query(), url.fragment()];
    let may_show_a_password = after_host.iter().flatten().any(|part| part.contains('@'));
    refused(url.scheme(), shown.to_owned(), may_show_a_password, allowed)
}

/// An `@` after the host may be the true end of the user information: then the host and the rest may be part of the password.
fn refused(scheme: &str, shown: String, may_show_a_password: bool, allowed: String) -> Error {
    if may_show_a_password {
        return Error::invalid("url", format!("{scheme}://***"), format!("{allowed}; {ESCAPED}"));
    }
    Error::invalid("url", shown, allowed)
}

/// The error for an unknown parameter. What looks like its name may be part of a password.
pub(super) fn no_parameter(query: &str, name: &str) -> String {
    if query.contains('@') {
        return "there is no parameter of that name".to_owned();
    }
    format!("there is no parameter {}", quoted(name))
}

/// Where one server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) host: Host<String>,
    pub(super) port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

fn server(text: &str, default_port: u16) -> Option<Server> {
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || "/\\?#@%;".contains(c)) {
        return None;
    }
    // With the scheme of the web, so that names are checked and an address of four numbers is recognised.
    let url = Url::parse(&format!("https://{text}")).ok()?;
    let port = match text.rsplit_once(':') {
        Some((_, port)) if !port.contains(']') => port.parse().ok().filter(|&port| port > 0)?,
        _ => default_port,
    };
    Some(Server { host: url.host()?.to_owned(), port })
}

/// A URL for people to read, parsable or not: without parameters, and without anything between the scheme and the last `@`.
pub(super) fn shown(url: &str) -> String {
    if url.is_empty() {
        return "\"\"".to_owned();
    }
    let scheme = url.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
    let shown = match url.rsplit_once('@') {
        // What follows this one may be the end of a parameter that is a password.
        Some((before, _)) if before.contains(['?', '#']) => return format!("{scheme}***"),
        Some((_, host)) => format!("{scheme}***@{host}"),
        None => url.to_owned(),
    };
    shown.split(['?', '#']).next().unwrap_or_default().to_owned()
}

/// Undoes percent-encoding; `None` if the result is not UTF-8.
pub(super) fn decoded(text: &str) -> Option<String> {
    // A plus is a space in a form, and a plus here.
    let text = text.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    let (decoded, _) = form_urlencoded::parse(text.as_bytes()).next().unwrap_or_default();
    (!decoded.contains(char::REPLACEMENT_CHARACTER)).then(|| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::{check_login, shown};

    #[test]
    fn r15_a_raw_character_in_a_password_is_told_how_to_be_written() {
        let schemes = ["redis", "rediss", "redis+sentinel", "rediss+sentinel", "etcd", "etcds"];
        for scheme in schemes {
            for raw in [
                "57#Wc", "57/Wc", "57?Wc", "57@Wc", "57%Wc", "57%", "57[Wc", "57]Wc", "57 Wc", "57\nWc", "#Wc", "/Wc", "?Wc",
                "W#c", "W/c?d",
            ] {
                for login in [format!(":{raw}"), format!("me:{raw}"), raw.to_owned()] {
                    let url = format!("{scheme}://{login}@127.0.0.1:6379/0");
                    let error = check_login(&url).err().map(|error| error.to_string());
                    let error = error.unwrap_or_else(|| panic!("{url} is taken"));
                    assert!(error.starts_with(&format!("url: {scheme}://*** is not valid: ")) && error.contains("%23"), "{error}");
                    assert!(!error.contains("Wc") && !error.contains("57"), "{error}");
                }
            }
        }
        assert!(check_login("redis+unix:///s?pass=57#Wc").is_err_and(|error| error.to_string().contains("%23")));
        assert!(check_login("redis+unix:///s?pass=57%Wc").is_err_and(|error| error.to_string().contains("%25")));
    }

    #[test]
    fn what_is_percent_encoded_or_stands_elsewhere_is_taken() {
        for url in [
            "redis://:57%23Wc%2f%3F%40%25@h:1/0?client_name=a@b",
            "redis://h?client_name=job@host",
            "redis://[::1]:6379/0",
            "redis://me:p:w$!&*()+,;=-._~\"'<>@[::1]",
            "rediss://h:1?ca=/none/me@work/none.pem",
            "redis+unix:///run/me@work/s?pass=a/b?c",
            "etcd://me:pw@h1,[::1]:2,h3/app",
            "local:///tmp/a#b@c",
            "memory:a@b#c",
        ] {
            assert!(check_login(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn r18_a_url_that_no_backend_takes_is_shown_without_a_password() {
        for (url, expected) in [
            ("http://me:secret@h:1/x?y", "http://***@h:1/x"),
            ("redis://me:se/cr@et@h:1", "redis://***@h:1"),
            ("redis://me:12345678?secret@h", "redis://***"),
            ("redis://me:12345678#secret@h", "redis://***"),
            ("redis+unix://h:99999/s?pass=a@secret", "redis+unix://***"),
            ("me:secret@h", "***@h"),
            ("h:1", "h:1"),
            ("", "\"\""),
        ] {
            assert_eq!(shown(url), expected, "{url}");
        }
    }
}
