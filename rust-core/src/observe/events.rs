//! Events: what happens to leases.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::fencing::Token;
use crate::owner::OwnerId;
use crate::printable::quoted;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A lease was granted.
    Acquired = 1,
    /// A lease was released; the reason says whether the backend confirmed it.
    Released = 2,
    /// A lease was renewed or extended.
    Renewed = 4,
    /// A renewal got no answer; it will be tried again.
    RenewalFailed = 8,
    /// An attempt ended without a lease; the reason is the code of its error, or `CANCELLED`.
    AcquireFailed = 16,
    /// A lease ended without being released.
    Lost = 32,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Acquired, Self::Released, Self::Renewed, Self::RenewalFailed, Self::AcquireFailed, Self::Lost];

    /// A word that never changes, the same in every language.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acquired => "acquired",
            Self::Released => "released",
            Self::Renewed => "renewed",
            Self::RenewalFailed => "renewal_failed",
            Self::AcquireFailed => "acquire_failed",
            Self::Lost => "lost",
        }
    }

    /// The kind with this word.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] for any other word.
    pub fn parse(word: &str) -> Result<Self> {
        let known = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| Error::invalid("event", quoted(word), known()))
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(pub(super) u8);

impl Kinds {
    /// All kinds.
    pub const ALL: Self = Self(63);

    /// Whether a kind is among them.
    pub fn contains(self, kind: Kind) -> bool {
        self.0 & kind as u8 != 0
    }
}

impl From<Kind> for Kinds {
    fn from(kind: Kind) -> Self {
        Self(kind as u8)
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |bits, kind| bits | kind as u8))
    }
}

impl<const N: usize> From<[Kind; N]> for Kinds {
    fn from(kinds: [Kind; N]) -> Self {
        kinds.into_iter().collect()
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// The key that it happened to.
    pub key: Arc<str>,
    /// The lease's token; `None` without a lease.
    pub token: Option<Token>,
    /// The lease's owner; `None` without a lease.
    pub owner: Option<OwnerId>,
    /// How long the attempt took; set on [`Kind::Acquired`] and [`Kind::AcquireFailed`].
    pub waited: Option<Duration>,
    /// How long the lease has been held, or was; set on every event after [`Kind::Acquired`].
    pub held: Option<Duration>,
    /// The reason, if there is one: the [`LossReason`](crate::LossReason) of a loss, the error code of a failed acquire, the
    /// backend's error of a failed renewal; for a release `released`, `not_held` or `unknown`.
    pub reason: Option<Cow<'static, str>>,
}
