//! Word that a lock file may have become free.
//!
//! One inotify instance a process (a user has 128), one watch per waited file, never one on the directory: every waiter would hear of
//! every key. Where no instance or watch is left, [`watch`] answers `None` and the waiter polls.

use std::path::Path;
use std::sync::Arc;

#[cfg(target_os = "linux")]
pub(super) use linux::{Hub, Watch};
#[cfg(not(target_os = "linux"))]
pub(super) use polling::{Hub, Watch};

use super::files::table;

/// Called when a watched file changed, on the reader's task, without any lock held.
pub(super) type Notify = Arc<dyn Fn() + Send + Sync>;

/// Watches the file at `path`; `None` where that is not possible. Dropping the watch ends it.
pub(super) fn watch(path: &Path, notify: Notify) -> Option<Watch> {
    // The reader is started without the table's lock: a runtime that shuts down drops it at once, and it ends by taking that lock.
    if let Some(reader) = table().hub.start() {
        reader.start();
    }
    table().hub.watch(path, notify)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;
    use std::fmt;
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;
    use tokio::runtime::Handle;

    use super::{Notify, table};

    /// What may free a key: its file was unlinked, which changes the link count (`ATTRIB`), or the holder's writable descriptor was
    /// closed. Reading, trying and waiting use read-only descriptors and so wake nobody.
    const EVENTS: WatchFlags =
        WatchFlags::ATTRIB.union(WatchFlags::CLOSE_WRITE).union(WatchFlags::DELETE_SELF).union(WatchFlags::MOVE_SELF);

    /// The process's inotify instance and who waits for what.
    pub(in super::super) struct Hub {
        next: u64,
        instance: Option<Instance>,
    }

    struct Instance {
        number: u64,
        inotify: OwnedFd,
        watchers: BTreeMap<i32, Vec<Watcher>>,
    }

    struct Watcher {
        number: u64,
        closed: Arc<AtomicBool>,
        notify: Notify,
    }

    impl fmt::Debug for Hub {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Hub").field("instance", &self.instance.as_ref().map(|instance| instance.number)).finish_non_exhaustive()
        }
    }

    impl Hub {
        pub(in super::super) const fn new() -> Self {
            Self { next: 1, instance: None }
        }

        /// In a forked child: closes the inherited instance. What the watchers would call belongs to the parent and is not even dropped.
        pub(in super::super) fn abandon(&mut self) {
            if let Some(instance) = self.instance.take() {
                std::mem::forget(instance.watchers);
            }
        }

        pub(super) fn watch(&mut self, path: &Path, notify: Notify) -> Option<Watch> {
            let number = self.number();
            let instance = self.instance.as_mut()?;
            let descriptor = inotify::add_watch(&instance.inotify, path, EVENTS | WatchFlags::DONT_FOLLOW).ok()?;
            let closed = Arc::new(AtomicBool::new(false));
            let watcher = Watcher { number, closed: Arc::clone(&closed), notify };
            instance.watchers.entry(descriptor).or_default().push(watcher);
            Some(Watch { instance: instance.number, descriptor, number, closed })
        }

        fn number(&mut self) -> u64 {
            self.next += 1;
            self.next
        }

        /// Makes the instance if there is none, and what reads it.
        pub(super) fn start(&mut self) -> Option<Reader> {
            if self.instance.is_some() {
                return None;
            }
            let runtime = Handle::try_current().ok()?;
            let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
            let number = self.number();
            let descriptor = Number(inotify.as_raw_fd());
            self.instance = Some(Instance { number, inotify, watchers: BTreeMap::new() });
            Some(Reader { runtime, descriptor, end: End(number) })
        }

        /// Reads all events there are. Answers whom to tell; `None` when this instance is no more.
        fn drain(&mut self, number: u64) -> Option<Vec<Notify>> {
            let instance = self.instance.as_mut().filter(|instance| instance.number == number)?;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(instance.inotify.as_fd(), &mut buffer);
            let mut told = Vec::new();
            while let Ok(event) = reader.next() {
                let what = event.events();
                if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                    told.extend(instance.watchers.values().flatten().map(|watcher| Arc::clone(&watcher.notify)));
                }
                for watcher in instance.watchers.get(&event.wd()).into_iter().flatten() {
                    if what.contains(ReadFlags::CLOSE_WRITE) {
                        watcher.closed.store(true, Ordering::Release);
                    }
                    told.push(Arc::clone(&watcher.notify));
                }
                if what.contains(ReadFlags::IGNORED) {
                    // The file is gone and its watch with it: they have been told, and will ask for a new one.
                    instance.watchers.remove(&event.wd());
                }
            }
            Some(told)
        }

        fn end(&mut self, number: u64) -> Vec<Notify> {
            match self.instance.take_if(|instance| instance.number == number) {
                Some(instance) => instance.watchers.into_values().flatten().map(|watcher| watcher.notify).collect(),
                None => Vec::new(),
            }
        }

        fn forget(&mut self, watch: &Watch) {
            let Some(instance) = self.instance.as_mut().filter(|instance| instance.number == watch.instance) else { return };
            let Some(watchers) = instance.watchers.get_mut(&watch.descriptor) else { return };
            watchers.retain(|watcher| watcher.number != watch.number);
            if watchers.is_empty() {
                instance.watchers.remove(&watch.descriptor);
                // Fails when the kernel has already dropped the watch, which is as good.
                let _ = inotify::remove_watch(&instance.inotify, watch.descriptor);
            }
        }

        fn has(&self, watch: &Watch) -> bool {
            let instance = self.instance.as_ref().filter(|instance| instance.number == watch.instance);
            instance.and_then(|instance| instance.watchers.get(&watch.descriptor)).is_some()
        }
    }

    /// One waiter's watch on one file.
    #[derive(Debug)]
    pub(in super::super) struct Watch {
        instance: u64,
        descriptor: i32,
        number: u64,
        closed: Arc<AtomicBool>,
    }

    impl Watch {
        /// False when the file, the instance or the runtime that read it is gone: watch again.
        pub(in super::super) fn is_alive(&self) -> bool {
            table().hub.has(self)
        }

        /// Whether a writable descriptor was closed since this was asked last. The kernel says so a moment *before* it drops the lock.
        pub(in super::super) fn take_closed(&self) -> bool {
            self.closed.swap(false, Ordering::AcqRel)
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            table().hub.forget(self);
        }
    }

    /// The instance's descriptor as tokio's reactor sees it. The table owns the descriptor; this is its number only.
    struct Number(RawFd);

    impl AsRawFd for Number {
        fn as_raw_fd(&self) -> RawFd {
            self.0
        }
    }

    /// An instance that nobody reads yet.
    pub(super) struct Reader {
        runtime: Handle,
        descriptor: Number,
        end: End,
    }

    impl Reader {
        /// Reads on the current runtime, for as long as that lives.
        pub(super) fn start(self) {
            let Self { runtime, descriptor, end } = self;
            // The constructor that replaces it is `unsafe` and asks for what holds here: the descriptor stays open for longer than
            // `events` lives. `end`, which closes it, is dropped last; a forked child closes its own copy and never runs this task.
            #[allow(deprecated)]
            let Ok(events) = AsyncFd::with_interest(descriptor, Interest::READABLE) else { return };
            runtime.spawn(Reading { events, end }.run());
        }
    }

    /// Declared in the order of dropping: the reactor forgets the descriptor, then the instance is closed.
    struct Reading {
        events: AsyncFd<Number>,
        end: End,
    }

    impl Reading {
        async fn run(self) {
            loop {
                let Ok(mut ready) = self.events.readable().await else { return };
                let told = table().hub.drain(self.end.0);
                ready.clear_ready();
                let Some(told) = told else { return };
                for notify in told {
                    notify();
                }
            }
        }
    }

    /// Ends an instance whose reader ended, and tells those who relied on it to look again.
    struct End(u64);

    impl Drop for End {
        fn drop(&mut self) {
            let told = table().hub.end(self.0);
            for notify in told {
                notify();
            }
        }
    }
}

/// Where there is no inotify: nobody is told, everybody polls.
#[cfg(not(target_os = "linux"))]
mod polling {
    use std::path::Path;

    use super::Notify;

    #[derive(Debug)]
    pub(in super::super) struct Hub;

    #[derive(Debug)]
    pub(in super::super) enum Watch {}

    pub(super) enum Reader {}

    impl Reader {
        pub(super) fn start(self) {
            match self {}
        }
    }

    impl Hub {
        pub(super) fn start(&mut self) -> Option<Reader> {
            None
        }

        pub(in super::super) const fn new() -> Self {
            Self
        }

        pub(in super::super) fn abandon(&mut self) {}

        pub(super) fn watch(&mut self, _path: &Path, _notify: Notify) -> Option<Watch> {
            None
        }
    }

    impl Watch {
        pub(in super::super) fn is_alive(&self) -> bool {
            match *self {}
        }

        pub(in super::super) fn take_closed(&self) -> bool {
            match *self {}
        }
    }
}
