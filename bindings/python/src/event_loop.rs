//! What the native part asks of asyncio: the loop, the task, and what `dlock._loop` keeps for the loop.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyWeakrefReference;

use crate::call::Call;
use crate::completion::Completions;

/// Whether an event loop of asyncio runs in this thread.
pub(crate) fn loop_runs(py: Python<'_>) -> PyResult<bool> {
    static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    Ok(!RUNNING.import(py, "asyncio", "_get_running_loop")?.call0()?.is_none())
}

/// The `LoopState` of the running loop.
pub(crate) fn current(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static CURRENT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CURRENT.import(py, "dlock._loop", "current")?.call0()
}

/// The running task; None outside a task.
pub(crate) fn current_task(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static CURRENT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CURRENT.import(py, "asyncio", "current_task")?.call0()
}

/// The reference that a lease keeps of its task. It is weak: the traceback of a failed task keeps the lease, and a strong reference would
/// make a circle that only the garbage collector ends.
pub(crate) fn taker<'py>(task: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if task.is_none() { Ok(task.clone()) } else { Ok(PyWeakrefReference::new(task)?.into_any()) }
}

/// Makes the loop read the answer of a call, if it comes on a socket.
pub(crate) fn read_for(state: &Bound<'_, PyAny>, call: &Bound<'_, Call>) -> PyResult<()> {
    if call.get().waits_for().is_some() {
        state.call_method1(intern!(state.py(), "read_for"), (call,))?;
    }
    Ok(())
}

/// The loop's queue, and a number for the next call.
pub(crate) fn next_number<'py>(state: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, Completions>, u64)> {
    let py = state.py();
    let completions = state.getattr(intern!(py, "completions"))?.cast_into()?;
    Ok((completions, state.getattr(intern!(py, "next_number"))?.call0()?.extract()?))
}
