//! The parameters of a URL: how to log in, which certificates to trust, and the client's name.

use redis::{ProtocolVersion, RedisConnectionInfo};
use url::form_urlencoded;

use super::tls::Tls;
use crate::backend::hosts::{decoded, no_parameter};
use crate::backend::pem::Files;

const CLIENT_NAME: &str = "dlock";

/// What a URL names, which decides the parameters that it may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum UrlKind {
    Server,
    Socket,
    Sentinels,
}

/// The parameters of one URL.
#[derive(Default)]
pub(super) struct Parameters {
    pub(super) login: RedisLogin,
    /// How to log in to the sentinels.
    pub(super) sentinel: RedisLogin,
    client_name: Option<String>,
    files: Files,
}

#[derive(Default)]
pub(super) struct RedisLogin {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) db: Option<u32>,
}

impl Parameters {
    /// Reads the text after the `?`.
    ///
    /// # Errors
    /// What is expected instead.
    pub(super) fn read(kind: UrlKind, query: &str) -> Result<Self, String> {
        let mut read = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !read.take(kind, &name, &value)? {
                return Err(no_parameter(query, &name));
            }
        }
        Ok(read)
    }

    /// False if there is no such parameter.
    fn take(&mut self, kind: UrlKind, name: &str, value: &str) -> Result<bool, String> {
        let text = || Some(value.to_owned());
        match (name, kind) {
            ("db", UrlKind::Server | UrlKind::Socket) => {
                self.login.db = Some(value.parse().map_err(|_| "db must be a number from 0")?);
            }
            ("user", UrlKind::Socket) => self.login.user = text(),
            ("pass", UrlKind::Socket) => self.login.password = text(),
            ("sentinel_user", UrlKind::Sentinels) => self.sentinel.user = text(),
            ("sentinel_password", UrlKind::Sentinels) => self.sentinel.password = text(),
            ("client_name", _) if is_name(value) => self.client_name = text(),
            ("client_name", _) => return Err("a client_name of printable ASCII without spaces".to_owned()),
            _ => return self.files.take(name, value),
        }
        Ok(true)
    }

    /// The name that the server's `CLIENT LIST` shows.
    pub(super) fn client_name(&self) -> String {
        self.client_name.clone().unwrap_or_else(|| CLIENT_NAME.to_owned())
    }

    /// Reads the certificate files, which only URLs of `secure` connections may name.
    pub(super) fn tls(&self, secure: bool) -> Result<Option<Tls>, String> {
        match secure {
            true => Ok(Some(Tls::new(&self.files.read()?)?)),
            false if self.files == Files::default() => Ok(None),
            false => Err("ca, cert and key are for rediss://".to_owned()),
        }
    }
}

impl RedisLogin {
    /// Takes `user:password`, percent-encoded.
    pub(super) fn take(&mut self, user: &str, password: Option<&str>) -> Result<(), &'static str> {
        if !user.is_empty() {
            self.user = Some(decoded(user).ok_or("a user in UTF-8")?);
        }
        if let Some(password) = password {
            self.password = Some(decoded(password).ok_or("a password in UTF-8")?);
        }
        Ok(())
    }

    pub(super) fn settings(self, protocol: ProtocolVersion) -> RedisConnectionInfo {
        let mut settings =
            RedisConnectionInfo::default().set_protocol(protocol).set_skip_set_lib_name().set_db(i64::from(self.db.unwrap_or(0)));
        if let Some(user) = self.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = self.password {
            settings = settings.set_password(password);
        }
        settings
    }
}

/// Whether `CLIENT SETNAME` accepts the text.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}
