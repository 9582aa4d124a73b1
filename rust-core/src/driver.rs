//! Who polls a call: the engine, or the caller itself on its own thread.
//!
//! A call that needs no waiting is over after its first poll, so its caller polls it and no other thread is woken. A call that waits for one
//! answer can tell its caller on which socket the answer comes ([`wait_for`]): the caller waits for the socket and polls again.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

static NEXT: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
    static DRIVEN: Cell<Option<QueuedOutcome>> = const { Cell::new(None) };
}

/// How a caller that polls its own call can wait for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Not at all: whatever is not over after one poll is the engine's.
    Never,
    /// For one call at a time, as a thread that blocks does.
    Once,
    /// As an event loop does, which goes on watching the socket between calls. Each loop has a number of its own.
    Loop(u64),
    /// As an event loop does that can only read the socket by itself, and passes on what comes ([`Socket::feed`]). Numbered as other loops.
    Feed(u64),
}

/// A socket on which a caller may wait for its answer.
#[derive(Debug)]
pub struct Socket {
    number: u64,
    fd: OwnedFd,
    /// What a loop has read that reads the socket by itself; `None` where nobody does.
    fed: Mutex<Option<Fed>>,
}

#[derive(Debug, Default)]
struct Fed {
    bytes: VecDeque<u8>,
    /// No more will come.
    ended: bool,
    /// The loop reads no more: the engine does, once it has taken what is here.
    handed_back: bool,
    /// The engine waits for more.
    waiting: Option<Waker>,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd) -> Arc<Self> {
        Arc::new(Self { number: NEXT.fetch_add(1, Ordering::Relaxed), fd, fed: Mutex::default() })
    }

    /// From now on a loop reads the socket by itself, and passes on all that comes.
    pub fn let_loop_read(&self) {
        self.fed.lock().get_or_insert_default();
    }

    /// The loop reads the socket no more.
    pub fn let_engine_read(&self) {
        let waiting = {
            let mut fed = self.fed.lock();
            fed.as_mut().and_then(|fed| {
                fed.handed_back = true;
                fed.waiting.take()
            })
        };
        wake(waiting.as_ref());
    }

    /// Whether a loop reads the socket by itself.
    pub(crate) fn is_read_by_loop(&self) -> bool {
        self.fed.lock().as_ref().is_some_and(|fed| !fed.handed_back)
    }

    /// Passes on what a loop has read. Without bytes: the server has hung up, or the loop has stopped reading.
    pub fn feed(&self, bytes: &[u8]) {
        let waiting = {
            let mut fed = self.fed.lock();
            let fed = fed.get_or_insert_default();
            fed.bytes.extend(bytes);
            fed.ended |= bytes.is_empty();
            fed.waiting.take()
        };
        wake(waiting.as_ref());
    }

    /// Whether a loop has read it once. It may still take what comes, so nobody else should ask on it.
    pub(crate) fn is_handed_back(&self) -> bool {
        self.fed.lock().as_ref().is_some_and(|fed| fed.handed_back)
    }

    /// Ready when there is something to read of what a loop passes on, or when it has met the end. Never where no loop has read the socket.
    pub(crate) fn poll_fed(&self, context: &Context<'_>) -> Poll<()> {
        let mut fed = self.fed.lock();
        let Some(fed) = fed.as_mut() else { return Poll::Pending };
        if fed.bytes.is_empty() && !fed.ended {
            fed.waiting = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Reads what was fed, as from a socket that does not block; `None` where no loop reads it.
    pub(crate) fn read_fed(&self, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        let mut fed = self.fed.lock();
        let fed = fed.as_mut()?;
        if fed.bytes.is_empty() && fed.handed_back {
            return None;
        }
        if fed.bytes.is_empty() && !fed.ended {
            return Some(Err(io::ErrorKind::WouldBlock.into()));
        }
        Some(fed.bytes.read(buffer))
    }

    /// Tells this socket from every other one of the process, also from later ones with the same descriptor.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Wakes a task of the engine. If the engine's thread has ended, whoever asks it next finds out.
fn wake(waiting: Option<&Waker>) {
    let _ = catch_unwind(AssertUnwindSafe(|| waiting.inspect(|waker| waker.wake_by_ref())));
}

/// What is known while a caller polls its call.
struct Scope {
    reader: Reader,
    socket: Option<Arc<Socket>>,
}

/// Ends a scope, also by a panic: the one around it goes on.
struct Around(Option<Scope>);

impl Drop for Around {
    fn drop(&mut self) {
        SCOPE.set(self.0.take());
    }
}

/// Runs one poll of a caller that polls its own call. Returns the socket for which the call waits, if it waits for one.
pub(crate) fn drive<T>(reader: Reader, poll: impl FnOnce() -> T) -> (T, Option<Arc<Socket>>) {
    let _around = Around(SCOPE.replace(Some(Scope { reader, socket: None })));
    let polled = poll();
    (polled, SCOPE.with_borrow_mut(|scope| scope.as_mut().and_then(|scope| scope.socket.take())))
}

/// How the thread that polls now can wait for a socket; `None` if the engine polls.
pub(crate) fn reader() -> Option<Reader> {
    SCOPE.with_borrow(|scope| scope.as_ref().map(|scope| scope.reader))
}

/// Tells the caller that polls to wait until this socket is readable. False if it cannot, or if the engine polls.
pub(crate) fn wait_for(socket: &Arc<Socket>) -> bool {
    SCOPE.with_borrow_mut(|scope| match scope {
        Some(scope) if scope.reader != Reader::Never => {
            scope.socket = Some(socket.clone());
            true
        }
        _ => false,
    })
}

/// The outcome of a call that comes to a queue, as a binding has one for each event loop. It wakes nobody if the thread that brings
/// it drives the call by itself: then that thread takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuedOutcome {
    queue: usize,
    number: i128,
}

impl QueuedOutcome {
    /// The outcome of the call with this number, in this queue.
    pub fn of<T>(queue: &T, number: impl Into<i128>) -> Self {
        Self { queue: std::ptr::from_ref(queue).addr(), number: number.into() }
    }

    /// Whether this thread drives the call now.
    pub fn is_driven_here(self) -> bool {
        DRIVEN.get() == Some(self)
    }

    /// Runs a step that may drive the call on this thread. The thread then takes the outcome, if it has come.
    pub fn driving<T>(self, step: impl FnOnce() -> T) -> T {
        struct Before(Option<QueuedOutcome>);
        impl Drop for Before {
            fn drop(&mut self) {
                DRIVEN.set(self.0);
            }
        }
        let _before = Before(DRIVEN.replace(Some(self)));
        step()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> Arc<Socket> {
        Socket::new(rustix::pipe::pipe().unwrap().0)
    }

    #[test]
    fn a_poll_tells_its_caller_for_which_socket_it_waits() {
        let (one, other) = (socket(), socket());
        let (inner, waits) = drive(Reader::Once, || {
            assert!(wait_for(&one));
            drive(Reader::Loop(7), || assert!(wait_for(&other) && reader() == Some(Reader::Loop(7)))).1
        });
        assert_eq!(waits.unwrap().number(), one.number());
        assert_eq!(inner.unwrap().number(), other.number());
        assert!(reader().is_none() && !wait_for(&one), "nobody drives here");
    }

    #[test]
    fn what_a_loop_reads_by_itself_is_passed_on() {
        let (socket, mut buffer) = (socket(), [0; 4]);
        assert!(socket.read_fed(&mut buffer).is_none() && !socket.is_read_by_loop());
        socket.let_loop_read();
        assert_eq!(socket.read_fed(&mut buffer).unwrap().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(socket.is_read_by_loop());
        socket.feed(b"abcdef");
        assert_eq!((socket.read_fed(&mut buffer).unwrap().unwrap(), &buffer), (4, b"abcd"));
        socket.feed(b"");
        assert_eq!((socket.read_fed(&mut buffer).unwrap().unwrap(), &buffer[..2]), (2, &b"ef"[..]));
        assert_eq!(socket.read_fed(&mut buffer).unwrap().unwrap(), 0, "the server has hung up");
        socket.feed(b"x");
        socket.let_engine_read();
        assert!(!socket.is_read_by_loop() && socket.read_fed(&mut buffer).unwrap().unwrap() == 1, "what it has read is not lost");
        assert!(socket.read_fed(&mut buffer).is_none());
    }

    #[test]
    fn a_thread_knows_which_call_it_drives() {
        let (one, other) = (QueuedOutcome::of(&0_u8, 1_u64), QueuedOutcome::of(&1_u8, 2_i64));
        one.driving(|| {
            other.driving(|| assert!(other.is_driven_here() && !one.is_driven_here()));
            assert!(one.is_driven_here());
        });
        assert!(!one.is_driven_here());
    }

    #[test]
    fn a_caller_that_cannot_wait_is_not_asked_to() {
        let (waits, socket) = drive(Reader::Never, || wait_for(&socket()));
        assert!(!waits && socket.is_none());
    }
}
