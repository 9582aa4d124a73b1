//! The system calls of inotify. Elsewhere than on Linux there is none, and the same functions answer that.

#[cfg(target_os = "linux")]
pub(super) use linux::{open, read, unwatch, watch};
#[cfg(not(target_os = "linux"))]
pub(super) use none::{open, read, unwatch, watch};

/// What an instance reports.
pub(super) enum FileEvent {
    /// The kernel dropped events: every watched file may have changed.
    Overflow,
    /// A watched file changed. The number is the one that [`watch`] returned for it.
    Changed {
        watch: i32,
        /// A writable descriptor of the file was closed.
        writer_closed: bool,
        /// The kernel has ended the watch, since the file is gone.
        watch_ended: bool,
    },
}

#[cfg(target_os = "linux")]
mod linux {
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, OwnedFd};
    use std::path::Path;

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

    use super::FileEvent;

    /// The events that may free a key: its file was unlinked, which changes the link count (`ATTRIB`), or the holder's writable descriptor
    /// was closed. Reading, trying and waiting use read-only descriptors and therefore wake nobody.
    const EVENTS: WatchFlags =
        WatchFlags::ATTRIB.union(WatchFlags::CLOSE_WRITE).union(WatchFlags::DELETE_SELF).union(WatchFlags::MOVE_SELF);

    /// A new instance; `None` where this user has used up the instances.
    pub(in super::super) fn open() -> Option<OwnedFd> {
        inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()
    }

    /// Watches the file at `path`; `None` if there is no such file or no watch left.
    pub(in super::super) fn watch(instance: &OwnedFd, path: &Path) -> Option<i32> {
        inotify::add_watch(instance, path, EVENTS | WatchFlags::DONT_FOLLOW).ok()
    }

    /// Ends a watch. It fails when the kernel has already ended the watch, which is the same to the caller.
    pub(in super::super) fn unwatch(instance: &OwnedFd, watch: i32) {
        let _ = inotify::remove_watch(instance, watch);
    }

    /// Reads all events there are.
    pub(in super::super) fn read(instance: &OwnedFd, mut on_event: impl FnMut(FileEvent)) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(instance.as_fd(), &mut buffer);
        while let Ok(event) = reader.next() {
            let what = event.events();
            if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                on_event(FileEvent::Overflow);
            }
            on_event(FileEvent::Changed {
                watch: event.wd(),
                writer_closed: what.contains(ReadFlags::CLOSE_WRITE),
                watch_ended: what.contains(ReadFlags::IGNORED),
            });
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod none {
    use std::os::fd::OwnedFd;
    use std::path::Path;

    use super::FileEvent;

    pub(in super::super) fn open() -> Option<OwnedFd> {
        None
    }

    pub(in super::super) fn watch(_instance: &OwnedFd, _path: &Path) -> Option<i32> {
        None
    }

    pub(in super::super) fn unwatch(_instance: &OwnedFd, _watch: i32) {}

    pub(in super::super) fn read(_instance: &OwnedFd, _on_event: impl FnMut(FileEvent)) {}
}
