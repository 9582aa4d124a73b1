//! The engine as Node sees it. Data in, data out; policy stays in the engine, promises and classes stay in JavaScript.
//!
//! JavaScript names clients, locks, leases and calls by numbers that it chooses; no pointer crosses the border. A call returns at once, and
//! its outcome comes back through the completion queue.
#![deny(unsafe_code)]
#![allow(clippy::needless_pass_by_value)] // text from JavaScript arrives as a String of ours

mod client;
mod completion;
mod error;
mod event;
mod lease;
mod lock;
mod observe;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use completion::{Completions, Outcome};
use napi::Env;
use napi::bindgen_prelude::Function;
use napi_derive::napi;

/// What the interpreter's thread allocates the engine's frees, and the other way round: the system's allocator makes them wait for each
/// other (measured: a tenth of the time of a pair).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Version of the engine, shared by every package of the project.
#[napi]
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What is logged where nobody chose a backend.
#[napi]
pub const DEFAULT_CHOSEN: &str = dlock::choice::DEFAULT_CHOSEN;

/// How long the end of a process waits for what is still held to be given back.
const FAREWELL: Duration = Duration::from_secs(2);

/// Everything that one JavaScript environment (the main thread, or one worker) has in the engine.
#[napi]
pub struct Bridge {
    tables: Rc<RefCell<Tables>>,
    completions: Arc<Completions>,
    texts: RefCell<HashMap<i64, String>>,
}

/// What the numbers stand for.
#[derive(Default)]
struct Tables {
    clients: HashMap<i64, dlock::Client>,
    locks: HashMap<i64, dlock::Lock>,
    /// By the number of the call that got them.
    leases: HashMap<i64, dlock::Lease>,
    /// Acquires under way.
    acquires: HashMap<i64, dlock::Call>,
    subscriptions: HashMap<i64, event::Hearing>,
    /// Taken from the queue, and more than JavaScript had room for.
    backlog: VecDeque<(i64, Outcome)>,
}

#[napi]
impl Bridge {
    /// `wake` is called, on the environment's own thread, when there is something to drain.
    #[napi(constructor)]
    pub fn new(env: Env, wake: Function<'_, (), ()>) -> napi::Result<Self> {
        // Node forks no process without giving it another program.
        dlock::fork::trust_hooks();
        let completions = Completions::new(&wake)?;
        let tables = Rc::<RefCell<Tables>>::default();
        let ends = (tables.clone(), completions.clone());
        // Terminating a worker runs no JavaScript, but this.
        env.add_env_cleanup_hook(ends, |(tables, completions)| leave(&tables, &completions))?;
        Ok(Self { tables, completions, texts: RefCell::default() })
    }

    /// Gives back everything that this environment holds or waits for, without waiting for it. For the end of a worker.
    #[napi]
    pub fn leave(&self) {
        leave(&self.tables, &self.completions);
    }

    /// [`Bridge::leave`], then closes every client of the process and waits for it, at most 2 s. For the end of the process.
    #[napi]
    pub fn shutdown(&self) {
        self.leave();
        dlock::shutdown(FAREWELL);
    }

    /// Checks a duration that will be needed later. Returns the error, or nothing.
    #[napi]
    pub fn check_millis(&self, field: String, value: f64) -> Option<String> {
        dlock::Unit::Millis.duration(&field, value).err().map(|error| error::describe(&error))
    }

    /// Starts a call on the engine; its outcome comes through the queue, also when it cannot be started.
    fn start(&self, call: i64, work: impl Future<Output = dlock::Result<Outcome>> + Send + 'static) {
        let completions = self.completions.clone();
        let answered = move |answer: dlock::Result<Outcome>| completions.push(call, answer.unwrap_or_else(Outcome::Failed));
        if let Err(error) = dlock::call(work, answered) {
            self.fail(call, error);
        }
    }

    fn fail(&self, call: i64, error: dlock::Error) {
        self.completions.push(call, Outcome::Failed(error));
    }
}

fn leave(tables: &RefCell<Tables>, completions: &Completions) {
    completions.close();
    // Taken out first: what is dropped may call back.
    let left = tables.take();
    for acquire in left.acquires.values() {
        acquire.abort();
    }
    for hearing in left.subscriptions.values() {
        hearing.subscription.end();
    }
    for (_, outcome) in left.backlog {
        outcome.discard();
    }
    for lease in left.leases.values() {
        // In a forked child there is nothing to give back.
        let _ = lease.begin_release();
    }
}
