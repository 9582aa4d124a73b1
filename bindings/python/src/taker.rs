//! The taker of a lease, and the release of a lease that code can no longer reach once its taker has ended.
//!
//! A discarded lease stays held while its taker, a task or a thread, may still release it through its lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dlock::Discarded;
use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyTuple, PyWeakrefMethods, PyWeakrefReference};

use crate::hooks::{aside, hook};
use crate::process::Owned;

/// From this many discarded leases on, a thread drops those that are no longer held.
const REMEMBERED: usize = 8;

/// A thread as its leases know it. The number of a thread is not enough: another one may get it later.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct Taker(Arc<Owned<Thread>>);

#[derive(Default)]
struct Thread {
    ended: AtomicBool,
    discarded: Mutex<Vec<Discarded>>,
}

/// What a thread keeps in its local storage, which is dropped when it ends.
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
        release_all(&discarded);
    }
}

/// The running thread, or the greenlet under gevent and eventlet, which replace `get_ident`.
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

/// Releases a discarded lease, which its lock keeps held, when its taker ends. False if the taker has ended already.
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

/// A task calls this when it ends. A task that never ends drops it.
#[pyclass(frozen, module = "dlock._native")]
struct TaskEnd(Owned<Mutex<Option<Discarded>>>);

impl TaskEnd {
    fn come(&self) {
        let discarded = self.0.mine().and_then(|discarded| discarded.lock().take());
        release_all(discarded.as_slice());
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

/// Releases leases that only locks remember, and warns of it.
fn release_all(discarded: &[Discarded]) {
    let released: Vec<_> = discarded.iter().filter_map(Discarded::release).map(|(key, token)| (key.to_string(), token)).collect();
    if !released.is_empty() {
        Python::try_attach(|py| aside(py, || warn_dropped(py, released, None)));
    }
}

/// Warns of held leases that were dropped.
pub(crate) fn warn_dropped(py: Python<'_>, leases: Vec<(String, u64)>, source: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    hook(py, "warn_dropped")?.call1((leases, source)).map(drop)
}
