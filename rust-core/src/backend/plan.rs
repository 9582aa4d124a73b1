//! What a URL says of a backend, before it is opened.

use std::fmt;
use std::sync::Arc;

use super::contract::{Backend, Capabilities, Context};

type Open = dyn Fn(Context) -> Arc<dyn Backend> + Send + Sync;

/// A URL that was read and checked: what its backend can do, and how it is opened.
///
/// A client reads its URL once and opens a backend for each of its sessions.
pub struct Plan {
    capabilities: Capabilities,
    server: Arc<str>,
    open: Box<Open>,
}

impl Plan {
    /// A plan that opens backends by `open`: without I/O, and as often as it is called.
    pub fn new(
        capabilities: Capabilities,
        server: Arc<str>,
        open: impl Fn(Context) -> Arc<dyn Backend> + Send + Sync + 'static,
    ) -> Self {
        Self { capabilities, server, open: Box::new(open) }
    }

    /// What the backend can and cannot do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The server's address without its password.
    pub fn server(&self) -> &Arc<str> {
        &self.server
    }

    /// Opens the backend for one session; connects to nothing yet.
    pub fn open(&self, context: Context) -> Arc<dyn Backend> {
        (self.open)(context)
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("server", &self.server).finish_non_exhaustive()
    }
}
