//! Brings results from engine threads to Python: a queue, and a file descriptor that wakes its reader once for many results.
//!
//! Engine threads never take the GIL. They push plain values, which become Python objects when Python drains the queue.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dlock::backend::Inspection;
use dlock::{Error, Health, LossReason, QueuedOutcome, Reader};
use parking_lot::Mutex;
use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyList};

use crate::call::Call;
use crate::error::{exception, raise};
use crate::grant::{Grant, Undelivered};
use crate::objects::{condition, inspection};
use crate::process::Owned;

/// How many calls of one task in a row may be over at once before it waits for a turn of the loop. They take a quarter of a
/// millisecond (ADR 18), so the other tasks hardly notice, and what a turn costs is spread over 16 calls.
const AT_ONCE: u32 = 16;
/// The same for all tasks together, because a program may make a task for each call: none of them makes 16. They take some 8 ms,
/// for which timers and sockets wait.
const OF_ALL_AT_ONCE: u32 = 512;

/// The number of the next event loop.
static NEXT_LOOP: AtomicU64 = AtomicU64::new(1);

/// How a call ended.
pub(crate) enum Outcome {
    Granted(Undelivered),
    Answer(bool),
    Done,
    Inspected(Box<Inspection>),
    Listed(Vec<Inspection>),
    Health(Box<Health>),
    /// The lease is lost. It comes under the number of the call that acquired the lease, or of a call that waits for the loss.
    Lost(LossReason),
    Failed(Error),
}

impl Outcome {
    /// `(number, value, error)`. The value or the error is None.
    fn into_python(self, py: Python<'_>, number: u64) -> PyResult<Bound<'_, PyAny>> {
        let tuple = match self {
            Self::Failed(error) => (number, py.None().into_bound(py), exception(py, &error)?),
            outcome => (number, outcome.into_value(py)?, py.None().into_bound(py)),
        };
        Ok(tuple.into_pyobject(py)?.into_any())
    }

    /// The value, or an error to raise.
    pub(crate) fn into_value(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        Ok(match self {
            Self::Failed(error) => return Err(raise(error)),
            Self::Granted(lease) => Bound::new(py, Grant::new(lease))?.into_any(),
            Self::Answer(answer) => answer.into_pyobject(py)?.to_owned().into_any(),
            Self::Done => py.None().into_bound(py),
            Self::Inspected(found) => inspection(py, &found)?,
            Self::Listed(found) => {
                let list = PyList::empty(py);
                for found in &found {
                    list.append(inspection(py, found)?)?;
                }
                list.into_any()
            }
            Self::Health(health) => condition(py, &health)?,
            Self::Lost(reason) => reason.as_str().into_pyobject(py)?.into_any(),
        })
    }
}

/// The queue. It owns its descriptor and lives as long as anything may push, so a push never writes to a descriptor that was closed and
/// reused.
pub(crate) struct Queue {
    bell: Bell,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    outcomes: Vec<(u64, Outcome)>,
    /// The bell rings: it is written and read under the same lock as this, so it never rings for a reader that does not know.
    armed: bool,
    closed: bool,
}

impl State {
    fn ring(&mut self, bell: &Bell) {
        if !std::mem::replace(&mut self.armed, true) {
            bell.ring();
        }
    }
}

impl Queue {
    /// Adds a result. Once the reader is gone, the result is dropped, which releases a grant.
    pub(crate) fn push(&self, number: u64, outcome: Outcome) {
        let refused = {
            let mut state = self.state.lock();
            if state.closed {
                outcome
            } else {
                let quiet = QueuedOutcome::of(self, number).is_driven_here() && !matches!(outcome, Outcome::Lost(_));
                state.outcomes.push((number, outcome));
                if !quiet {
                    state.ring(&self.bell);
                }
                return;
            }
        };
        // Outside the mutex: dropping a grant releases its lease.
        drop(refused);
    }

    fn ring(&self) {
        self.state.lock().ring(&self.bell);
    }

    /// Readable while the queue has outcomes.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.read.as_fd()
    }

