//! The bridge: what one JavaScript environment has in the engine, under the numbers that JavaScript chose.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use napi::Env;
use napi::bindgen_prelude::Function;
use napi_derive::napi;

use crate::completion::{Completions, Outcome};
use crate::error::describe;
use crate::event::Hearing;

/// Everything that one JavaScript environment (the main thread, or one worker) has in the engine.
#[napi]
pub struct Bridge {
    pub(crate) tables: Rc<RefCell<Tables>>,
    pub(crate) completions: Arc<Completions>,
    /// The texts that belong to outcomes, until JavaScript asks for them.
    pub(crate) texts: RefCell<HashMap<i64, String>>,
}

/// What the numbers stand for.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) clients: HashMap<i64, dlock::Client>,
    pub(crate) locks: HashMap<i64, dlock::Lock>,
    /// By the number of the call that got them.
    pub(crate) leases: HashMap<i64, dlock::Lease>,
    /// Acquires under way.
    pub(crate) acquires: HashMap<i64, dlock::Call>,
    pub(crate) subscriptions: HashMap<i64, Hearing>,
    /// Taken from the queue, and more than JavaScript had room for.
    pub(crate) backlog: VecDeque<(i64, Outcome)>,
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
        dlock::shutdown(dlock::EXIT_GRACE);
    }

    /// Checks a duration that will be needed later. Returns the error, or nothing.
    #[napi]
    pub fn check_millis(&self, field: String, value: f64) -> Option<String> {
        dlock::Unit::Millis.duration(&field, value).err().map(|error| describe(&error))
    }

    /// Starts a call on the engine; its outcome comes through the queue, also when it cannot be started.
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
