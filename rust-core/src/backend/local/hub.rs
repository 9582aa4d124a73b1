//! The process's inotify instance, and whom to notify about which file.
//!
//! The hub is part of the table of [`files`](super::files), so everything here runs under the table's lock: the hub calls nobody, it returns
//! whom to call, and it gives out numbers, never a guard that would lock the table again.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::inotify::{self, FileEvent};

/// Called when a watched file changed, on the reader's task, without any lock held.
pub(super) type Notify = Arc<dyn Fn() + Send + Sync>;

/// The process's inotify instance and the watchers of each file.
pub(super) struct Hub {
    next: u64,
    instance: Option<Instance>,
}

struct Instance {
    number: u64,
    inotify: OwnedFd,
    /// By the number that inotify gave the file.
    watchers: BTreeMap<i32, Vec<Watcher>>,
}

struct Watcher {
    number: u64,
    writer_closed: Arc<AtomicBool>,
    notify: Notify,
}

/// The numbers by which the hub knows one watcher. None is used twice, so those of an ended instance name nobody.
#[derive(Debug)]
pub(super) struct WatcherId {
    instance: u64,
    watch: i32,
    number: u64,
}

/// An instance that was opened just now and that nobody reads yet.
pub(super) struct NewInstance {
    pub(super) number: u64,
    pub(super) descriptor: RawFd,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("instance", &self.instance.as_ref().map(|instance| instance.number)).finish_non_exhaustive()
    }
}

impl Hub {
    pub(super) const fn new() -> Self {
        Self { next: 1, instance: None }
    }

    /// In a forked child: closes the inherited instance. What the watchers would call belongs to the parent and is not even dropped.
    pub(super) fn abandon(&mut self) {
        if let Some(instance) = self.instance.take() {
            std::mem::forget(instance.watchers);
        }
    }

    /// Gives up the instance whose reader ended with its engine, and returns everybody who watched with it. The descriptor is not closed:
    /// its number may belong to another file by now.
    pub(super) fn give_up(&mut self) -> Vec<Notify> {
        let Some(instance) = self.instance.take() else { return Vec::new() };
        std::mem::forget(instance.inotify);
        instance.watchers.into_values().flatten().map(|watcher| watcher.notify).collect()
    }

    /// Opens the instance; `None` if there is one already, or none to be had.
    pub(super) fn open(&mut self) -> Option<NewInstance> {
        if self.instance.is_some() {
            return None;
        }
        let inotify = inotify::open()?;
        let (number, descriptor) = (self.number(), inotify.as_raw_fd());
        self.instance = Some(Instance { number, inotify, watchers: BTreeMap::new() });
        Some(NewInstance { number, descriptor })
    }

    /// Adds a watcher of the file at `path`. `writer_closed` is set when a writable descriptor of the file is closed.
    pub(super) fn watch(&mut self, path: &Path, writer_closed: Arc<AtomicBool>, notify: Notify) -> Option<WatcherId> {
        let number = self.number();
        let instance = self.instance.as_mut()?;
        let watch = inotify::watch(&instance.inotify, path)?;
        instance.watchers.entry(watch).or_default().push(Watcher { number, writer_closed, notify });
        Some(WatcherId { instance: instance.number, watch, number })
    }

    /// Removes a watcher, and ends the watch of a file that nobody watches any more.
    pub(super) fn forget(&mut self, id: &WatcherId) {
        let Some(instance) = self.instance_of(id) else { return };
        let Some(watchers) = instance.watchers.get_mut(&id.watch) else { return };
        watchers.retain(|watcher| watcher.number != id.number);
        if watchers.is_empty() {
            instance.watchers.remove(&id.watch);
            inotify::unwatch(&instance.inotify, id.watch);
        }
    }

    /// Whether the instance still watches this watcher's file.
    pub(super) fn has(&mut self, id: &WatcherId) -> bool {
        self.instance_of(id).is_some_and(|instance| instance.watchers.contains_key(&id.watch))
    }

    /// Reads all events there are and returns whom to notify; `None` when this instance has ended.
    pub(super) fn read(&mut self, number: u64) -> Option<Vec<Notify>> {
        let instance = self.instance.as_mut().filter(|instance| instance.number == number)?;
        let watchers = &mut instance.watchers;
        let mut affected = Vec::new();
        inotify::read(&instance.inotify, |event| match event {
            FileEvent::Overflow => affected.extend(watchers.values().flatten().map(|watcher| Arc::clone(&watcher.notify))),
            FileEvent::Changed { watch, writer_closed, watch_ended } => {
                for watcher in watchers.get(&watch).into_iter().flatten() {
                    if writer_closed {
                        watcher.writer_closed.store(true, Ordering::Release);
                    }
                    affected.push(Arc::clone(&watcher.notify));
                }
                if watch_ended {
                    // The file is gone. Its watchers are notified, and watch the file that takes its place.
                    watchers.remove(&watch);
                }
            }
        });
        Some(affected)
    }

    /// Closes an instance and returns everybody who watched with it.
    pub(super) fn end(&mut self, number: u64) -> Vec<Notify> {
        match self.instance.take_if(|instance| instance.number == number) {
            Some(instance) => instance.watchers.into_values().flatten().map(|watcher| watcher.notify).collect(),
            None => Vec::new(),
        }
    }

    fn instance_of(&mut self, id: &WatcherId) -> Option<&mut Instance> {
        self.instance.as_mut().filter(|instance| instance.number == id.instance)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}
