//! Notices that a lock file may have become free.
//!
//! A process has one inotify instance, of which a user may have 128, and one watch for each file that is waited for. Nobody watches the
//! directory, since that would wake every waiter for every key. Where no instance or watch is left, [`watch`] returns `None` and the waiter
//! polls.

use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

use super::files::table;
use super::hub::{NewInstance, Notify, WatcherId};

/// Watches the file at `path`; `None` where that is not possible. Dropping the watch ends it.
pub(super) fn watch(path: &Path, notify: Notify) -> Option<Watch> {
    if let Ok(runtime) = Handle::try_current() {
        let opened = table().hub.open();
        // The reader is started without the table's lock: a runtime that shuts down drops the reader at once, and its end takes that lock.
        if let Some(instance) = opened {
            start_reader(&runtime, &instance);
        }
    }
    let writer_closed = Arc::new(AtomicBool::new(false));
    let id = table().hub.watch(path, Arc::clone(&writer_closed), notify)?;
    Some(Watch { id, writer_closed })
}

/// The engine that ran the reader has stopped. Its watchers are notified, and watch again on the next engine.
pub(super) fn engine_stopped() {
    let affected = table().hub.give_up();
    for notify in affected {
        notify();
    }
}

/// One waiter's watch on one file.
#[derive(Debug)]
pub(super) struct Watch {
    id: WatcherId,
    writer_closed: Arc<AtomicBool>,
}

impl Watch {
    /// False when the file, the instance or the runtime that reads it is gone: the waiter has to watch again.
    pub(super) fn is_alive(&self) -> bool {
        table().hub.has(&self.id)
    }

    /// Whether a writable descriptor was closed since the last call. The kernel reports that a moment *before* it drops the lock.
    pub(super) fn take_writer_closed(&self) -> bool {
        self.writer_closed.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        table().hub.forget(&self.id);
    }
}

/// Reads the instance on `runtime`, for as long as that lives.
fn start_reader(runtime: &Handle, instance: &NewInstance) {
    let end = InstanceEnd(instance.number);
    // The constructor that replaces this one is `unsafe` and asks for what holds here: the descriptor stays open for longer than `events`
    // lives. `end`, which closes it, is dropped last; a forked child closes its own copy and never runs this task.
    #[allow(deprecated)]
    let Ok(events) = AsyncFd::with_interest(BorrowedNumber(instance.descriptor), Interest::READABLE) else { return };
    runtime.spawn(ReaderTask { events, end }.run());
}

/// The instance's descriptor as tokio's reactor sees it. The table owns the descriptor; this is its number only.
struct BorrowedNumber(RawFd);

impl AsRawFd for BorrowedNumber {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// Declared in the order of dropping: the reactor forgets the descriptor, then the instance is closed.
struct ReaderTask {
    events: AsyncFd<BorrowedNumber>,
    end: InstanceEnd,
}

impl ReaderTask {
    async fn run(self) {
        loop {
            let Ok(mut ready) = self.events.readable().await else { return };
            let affected = table().hub.read(self.end.0);
            ready.clear_ready();
            let Some(affected) = affected else { return };
            for notify in affected {
                notify();
            }
        }
    }
}

/// Ends an instance whose reader ended, and notifies its watchers, who have to watch again.
struct InstanceEnd(u64);

impl Drop for InstanceEnd {
    fn drop(&mut self) {
        let affected = table().hub.end(self.0);
        for notify in affected {
            notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::super::scratch::Scratch;
    use super::*;

    /// Its reader is dropped at once, and the end of the reader takes the table's lock.
    #[test]
    fn a_watch_on_a_runtime_that_shuts_down_blocks_nobody() {
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        std::fs::write(&path, "").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        runtime.shutdown_timeout(Duration::from_secs(5));
        let (done, finished) = mpsc::channel();
        std::thread::spawn(move || {
            let _entered = handle.enter();
            let _watch = watch(&path, Arc::new(|| {}));
            let _ = done.send(());
        });
        finished.recv_timeout(Duration::from_secs(5)).expect("the watch returns");
    }
}
