//! The environment of a client: where its backend, its time, its threads and its identity come from.
//!
//! In a program these are a URL, the machine's clock, the engine's threads and a random number. A simulation puts its own in their place, and
//! runs the same engine on them.

use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::backend::Plan;
use crate::clock::Clock;
use crate::owner::SessionId;

/// What a client works with.
#[derive(Clone)]
pub struct Environment {
    /// The backend.
    pub backend: Arc<Plan>,
    /// The clock that measures leases.
    pub clock: Arc<dyn Clock>,
    /// The runtime of the engine's tasks; `None` for the engine's own threads.
    pub engine: Option<Handle>,
    /// The identity of the client; `None` for a random one.
    pub session: Option<SessionId>,
}

impl Environment {
    /// This backend, on this clock.
    pub(crate) fn at(backend: Plan, clock: Arc<dyn Clock>) -> Self {
        Self { backend: Arc::new(backend), clock, engine: None, session: None }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("backend", &self.backend)
            .field("clock", &self.clock)
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}