    /// Takes everything and silences the bell. A push after that rings again.
    pub(crate) fn take(&self) -> Vec<(u64, Outcome)> {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.armed, false) {
            self.bell.silence();
        }
        std::mem::take(&mut state.outcomes)
    }

    /// Takes the outcome of one call, if it has come.
    pub(crate) fn take_one(&self, number: u64) -> Option<Outcome> {
        let mut state = self.state.lock();
        let place = state.outcomes.iter().rposition(|(of, outcome)| *of == number && !matches!(outcome, Outcome::Lost(_)))?;
        Some(state.outcomes.remove(place).1)
    }

    fn close(&self) {
        let left = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.outcomes)
        };
        // Outside the mutex: dropping a grant releases its lease.
        drop(left);
    }
}

/// A descriptor that is readable while it rings.
struct Bell {
    read: OwnedFd,
    #[cfg(not(target_os = "linux"))]
    write: OwnedFd,
}

impl Bell {
    #[cfg(target_os = "linux")]
    fn new() -> rustix::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        Ok(Self { read: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    #[cfg(not(target_os = "linux"))]
    fn new() -> rustix::io::Result<Self> {
        let (read, write) = rustix::pipe::pipe()?;
        for fd in [&read, &write] {
            rustix::io::ioctl_fionbio(fd, true)?;
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
        }
        Ok(Self { read, write })
    }

    /// No failure matters: the descriptor is open, and if it is full it rings already.
    fn ring(&self) {
        #[cfg(target_os = "linux")]
        let end = &self.read;
        #[cfg(not(target_os = "linux"))]
        let end = &self.write;
        let _ = rustix::io::write(end, &1u64.to_ne_bytes());
    }

    fn silence(&self) {
        let _ = rustix::io::read(&self.read, &mut [0; 8]);
    }
}

/// The calls of a loop that were over at once since one waited for a turn.
#[derive(Default)]
struct AtOnce {
    /// The last task, by its address.
    task: usize,
    in_a_row: u32,
    of_all: u32,
}

/// The reader's end of a queue. Each event loop has one, and each blocking call.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct Completions {
    queue: Owned<Arc<Queue>>,
    /// The number of the loop; zero for a thread that blocks.
    of_loop: u64,
    at_once: Mutex<AtOnce>,
    /// The loop can watch sockets, or the thread can wait for one.
    reads: AtomicBool,
}

#[pymethods]
impl Completions {
    /// For an event loop.
    #[new]
    fn of_loop() -> PyResult<Self> {
        Self::new(NEXT_LOOP.fetch_add(1, Ordering::Relaxed))
    }

    /// For a loop that cannot watch sockets.
    fn reads_nothing(&self) {
        self.reads.store(false, Ordering::Relaxed);
    }

    /// The descriptor to wait for: it is readable when there is something to drain.
    pub(crate) fn fileno(&self) -> PyResult<i32> {
        Ok(self.queue.get()?.bell.read.as_raw_fd())
    }

    /// Drops the outcomes, for a reader that only needs to be woken.
    fn drain(&self) -> PyResult<()> {
        self.queue.get().map(|queue| drop(queue.take()))
    }

    /// Appends all outcomes to a deque, as `(number, value, error)`. It is one step, because an exception may be raised between two steps
    /// of Python.
    fn drain_into(&self, py: Python<'_>, came: &Bound<'_, PyAny>) -> PyResult<()> {
        let list = PyList::empty(py);
        for (number, outcome) in self.queue.get()?.take() {
            list.append(outcome.into_python(py, number)?)?;
        }
        came.call_method1(intern!(py, "extend"), (list,)).map(drop)
    }

    /// Rings, so that the queue is drained again.
    fn ring(&self) -> PyResult<()> {
        self.queue.get()?.ring();
        Ok(())
    }

