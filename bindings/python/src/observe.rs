//! Events of a client, and the engine's log, on their way to Python.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dlock::fork::process_id;
use dlock::logs::{self, Record};
use dlock::observe::{Kind, Kinds};
use parking_lot::Mutex;
use pyo3::prelude::*;
use tracing::Level;
use tracing::level_filters::LevelFilter;

use crate::completion::{Completions, Outcome, Queue};
use crate::error::raise;
use crate::event::Event;
use crate::process::Owned;

/// Events on their way to one event loop or thread.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct Subscription {
    inner: Owned<dlock::observe::Subscription>,
    /// Only used under the GIL, so nothing waits for it.
    taken: Mutex<VecDeque<dlock::observe::Event>>,
    queue: Arc<Queue>,
    number: u64,
}

impl Subscription {
    /// An outcome under `number` means that there are events to take, or that the subscription has ended.
    pub(crate) fn new(client: &dlock::Client, completions: &Completions, number: u64) -> PyResult<Self> {
        let queue = completions.queue()?;
        let bell = queue.clone();
        let inner = client.subscribe(Kinds::default(), move || bell.push(number, Outcome::Done));
        Ok(Self { inner: Owned::new(inner), taken: Mutex::default(), queue, number })
    }
}

#[pymethods]
impl Subscription {
    /// Sets the kinds of events, by name.
    #[allow(clippy::needless_pass_by_value)] // Python's strings arrive as strings of ours
    fn listen(&self, events: Vec<String>) -> PyResult<()> {
        let kinds: dlock::Result<Kinds> = events.iter().map(|event| Kind::parse(event)).collect();
        self.inner.get()?.set_kinds(kinds.map_err(raise)?);
        Ok(())
    }

    /// The queued events, oldest first. Each becomes an object only when its turn comes, in the memory of the one before.
    fn __iter__(this: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        this.inner.get()?.take_into(&mut this.taken.lock());
        Ok(this)
    }

    fn __next__(&self) -> Option<Event> {
        self.taken.lock().pop_front().map(Event)
    }

    /// Ends the subscription, and wakes its reader.
    fn end(&self) -> PyResult<()> {
        self.inner.get()?.end();
        self.queue.push(self.number, Outcome::Done);
        Ok(())
    }

    /// Whether the subscription has ended.
    #[getter]
    fn over(&self) -> bool {
        self.inner.mine().is_none_or(dlock::observe::Subscription::is_over)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // Nothing can take events any more.
        if let Some(subscription) = self.inner.mine() {
            subscription.end();
        }
    }
}

/// The name of the logger for a log target of the engine.
pub(crate) fn logger(target: &str) -> String {
    target.replace("::", ".")
}

/// The queue that learns of new records, and its process.
static BELL: Mutex<Option<(u32, Arc<Queue>)>> = Mutex::new(None);
/// How long to wait for the mutex. In a forked child a thread that no longer exists may hold it; then the child gets no records.
const LONGEST_LOCK_IN_CHILD: Duration = Duration::from_millis(100);

fn ring() {
    let bell = BELL.try_lock_for(LONGEST_LOCK_IN_CHILD).and_then(|bell| bell.clone());
    if let Some((pid, queue)) = bell
        && pid == process_id()
    {
        queue.push(0, Outcome::Done);
    }
}

/// Wakes `completions` when the engine has logged something. It replaces an earlier one.
#[pyfunction]
pub(crate) fn listen_to_logs(completions: &Completions) -> PyResult<()> {
    let queue = completions.queue()?;
    if let Some(mut bell) = BELL.try_lock_for(LONGEST_LOCK_IN_CHILD) {
        *bell = Some((process_id(), queue));
    }
    logs::listen(ring);
    Ok(())
}

/// Sets the lowest level of records, as a number of Python's `logging`.
#[pyfunction]
pub(crate) fn set_log_level(level: i32) {
    logs::set_level(match level {
        ..=5 => LevelFilter::TRACE,
        6..=10 => LevelFilter::DEBUG,
        11..=20 => LevelFilter::INFO,
        21..=30 => LevelFilter::WARN,
        31..=40 => LevelFilter::ERROR,
        _ => LevelFilter::OFF,
    });
}

/// Takes the records, `(level, logger, message, fields)` each, and the number of records that were dropped.
#[pyfunction]
#[allow(clippy::type_complexity)] // seen from Python, a list of tuples
pub(crate) fn take_logs() -> (Vec<(i32, String, String, BTreeMap<&'static str, String>)>, u64) {
    let (records, dropped) = logs::take();
    let records = records.into_iter().map(|Record { level, target, message, fields }| {
        let level = match level {
            Level::ERROR => 40,
            Level::WARN => 30,
            Level::INFO => 20,
            Level::DEBUG => 10,
            Level::TRACE => 5,
        };
        (level, logger(target), message, fields.into_iter().collect())
    });
    (records.collect(), dropped)
}
