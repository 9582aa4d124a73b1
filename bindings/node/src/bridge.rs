//! The bridge: everything that one JavaScript environment has in the engine, by the numbers that JavaScript chose.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dlock::{Reader, Socket};
use napi::Env;
use napi::bindgen_prelude::Function;
use napi_derive::napi;

use crate::completion::{Completions, Outcome};
use crate::error::describe;
use crate::event::Delivery;

/// The number of the next environment.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Everything that one JavaScript environment (the main thread, or one worker) has in the engine.
#[napi]
pub struct Bridge {
    pub(crate) tables: Rc<RefCell<Tables>>,
    pub(crate) completions: Arc<Completions>,
    /// How this environment can wait for a socket.
    pub(crate) reader: Cell<Reader>,
    /// The texts that belong to outcomes, until JavaScript asks for them.
    pub(crate) texts: RefCell<HashMap<i64, String>>,
}

/// What the numbers stand for.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) clients: HashMap<i64, dlock::Client>,
    pub(crate) locks: HashMap<i64, dlock::Lock>,
    /// By the number of the call that acquired them.
    pub(crate) leases: HashMap<i64, dlock::Lease>,
    /// Acquires under way.
    pub(crate) acquires: HashMap<i64, dlock::Call>,
    /// The sockets that the event loop reads, by their own numbers.
    pub(crate) sockets: HashMap<i64, Arc<Socket>>,
    /// Releases whose answers come on a socket.
    pub(crate) releases: HashMap<i64, dlock::Call>,
    pub(crate) subscriptions: HashMap<i64, Delivery>,
    /// Outcomes that were taken from the queue and for which JavaScript had no room.
    pub(crate) backlog: VecDeque<(i64, Outcome)>,
}

#[napi]
impl Bridge {
    /// Calls `wake`, on the environment's own thread, when there is something to drain.
    #[napi(constructor)]
    pub fn new(env: Env, wake: Function<'_, (), ()>) -> napi::Result<Self> {
        // Node never forks a process without starting another program in it.
        dlock::fork::trust_hooks();
        let completions = Completions::new(&wake)?;
        let tables = Rc::<RefCell<Tables>>::default();
        let ends = (tables.clone(), completions.clone());
        // When a worker is terminated, no JavaScript runs, but this hook does.
        env.add_env_cleanup_hook(ends, |(tables, completions)| end(&tables, &completions))?;
        let reader = Cell::new(Reader::Feed(NEXT.fetch_add(1, Ordering::Relaxed)));
        Ok(Self { tables, completions, reader, texts: RefCell::default() })
    }

    /// Releases every lease of this environment and ends what it waits for, without waiting for answers. For the end of a worker.
    #[napi]
    pub fn end(&self) {
        end(&self.tables, &self.completions);
    }

    /// As [`Bridge::end`], and then closes every client of the process, within the time that the engine allows at exit. For the end
    /// of the process.
    #[napi]
    pub fn shutdown(&self) {
        self.end();
        dlock::shutdown(dlock::EXIT_GRACE);
    }

    /// Checks a duration that a later call will use. Returns the error, or nothing.
    #[napi]
    pub fn check_millis(&self, field: String, value: f64) -> Option<String> {
        dlock::Unit::Millis.duration(&field, value).err().map(|error| describe(&error))
    }

    /// Starts a call on the engine. Its outcome comes through the queue, also if it cannot be started.
    pub(crate) fn start(&self, call: i64, work: impl Future<Output = dlock::Result<Outcome>> + Send + 'static) {
        let completions = self.completions.clone();
        let answered = move |answer: dlock::Result<Outcome>| completions.push(call, answer.unwrap_or_else(Outcome::Failed));
        if let Err(error) = dlock::call(work, answered) {
            self.fail(call, error);
        }
    }

    pub(crate) fn fail(&self, call: i64, error: dlock::Error) {
        self.completions.push(call, Outcome::Failed(error));
    }
}

fn end(tables: &RefCell<Tables>, completions: &Completions) {
    completions.close();
    // Taken out first, because dropping them may call back.
    let left = tables.take();
    // Nothing is read here any more.
    for socket in left.sockets.values() {
        socket.let_engine_read();
    }
    for acquire in left.acquires.values() {
        acquire.abort();
    }
    for delivery in left.subscriptions.values() {
        delivery.subscription.end();
    }
    for (_, outcome) in left.backlog {
        outcome.discard();
    }
    for lease in left.leases.values() {
        // A forked child has nothing to release.
        let _ = lease.begin_release();
    }
}
