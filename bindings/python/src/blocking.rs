//! Calls that block: the engine works while this thread waits without the GIL.
//!
//! A signal handler runs only between two checks of the queue. An exception that it raises ends the call.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyTuple};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::call::Call;
use crate::completion::{Completions, Outcome};
use crate::error::exception;
use crate::event_loop::loop_runs;
use crate::hooks::hook;

/// How often to check for signals. A signal right before the wait does not end it, and Ctrl-C must work within 100 ms all the same.
const LOOK_FOR_SIGNALS: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

thread_local! {
    /// A queue that no call of this thread uses now. Greenlets of one thread may make several calls at once, each with a queue of its own.
    static IDLE: Cell<Option<Completions>> = const { Cell::new(None) };
}

/// A queue for one call. If the thread has no idle one, this runs Python code, which may raise.
pub(crate) fn queue(py: Python<'_>) -> PyResult<Completions> {
    match IDLE.take() {
        Some(idle) if idle.queue().is_ok() => Ok(idle),
        _ => {
            hook(py, "start_log")?.call0()?;
            Completions::of_thread()
        }
    }
}

/// Starts a call with `start(completions, number, *arguments)` and blocks until its outcome has come.
#[pyfunction]
#[pyo3(signature = (start, *arguments))]
pub(crate) fn block<'py>(start: &Bound<'py, PyAny>, arguments: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
    let py = start.py();
    warn_in_loop(py)?;
    hook(py, "start_log")?.call0()?;
    let completions = Bound::new(py, Completions::of_thread()?)?;
    let first = (&completions, 0).into_pyobject(py)?;
    let call = start.call1(first.add(arguments)?.cast_into::<PyTuple>()?)?;
    match outcome(py, completions.get(), call.cast::<Call>().ok().map(Bound::get)) {
        Ok(Outcome::Failed(error)) => Err(failed(py, &error)?),
        Ok(outcome) => outcome.into_value(py),
        Err(raised) => {
            if let Ok(call) = call.cast::<Call>() {
                call.get().abort();
            }
            Err(raised)
        }
    }
}

/// Starts a call and blocks until its outcome has come.
pub(crate) fn run(py: Python<'_>, start: impl FnOnce(&Completions) -> PyResult<Option<Call>>) -> PyResult<Outcome> {
    warn_in_loop(py)?;
    let completions = queue(py)?;
    let call = start(&completions)?;
    wait(py, completions, call)
}

/// Blocks until the outcome of a call has come. If a signal handler raises, the call ends, and a grant that still comes is released.
pub(crate) fn wait(py: Python<'_>, completions: Completions, call: Option<Call>) -> PyResult<Outcome> {
    match outcome(py, &completions, call.as_ref()) {
        Ok(outcome) => {
            IDLE.set(Some(completions));
            match outcome {
                Outcome::Failed(error) => Err(failed(py, &error)?),
                outcome => Ok(outcome),
            }
        }
        Err(raised) => {
            if let Some(call) = call {
                call.abort();
            }
            // The queue is closed as it is dropped.
            Err(raised)
        }
    }
}

fn failed(py: Python<'_>, error: &dlock::Error) -> PyResult<PyErr> {
    hook(py, "let_daemon_end")?.call0()?;
    Ok(PyErr::from_value(exception(py, error)?))
}

/// Warns a caller that blocks a running event loop.
pub(crate) fn warn_in_loop(py: Python<'_>) -> PyResult<()> {
    if loop_runs(py)? { hook(py, "warn_in_loop")?.call0().map(drop) } else { Ok(()) }
}

fn outcome(py: Python<'_>, completions: &Completions, call: Option<&Call>) -> PyResult<Outcome> {
    let queue = completions.queue()?;
    loop {
        if let Some((_, outcome)) = queue.take().pop() {
            return Ok(outcome);
        }
        if let Some(patched) = patched_poll(py)? {
            call.inspect(|call| call.leave_to_engine());
            patched.call1((completions.fileno()?,))?;
            continue;
        }
        let (bell, socket) = (queue.bell(), call.and_then(Call::waits_for));
        let slept = py.detach(|| sleep(bell, socket.as_deref()));
        if slept.map_err(|error| std::io::Error::from_raw_os_error(error.raw_os_error()))? {
            call.inspect(|call| call.go_on());
        }
        py.check_signals()?;
    }
}

/// Sleeps until the bell rings, the answer comes on the socket, a signal comes, or it is time to check for one. True for an answer.
fn sleep(bell: BorrowedFd<'_>, socket: Option<&dlock::Socket>) -> rustix::io::Result<bool> {
    let known = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
    let mut watched = [known(bell), known(socket.map_or(bell, AsFd::as_fd))];
    let count = 1 + usize::from(socket.is_some());
    match poll(&mut watched[..count], Some(&LOOK_FOR_SIGNALS)) {
        Ok(_) => Ok(socket.is_some() && !watched[1].revents().is_empty()),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How to wait if gevent or eventlet have replaced `select`. Their loop must go on, or the holder's greenlet could never run.
fn patched_poll(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    let poll = py.import("select")?.getattr_opt("poll")?;
    if poll.is_some_and(|poll| poll.is_instance_of::<PyCFunction>()) {
        return Ok(None);
    }
    hook(py, "wait_readable").map(Some)
}
