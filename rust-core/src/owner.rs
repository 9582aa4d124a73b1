//! Identities: one for each session, and one for each attempt to acquire a key.

use std::fmt;
use std::str::FromStr;

/// A client's random 128-bit identity. Leases and waiters are registered under it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u128);

impl SessionId {
    /// Draws a new identity from the operating system's random source.
    pub fn random() -> Result<Self, std::io::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        Ok(Self(u128::from_be_bytes(bytes)))
    }

    /// An identity with a chosen value, for tests and simulations.
    pub const fn from_u128(value: u128) -> Self {
        Self(value)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The identity of one acquire *attempt*: unique for ever, the same through all of its retries.
///
/// It makes acquire, confirm and release idempotent: a backend that sees the same owner again answers as it did the first time.
/// Its text form is `session:sequence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId {
    /// The session of the attempt.
    pub session: SessionId,
    /// The session's running number for this attempt.
    pub sequence: u64,
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.session, self.sequence)
    }
}

/// The text is not an owner id of this library.
#[derive(Debug, thiserror::Error)]
#[error("not an owner id")]
pub struct NotAnOwner;

impl FromStr for OwnerId {
    type Err = NotAnOwner;

    fn from_str(text: &str) -> Result<Self, NotAnOwner> {
        let (session, sequence) = text.split_once(':').ok_or(NotAnOwner)?;
        if session.len() != 32 {
            return Err(NotAnOwner);
        }
        Ok(Self {
            session: SessionId(u128::from_str_radix(session, 16).map_err(|_| NotAnOwner)?),
            sequence: sequence.parse().map_err(|_| NotAnOwner)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_reads_back_what_it_wrote() {
        let owner = OwnerId { session: SessionId::from_u128(7), sequence: 12 };
        assert_eq!(owner.to_string(), "00000000000000000000000000000007:12");
        assert_eq!(owner.to_string().parse::<OwnerId>().unwrap(), owner);
        assert!("x".parse::<OwnerId>().is_err());
        assert!("7:12".parse::<OwnerId>().is_err());
    }
}
