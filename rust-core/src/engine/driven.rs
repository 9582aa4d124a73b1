//! A call that its caller drives: polled on the caller's thread as far as it gets, and the engine's from then on.
//!
//! Whatever wakes the call, other than the answer on its socket, leaves it to the engine. So does a caller that stands still
//! ([`crate::engine::takeover`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::driver::{self, Reader, Socket};
use crate::engine::runtime::Engine;
use crate::engine::takeover::{DrivenCall, LONGEST_UNREAD};
use crate::observe::logs::target;

/// The rest of a call.
pub(crate) type Work = BoxFuture<'static, ()>;
/// What the engine does with the rest of a call.
type Rest = Box<dyn FnOnce(Work) -> Option<AbortHandle> + Send>;

/// A call that its caller drives.
pub(crate) struct Driven {
    engine: Engine,
    reader: Reader,
    state: Mutex<DrivenState>,
}

enum DrivenState {
    /// It waits for the socket.
    Here {
        work: Work,
        rest: Rest,
        socket: Arc<Socket>,
        since: Instant,
    },
    /// A thread polls it. `woken`: something else than the socket has woken it meanwhile.
    Polled {
        woken: bool,
    },
    /// The engine has it.
    WithEngine(Option<AbortHandle>),
    Over,
}

impl Driven {
    /// The socket for which it waits; `None` if it is over, or is the engine's.
    pub(super) fn socket(&self) -> Option<Arc<Socket>> {
        match &*self.state.lock() {
            DrivenState::Here { socket, .. } => Some(socket.clone()),
            _ => None,
        }
    }

    /// Polls once. Nothing happens if another thread polls it now, or if it is over or the engine's.
    pub(super) fn poll(self: &Arc<Self>) {
        let taken = {
            let mut state = self.state.lock();
            match std::mem::replace(&mut *state, DrivenState::Polled { woken: false }) {
                DrivenState::Here { work, rest, .. } => Some((work, rest)),
                other => {
                    *state = other;
                    None
                }
            }
        };
        if let Some((work, rest)) = taken {
            self.engine.driven_calls().forget(self);
            self.poll_taken(work, rest);
        }
    }

    fn poll_taken(self: &Arc<Self>, mut work: Work, rest: Rest) {
        let waker = Waker::from(self.clone());
        let mut polled = || {
            let _on_engine = self.engine.handle().enter();
            driver::drive(self.reader, || work.as_mut().poll(&mut Context::from_waker(&waker)))
        };
        let polled = if let Ok(polled) = catch_unwind(AssertUnwindSafe(|| self.engine.waking(&mut polled))) {
            polled
        } else {
            tracing::error!(target: target::RUNTIME, "a call panicked, which is a bug in dlock: please report it");
            Some((Poll::Ready(()), None))
        };
        let mut state = self.state.lock();
        let DrivenState::Polled { woken } = *state else {
            // The caller has ended it.
            drop(state);
            self.drop_work(work);
            return;
        };
        match polled {
            Some((Poll::Ready(()), _)) => {
                *state = DrivenState::Over;
                // Dropped with nothing locked.
                drop(state);
                self.drop_work(work);
            }
            Some((Poll::Pending, Some(socket))) if !woken => {
                *state = DrivenState::Here { work, rest, socket, since: Instant::now() };
                drop(state);
                let known: Weak<Self> = Arc::downgrade(self);
                if let Some(watch) = self.engine.driven_calls().watch(known) {
                    self.engine.spawn(watch);
                }
                if self.socket().is_none() {
                    // It was taken over in between.
                    self.engine.driven_calls().forget(self);
                }
            }
            _ => {
                *state = DrivenState::WithEngine(None);
                drop(state);
                self.pass_on(work, rest);
            }
        }
    }

    fn pass_on(&self, work: Work, rest: Rest) {
        let task = rest(work);
        let mut state = self.state.lock();
        if matches!(*state, DrivenState::WithEngine(_)) {
            *state = DrivenState::WithEngine(task);
        } else if let Some(task) = task {
            // The caller has ended it meanwhile.
            drop(state);
            self.engine.waking(|| task.abort());
        }
    }

    pub(super) fn abort(self: &Arc<Self>) {
        let before = std::mem::replace(&mut *self.state.lock(), DrivenState::Over);
        match before {
            DrivenState::Here { work, .. } => {
                self.engine.driven_calls().forget(self);
                self.drop_work(work);
            }
            DrivenState::WithEngine(Some(task)) => drop(self.engine.waking(|| task.abort())),
            _ => {}
        }
    }

    /// Drops what is left of the call, which may wake tasks of the engine.
    fn drop_work(&self, work: Work) {
        self.engine.waking(|| {
            let _on_engine = self.engine.handle().enter();
            drop(work);
        });
    }
}

impl DrivenCall for Driven {
    fn stands_still(&self, now: Instant) -> bool {
        match self.state.try_lock().as_deref() {
            Some(DrivenState::Here { since, .. }) => now.saturating_duration_since(*since) >= LONGEST_UNREAD,
            _ => false,
        }
    }

    fn leave_to_engine(self: Arc<Self>) {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, DrivenState::WithEngine(None)) {
            DrivenState::Here { work, rest, .. } => {
                drop(state);
                self.engine.driven_calls().forget(&self);
                self.pass_on(work, rest);
            }
            DrivenState::Polled { .. } => *state = DrivenState::Polled { woken: true },
            other => *state = other,
        }
    }
}

impl Wake for Driven {
    /// Something else than the answer has come, such as the end of the client.
    fn wake(self: Arc<Self>) {
        self.leave_to_engine();
    }
}

impl Engine {
    /// Polls `work` on this thread. What is left of it goes to `rest`, now or when its caller no longer drives it.
    pub(crate) fn start_here(
        &self,
        reader: Reader,
        work: Work,
        rest: impl FnOnce(Work) -> Option<AbortHandle> + Send + 'static,
    ) -> Arc<Driven> {
        let driven = Arc::new(Driven { engine: self.clone(), reader, state: Mutex::new(DrivenState::Polled { woken: false }) });
        self.prove_alive();
        driven.poll_taken(work, Box::new(rest));
        driven
    }
}
