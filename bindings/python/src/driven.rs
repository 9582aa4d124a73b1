//! The call that a thread polls by itself: its outcome wakes nobody, since whoever polls the call takes it.

use std::cell::Cell;

thread_local! {
    static DRIVEN: Cell<Option<Driven>> = const { Cell::new(None) };
}

/// A call that its caller polls: the address of its queue, and its number.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Driven(usize, u64);

impl Driven {
    pub(crate) fn of<T>(queue: &T, number: u64) -> Self {
        Self(std::ptr::from_ref(queue).addr(), number)
    }

    /// Whether this thread polls the call.
    pub(crate) fn is_now(self) -> bool {
        DRIVEN.get() == Some(self)
    }

    /// Runs a step that may poll the call on this thread. Its outcome then rings no bell: take it with
    /// [`Queue::take_one`](crate::completion::Queue::take_one), or drain the queue.
    pub(crate) fn during<T>(self, step: impl FnOnce() -> T) -> T {
        struct Before(Option<Driven>);
        impl Drop for Before {
            fn drop(&mut self) {
                DRIVEN.set(self.0);
            }
        }
        let _before = Before(DRIVEN.replace(Some(self)));
        step()
    }
}
