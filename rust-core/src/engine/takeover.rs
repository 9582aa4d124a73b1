//! The calls that their callers drive. The engine takes over those whose callers stand still.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a caller may leave an answer unread. After that the engine reads it: nobody else may have to wait because a loop stands still.
pub(super) const LONGEST_UNREAD: Duration = Duration::from_millis(50);

/// A call that its caller drives.
pub(super) trait DrivenCall: Send + Sync {
    /// Whether its caller has left the answer unread for too long.
    fn stands_still(&self, now: Instant) -> bool;

    fn leave_to_engine(self: Arc<Self>);
}

/// The calls of one engine that are driven.
#[derive(Default)]
pub(crate) struct DrivenCalls(Mutex<Watched>);

#[derive(Default)]
struct Watched {
    calls: Vec<Weak<dyn DrivenCall>>,
    /// How many calls were watched so far.
    count: u64,
    /// There is a task that looks after them.
    is_watching: bool,
}

impl DrivenCalls {
    /// Looks after a call from now on. Returns what the engine has to run for that, unless it runs already.
    pub(super) fn watch(self: &Arc<Self>, call: Weak<dyn DrivenCall>) -> Option<impl Future<Output = ()> + Send + use<>> {
        let is_watching = {
            let mut watched = self.0.lock();
            watched.calls.push(call);
            watched.count += 1;
            std::mem::replace(&mut watched.is_watching, true)
        };
        let watch = (!is_watching).then(|| DrivenCallsWatch { calls: self.clone(), is_dropped: true });
        watch.map(|watch| async move {
            let mut watch = watch;
            watch.calls.run().await;
            watch.is_dropped = false;
        })
    }

    pub(super) fn forget<T>(&self, call: &Arc<T>) {
        let mut watched = self.0.lock();
        if let Some(place) = watched.calls.iter().position(|known| known.as_ptr().addr() == Arc::as_ptr(call).addr()) {
            watched.calls.swap_remove(place);
        }
    }

    /// Goes on as long as there are calls: an idle engine has no timer.
    async fn run(&self) {
        let mut seen = 0;
        loop {
            tokio::time::sleep(LONGEST_UNREAD).await;
            let now = Instant::now();
            let late: Vec<_> = {
                let mut watched = self.0.lock();
                watched.calls.retain(|call| call.strong_count() > 0);
                if watched.calls.is_empty() && watched.count == seen {
                    watched.is_watching = false;
                    return;
                }
                seen = watched.count;
                watched.calls.iter().filter_map(Weak::upgrade).filter(|call| call.stands_still(now)).collect()
            };
            for call in late {
                call.leave_to_engine();
            }
        }
    }

    /// Takes over every call: the process ends, or a client is closed.
    pub(crate) fn take_over(&self) {
        let calls: Vec<_> = self.0.lock().calls.iter().filter_map(Weak::upgrade).collect();
        for call in calls {
            call.leave_to_engine();
        }
    }

    /// Whether there is a task that looks after calls.
    #[cfg(test)]
    pub(super) fn is_watching(&self) -> bool {
        self.0.lock().is_watching
    }
}

/// The task that looks after the calls. An engine that stops drops it, and then nothing is watched any more.
struct DrivenCallsWatch {
    calls: Arc<DrivenCalls>,
    is_dropped: bool,
}

impl Drop for DrivenCallsWatch {
    fn drop(&mut self) {
        if self.is_dropped {
            self.calls.0.lock().is_watching = false;
        }
    }
}
