//! The direct connection of a link: who may use it now, and when one is made or given up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::driver::{Reader, Socket};

/// After so many lone requests a link gets a direct connection. A program that takes one lock and ends needs none.
const WORTHWHILE: u32 = 3;
/// How long to wait after a failure before another direct connection is made.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Lone requests further apart than this are worth no connection: it would end before the next one, and making it costs a login.
const OFTEN: Duration = Duration::from_secs(1);

/// How long a direct connection is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(10);

/// A connection whose answers callers read.
pub(in crate::backend) trait CallerConnection: Send {
    fn socket(&self) -> &Arc<Socket>;

    /// Whether a request may go over it, which is asked while none is under way. The server may have hung up.
    fn is_usable(&mut self) -> bool;
}

/// The direct connection of one link.
pub(in crate::backend) struct DirectAccess<C> {
    state: Mutex<DirectState<C>>,
    /// A request is under way. It is read for each request, so it needs no lock.
    is_busy: AtomicBool,
    /// Notified when a request is over.
    over: Notify,
}

struct DirectState<C> {
    connection: Option<C>,
    /// The lock about which a request is under way. Empty on backends where nobody waits for requests about one.
    asks: Option<String>,
    /// The loop that reads the socket by itself. No other caller may use it, since the loop would take its answers.
    fed_by: Option<u64>,
    /// How many requests the connection has served.
    served: u64,
    /// Lone requests that came while there was no connection.
    lone: u32,
    /// When the last of them came.
    last_lone: Option<Instant>,
    /// It is being made.
    connecting: bool,
    /// No other one is made before.
    not_before: Option<Instant>,
    /// The link has ended.
    closed: bool,
}

impl<C: CallerConnection> DirectState<C> {
    fn is_free(&self, reader: Reader) -> bool {
        let may_watch = match reader {
            Reader::Never => false,
            // A loop that still watches it ends its watch when it is woken for nothing.
            Reader::Once | Reader::Loop(_) => self.fed_by.is_none(),
            Reader::Feed(number) => self.fed_by.is_none_or(|known| known == number),
        };
        may_watch && self.connection.is_some() && self.asks.is_none()
    }

    /// Gives the connection up; no other one is made at once. Returned, so that it is dropped with nothing locked.
    fn give_up(&mut self) -> Option<C> {
        (self.lone, self.fed_by) = (0, None);
        self.not_before = Some(Instant::now() + AFTER_FAILURE);
        self.connection.take()
    }
}

impl<C> Default for DirectAccess<C> {
    fn default() -> Self {
        let state = DirectState {
            connection: None,
            asks: None,
            fed_by: None,
            served: 0,
            lone: 0,
            last_lone: None,
            connecting: false,
            not_before: None,
            closed: false,
        };
        Self { state: Mutex::new(state), is_busy: AtomicBool::new(false), over: Notify::new() }
    }
}

impl<C: CallerConnection> DirectAccess<C> {
    /// Whether a caller with this reader could use the connection now.
    pub(in crate::backend) fn is_free(&self, reader: Reader) -> bool {
        self.state.lock().is_free(reader)
    }

    /// Ends the connection, and makes none any more.
    pub(in crate::backend) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let ended = state.give_up();
        drop(state);
        drop(ended);
    }

    /// Notes a lone request for which there is no connection. True once one is worthwhile; then it counts as being made.
    pub(in crate::backend) fn is_worthwhile(&self) -> bool {
        let mut state = self.state.lock();
        if state.connection.is_some() || state.connecting || state.closed {
            return false;
        }
        let now = Instant::now();
        let is_often = state.last_lone.replace(now).is_some_and(|last| now - last < OFTEN);
        state.lone = if is_often { state.lone + 1 } else { 1 };
        if state.lone < WORTHWHILE || state.not_before.is_some_and(|at| now < at) {
            return false;
        }
        (state.connecting, state.lone) = (true, 0);
        true
    }

    /// Ends the connection with this socket if it has served no more than that. Returns how many requests it has served; `None` if it is gone.
    fn end_unless_used(&self, number: u64, seen: u64) -> Option<u64> {
        let mut state = self.state.lock();
        state.connection.as_ref().filter(|connection| connection.socket().number() == number)?;
        if state.served != seen || state.asks.is_some() {
            return Some(state.served);
        }
        let ended = state.give_up();
        state.not_before = None;
        drop(state);
        drop(ended);
        None
    }

    /// Takes a connection that was made; `None` if that failed: lone requests go over the link, as they did. Returns the number of its socket.
    fn connected(&self, made: Option<C>) -> Option<u64> {
        let mut state = self.state.lock();
        state.connecting = false;
        match made {
            Some(connection) if !state.closed => {
                let number = connection.socket().number();
                (state.connection, state.served) = (Some(connection), 0);
                Some(number)
            }
            Some(unwanted) => {
                drop(state);
                drop(unwanted);
                None
            }
            None => {
                state.not_before = Some(Instant::now() + AFTER_FAILURE);
                None
            }
        }
    }

    /// Takes the connection for a request about this lock, if it is free and usable. `take` has what the request needs of it.
    pub(in crate::backend) fn begin<T>(&self, lock: &str, reader: Reader, take: impl FnOnce(&C) -> T) -> Option<T> {
        let mut state = self.state.lock();
        if !state.is_free(reader) {
            return None;
        }
        let connection = state.connection.as_mut()?;
        if !connection.is_usable() {
            let ended = state.give_up();
            drop(state);
            drop(ended);
            return None;
        }
        let taken = take(connection);
        if let Reader::Feed(number) = reader {
            state.fed_by = Some(number);
        }
        state.asks = Some(lock.to_owned());
        self.is_busy.store(true, Ordering::SeqCst);
        state.served += 1;
        Some(taken)
    }

    /// Ends the request under way. Without its answer the connection is of no use any more.
    pub(in crate::backend) fn end(&self, answered: bool) {
        let mut state = self.state.lock();
        state.asks = None;
        self.is_busy.store(false, Ordering::SeqCst);
        let keeps = answered && !state.connection.as_ref().is_some_and(|connection| connection.socket().is_handed_back());
        let ended = if keeps { None } else { state.give_up() };
        drop(state);
        drop(ended);
        self.over.notify_waiters();
    }

    /// Does something with the connection; `None` if there is none any more.
    pub(in crate::backend) fn with<T>(&self, act: impl FnOnce(&mut C) -> T) -> Option<T> {
        self.state.lock().connection.as_mut().map(act)
    }

    /// Whether a request is under way.
    pub(in crate::backend) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::SeqCst)
    }

    /// Waits until no request about this lock is under way.
    pub(in crate::backend) async fn wait_for_request_about(&self, lock: &str) {
        loop {
            let over = self.over.notified();
            tokio::pin!(over);
            over.as_mut().enable();
            if self.state.lock().asks.as_deref() != Some(lock) {
                return;
            }
            over.await;
        }
    }
}

/// Gives access to a connection that was made, or not, and ends it when it was not used for a while. Keeps neither of them.
pub(in crate::backend) async fn keep_while_used<C: CallerConnection>(access: Weak<DirectAccess<C>>, made: Option<C>) {
    let Some(number) = access.upgrade().and_then(|access| access.connected(made)) else { return };
    let mut seen = 0;
    loop {
        sleep(IDLE).await;
        match access.upgrade().and_then(|access| access.end_unless_used(number, seen)) {
            Some(served) => seen = served,
            None => return,
        }
    }
}
