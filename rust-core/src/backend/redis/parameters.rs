//! What a URL says beside the place: how to log in, whom to trust, what to be called.

use redis::{ProtocolVersion, RedisConnectionInfo};
use url::form_urlencoded;

use super::tls::Tls;
use crate::backend::hosts::{decoded, no_parameter};
use crate::backend::pem::Files;

const CLIENT_NAME: &str = "dlock";

/// Which parameters there are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Server,
    Socket,
    Sentinels,
}

/// What was read of a URL.
#[derive(Default)]
pub(super) struct Parameters {
    pub(super) login: Login,
    /// How to log in at sentinels.
    pub(super) sentinel: Login,
    client_name: Option<String>,
    files: Files,
}

#[derive(Default)]
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) db: Option<u32>,
}

impl Parameters {
    /// Reads what stands after the `?`. An error says what is expected instead.
    pub(super) fn read(kind: Kind, query: &str) -> Result<Self, String> {
        let mut read = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !read.take(kind, &name, &value)? {
                return Err(no_parameter(query, &name));
            }
        }
        Ok(read)
    }

    /// False if there is no such parameter.
    fn take(&mut self, kind: Kind, name: &str, value: &str) -> Result<bool, String> {
        let text = || Some(value.to_owned());
        match (name, kind) {
            ("db", Kind::Server | Kind::Socket) => {
                self.login.db = Some(value.parse().map_err(|_| "db must be a number from 0")?);
            }
            ("user", Kind::Socket) => self.login.user = text(),
            ("pass", Kind::Socket) => self.login.password = text(),
            ("sentinel_user", Kind::Sentinels) => self.sentinel.user = text(),
            ("sentinel_password", Kind::Sentinels) => self.sentinel.password = text(),
            ("client_name", _) if is_name(value) => self.client_name = text(),
            ("client_name", _) => return Err("a client_name of printable ASCII without spaces".to_owned()),
            _ => return self.files.take(name, value),
        }
        Ok(true)
    }

    /// What the server's `CLIENT LIST` shows.
    pub(super) fn client_name(&self) -> String {
        self.client_name.clone().unwrap_or_else(|| CLIENT_NAME.to_owned())
    }

    /// Reads the files, which only `secure` connections may have.
    pub(super) fn tls(&self, secure: bool) -> Result<Option<Tls>, String> {
        match secure {
            true => Ok(Some(Tls::new(&self.files.read()?)?)),
            false if self.files == Files::default() => Ok(None),
            false => Err("ca, cert and key are for rediss://".to_owned()),
        }
    }
}

impl Login {
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

/// What `CLIENT SETNAME` takes.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}
