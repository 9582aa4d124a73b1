//! Who took a lease, and that a lease nobody can reach is given back when its taker has ended.
//!
//! A discarded lease stays held through its lock for as long as its taker, a task or a thread, may still release that lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dlock::Discarded;
use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyTuple, PyWeakrefMethods, PyWeakrefReference};

use crate::hooks::{aside, hook};
use crate::process::Owned;

/// So many discarded leases of a thread are remembered before those that were given back are looked for.
const REMEMBERED: usize = 8;

/// A thread, as its leases know it: its number may be that of another one that has ended.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct Taker(Arc<Owned<Thread>>);

#[derive(Default)]
struct Thread {
    ended: AtomicBool,
    discarded: Mutex<Vec<Discarded>>,
}

/// What a thread keeps of itself: dropped when it ends.
#[pyclass(frozen, module = "dlock._native")]
struct ThreadEnd {
    taker: Py<Taker>,
    thread: Arc<Owned<Thread>>,
}

impl Drop for ThreadEnd {
    fn drop(&mut self) {
        let Some(thread) = self.thread.mine() else { return };
        thread.ended.store(true, Ordering::Relaxed);
        let discarded = std::mem::take(&mut *thread.discarded.lock());
        given_back(&discarded);
    }
}

/// The thread that is running. Under gevent and eventlet, which replace `get_ident`, the greenlet.
#[pyfunction]
pub(crate) fn taker(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let local = hook(py, "of_thread")?;
    let known = local.getattr_opt(intern!(py, "end"))?;
    let known = known.and_then(|end| end.cast_into::<ThreadEnd>().ok()).filter(|end| end.get().thread.mine().is_some());
    let taker = if let Some(end) = known {
        end.get().taker.bind(py).clone().into_any()
    } else {
        let thread = Arc::new(Owned::new(Thread::default()));
        let taker = Bound::new(py, Taker(thread.clone()))?;
        local.setattr(intern!(py, "end"), Bound::new(py, ThreadEnd { taker: taker.clone().unbind(), thread })?)?;
        taker.into_any()
    };
    let ident = py.import(intern!(py, "threading"))?.getattr(intern!(py, "get_ident"))?;
    if ident.is_instance_of::<PyCFunction>() {
        return Ok(taker);
    }
    Ok((ident.call0()?, taker).into_pyobject(py)?.into_any())
}

/// A lease was discarded that its lock keeps held: it is given back when its taker has ended. False if it has already.
pub(crate) fn discard(taker: &Bound<'_, PyAny>, lease: &dlock::Lease) -> PyResult<bool> {
    let py = taker.py();
    let thread = match taker.cast::<PyTuple>() {
        Ok(greenlet) => greenlet.get_item(1)?,
        Err(_) => taker.clone(),
    };
    if let Ok(thread) = thread.cast::<Taker>() {
        let Some(thread) = thread.get().0.mine() else { return Ok(true) };
        if thread.ended.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let mut discarded = thread.discarded.lock();
        if discarded.len() >= REMEMBERED && discarded.len().is_power_of_two() {
            discarded.retain(Discarded::is_held);
        }
        discarded.push(lease.discarded());
    } else if let Ok(task) = taker.cast::<PyWeakrefReference>() {
        let Some(task) = task.upgrade() else { return Ok(false) };
        if task.call_method0(intern!(py, "done"))?.is_truthy()? {
            return Ok(false);
        }
        let end = Bound::new(py, TaskEnd(Owned::new(Mutex::new(Some(lease.discarded())))))?;
        task.call_method1(intern!(py, "add_done_callback"), (end,))?;
    }
    Ok(true)
}

/// Called when a task has ended; a task that never ends drops it.
#[pyclass(frozen, module = "dlock._native")]
struct TaskEnd(Owned<Mutex<Option<Discarded>>>);

impl TaskEnd {
    fn come(&self) {
        let discarded = self.0.mine().and_then(|discarded| discarded.lock().take());
        given_back(discarded.as_slice());
    }
}

#[pymethods]
impl TaskEnd {
    fn __call__(&self, _task: &Bound<'_, PyAny>) {
        self.come();
    }
}

impl Drop for TaskEnd {
    fn drop(&mut self) {
        self.come();
    }
}

/// Gives back what only locks remember, and warns of it.
fn given_back(discarded: &[Discarded]) {
    let told: Vec<_> = discarded.iter().filter_map(Discarded::give_back).map(|(key, token)| (key.to_string(), token)).collect();
    if !told.is_empty() {
        Python::try_attach(|py| aside(py, || warn_dropped(py, told, None)));
    }
}

/// Says that leases were dropped while held.
pub(crate) fn warn_dropped(py: Python<'_>, leases: Vec<(String, u64)>, source: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    hook(py, "warn_dropped")?.call1((leases, source)).map(drop)
}
