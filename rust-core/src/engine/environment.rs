//! What a client stands on: where its backend, its time, its threads and its identity come from.
//!
//! Clients of a program stand on a URL, the machine's clock, the engine's threads and a random number. A simulation puts all four in its
//! place, and the engine above is the same.

use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::backend::memory::Private;
use crate::backend::{self, Backend, Context};
use crate::clock::Clock;
use crate::error::Result;
use crate::owner::SessionId;

/// Opens the backend: without I/O, and as often as it is asked to.
pub type Open = dyn Fn(Context) -> Result<Arc<dyn Backend>> + Send + Sync;

/// What a client stands on.
#[derive(Clone)]
pub struct Environment {
    /// Where the backend comes from.
    pub open: Arc<Open>,
    /// What leases are measured with.
    pub clock: Arc<dyn Clock>,
    /// What the engine's tasks run on; `None` for the engine's own threads.
    pub engine: Option<Handle>,
    /// Who the client is; `None` for a random identity.
    pub session: Option<SessionId>,
}

impl Environment {
    /// The backend that a URL names, on this clock.
    pub(crate) fn at(url: &str, clock: Arc<dyn Clock>) -> Self {
        let (url, private) = (url.to_owned(), Private::of(url));
        // One store for all sessions of a client: the next one must not grant what the one before still holds.
        let open = move |context| match &private {
            Some(private) => Ok(private.open(context)),
            None => backend::from_url(&url, context),
        };
        Self { open: Arc::new(open), clock, engine: None, session: None }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("clock", &self.clock).field("session", &self.session).finish_non_exhaustive()
    }
}