    /// Ends the reading. All outcomes are dropped, also those that come later, and grants among them are released.
    fn close(&self) -> PyResult<()> {
        self.queue.get()?.close();
        Ok(())
    }
}

/// Gives a future its outcome. It wakes those that await the future even if a signal handler raises meanwhile.
#[pyfunction]
pub(crate) fn tell<'py>(future: &Bound<'py, PyAny>, value: Bound<'py, PyAny>, error: Option<Bound<'py, PyAny>>) -> PyResult<()> {
    let py = future.py();
    // The future drops its callbacks as soon as it begins to schedule them.
    let callbacks = future.getattr(intern!(py, "_callbacks"))?;
    let done = match error {
        Some(error) => future.call_method1(intern!(py, "set_exception"), (error,)),
        None => future.call_method1(intern!(py, "set_result"), (value,)),
    };
    done.map(drop).inspect_err(|_| {
        // An exception interrupted the loop's `call_soon`. Without a second try, a waiting task would never wake.
        let _ = schedule(future, &callbacks).or_else(|_| schedule(future, &callbacks));
    })
}

/// Schedules the callbacks of a future that are not scheduled yet, on a loop that is written in Python. Other loops cannot be interrupted.
fn schedule(future: &Bound<'_, PyAny>, callbacks: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = future.py();
    let event_loop = future.call_method0(intern!(py, "get_loop"))?;
    let Some(ready) = event_loop.getattr_opt(intern!(py, "_ready"))? else { return Ok(()) };
    for callback in callbacks.try_iter().into_iter().flatten() {
        let (callback, context): (Bound<'_, PyAny>, Bound<'_, PyAny>) = callback?.extract()?;
        let mut scheduled = false;
        for handle in ready.try_iter()? {
            scheduled |= handle?.getattr(intern!(py, "_callback"))?.is(&callback);
        }
        if !scheduled {
            let keywords = [("context", context)].into_py_dict(py)?;
            event_loop.call_method(intern!(py, "call_soon"), (callback, future), Some(&keywords))?;
        }
    }
    Ok(())
}

impl Completions {
    fn new(of_loop: u64) -> PyResult<Self> {
        let bell = Bell::new().map_err(|error| PyOSError::new_err((error.raw_os_error(), error.to_string())))?;
        let queue = Owned::new(Arc::new(Queue { bell, state: Mutex::default() }));
        Ok(Self { queue, of_loop, at_once: Mutex::default(), reads: AtomicBool::new(true) })
    }

    /// For one call at a time of a thread that blocks.
    pub(crate) fn of_thread() -> PyResult<Self> {
        Self::new(0)
    }

    /// How the reader of this queue can wait for a socket.
    pub(crate) fn reader(&self) -> Reader {
        match (self.reads.load(Ordering::Relaxed), self.of_loop) {
            (false, _) => Reader::Never,
            (true, 0) => Reader::Once,
            (true, number) => Reader::Loop(number),
        }
    }

    /// Whether a task whose call is over may go on at once. A task that never waits would keep the others from running, so now and then it
    /// waits for a turn of the loop.
    pub(crate) fn goes_on(&self, task: usize) -> bool {
        let mut at_once = self.at_once.lock();
        let in_a_row = if at_once.task == task { at_once.in_a_row + 1 } else { 1 };
        *at_once = AtOnce { task, in_a_row, of_all: at_once.of_all + 1 };
        let goes_on = in_a_row <= AT_ONCE && at_once.of_all <= OF_ALL_AT_ONCE;
        if !goes_on {
            *at_once = AtOnce::default();
        }
        goes_on
    }

    /// The outcome that comes to this queue under this number.
    pub(crate) fn outcome(&self, number: u64) -> PyResult<QueuedOutcome> {
        Ok(QueuedOutcome::of(self.queue.get()?.as_ref(), number))
    }

    pub(crate) fn queue(&self) -> PyResult<Arc<Queue>> {
        self.queue.get().cloned()
    }
}

impl Drop for Completions {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.mine() {
            queue.close();
        }
    }
}

/// Starts a call on the engine. Its outcome comes to `completions` under `number`.
pub(crate) fn start<F>(completions: &Completions, number: u64, work: F) -> PyResult<Call>
where
    F: Future<Output = dlock::Result<Outcome>> + Send + 'static,
{
    let queue = completions.queue()?;
    // `work` is dropped before the outcome is pushed, so no handle in it keeps a lease held.
    let answered = move |answer: dlock::Result<Outcome>| queue.push(number, answer.unwrap_or_else(Outcome::Failed));
    let outcome = completions.outcome(number)?;
    dlock::call(work, answered).map(|call| Call::new(call, outcome)).map_err(raise)
}
