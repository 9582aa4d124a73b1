//! The end of a process: every client is closed.

use std::time::Duration;

use crate::engine::runtime::{Attended, Engine};

/// Closes every client of this process and releases what they hold, within `timeout`. For the end of a process; blocks.
///
/// Does nothing in a forked child that has not used the engine, and nothing the second time.
pub fn shutdown(timeout: Duration) {
    let Some(engine) = Engine::if_running() else { return };
    let attended = engine.take_attended();
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let closed = async move {
        futures_util::future::join_all(attended.into_iter().map(Attended::close_now)).await;
        Ok(())
    };
    engine.call(closed, move |_| drop(done));
    // Ends when the sender is dropped, be it by an engine that stops, or at the timeout.
    let _ = finished.recv_timeout(timeout);
}
