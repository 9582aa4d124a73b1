//! How the engine waits for an answer that its caller has left to it.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::driver::Socket;

/// The engine's wait for a socket. Nothing is watched before the first poll.
#[derive(Default)]
pub(in crate::backend) struct EngineWait {
    /// `None` where a loop reads the socket by itself.
    watched: Option<AsyncFd<Arc<Socket>>>,
}

impl EngineWait {
    /// Ready when there may be something to read. Where a loop reads the socket by itself, it is waited for. One that has handed the socket back
    /// may still pass on what it had read.
    #[allow(deprecated)] // its successor is unsafe; the socket keeps its descriptor open for as long as it is registered
    pub(in crate::backend) fn poll(&mut self, context: &mut Context<'_>, socket: &Arc<Socket>) -> Poll<io::Result<()>> {
        if socket.poll_fed(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if socket.is_read_by_loop() {
            return Poll::Pending;
        }
        let watched = match &mut self.watched {
            Some(watched) => watched,
            none => none.insert(AsyncFd::with_interest(socket.clone(), Interest::READABLE)?),
        };
        ready!(watched.poll_read_ready(context))?.clear_ready();
        Poll::Ready(Ok(()))
    }
}
