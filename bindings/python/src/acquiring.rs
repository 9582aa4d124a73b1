//! An attempt to acquire a lock, as an object that a task of asyncio awaits.
//!
//! Only native code runs from the grant until the caller has the lease. `sync_lock` says why.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::PyTraverseError;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};

use crate::call::Call;
use crate::caller::Caller;
use crate::error::raise;
use crate::event_loop::{current, current_task, next_number, read_for, taker};
use crate::exit::State;
use crate::grant::Grant;
use crate::handles::{Prepared, Unbound, entered, prepare, remember, take_out, warned};
use crate::hooks::{aside, hook};
use crate::lease::{Got, Lease};
use crate::lock::{Lock, Wait};

/// An attempt to acquire a lock. The task that made it awaits it once. If the wait ends early, a grant that still comes is released.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct Acquiring {
    lock: Py<PyAny>,
    /// None takes the lock's own.
    wait: Option<Py<PyAny>>,
    body: Body,
    /// Only used under the GIL, so nothing waits for it.
    stage: Mutex<Stage>,
}

/// What the caller does with the lease.
pub(crate) enum Body {
    /// The caller gets it.
    None,
    /// A body begins. Its `__aexit__` is here if it is known.
    Under(Option<Arc<State>>),
}

enum Stage {
    Fresh,
    Waiting(Waiting),
    Over,
}

/// An attempt that is under way.
struct Waiting {
    call: Py<Call>,
    future: Py<PyAny>,
    number: u64,
    state: Py<PyAny>,
    task: Py<PyAny>,
    attempt: Unbound,
    caller: Py<Caller>,
}

impl Waiting {
    /// Ends the attempt of a caller that no longer waits. A grant that comes, or has come, is released.
    fn give_up(&self, py: Python<'_>) -> PyResult<()> {
        self.call.get().abort();
        let pending = self.state.bind(py).getattr(intern!(py, "pending"))?;
        if pending.cast::<PyDict>()?.contains(self.number)? {
            return pending.cast::<PyDict>()?.del_item(self.number);
        }
        // Tracebacks may keep the future, so its grant must not wait for them.
        let future = self.future.bind(py);
        if future.call_method0(intern!(py, "done"))?.is_truthy()?
            && !future.call_method0(intern!(py, "cancelled"))?.is_truthy()?
            && future.call_method0(intern!(py, "exception"))?.is_none()
            && let Ok(grant) = future.call_method0(intern!(py, "result"))?.cast::<Grant>()
        {
            grant.get().release()?;
        }
        Ok(())
    }
}

impl Acquiring {
    pub(crate) fn new(lock: &Bound<'_, PyAny>, wait: &Wait<'_>, body: Body) -> Self {
        let wait = match wait {
            Wait::Own => None,
            Wait::Given(wait) => Some(wait.clone().unbind()),
        };
        Self { lock: lock.clone().unbind(), wait, body, stage: Mutex::new(Stage::Fresh) }
    }

    fn wait<'py>(&self, py: Python<'py>) -> Wait<'py> {
        self.wait.as_ref().map_or(Wait::Own, |wait| Wait::Given(wait.bind(py).clone()))
    }

    fn next_stage(&self) -> Stage {
        std::mem::replace(&mut *self.stage.lock(), Stage::Over)
    }

    /// Asks for the key and returns the future to await, or raises the end of the iteration if this task holds the lock already, or has got it
    /// at once.
    fn start<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let lock = self.lock.bind(py);
        let state = current(py)?;
        let task = current_task(py)?;
        let attempt = match prepare(lock, &self.wait(py), || taker(&task))? {
            Prepared::Again(own) => return Err(self.own(own, &state, &task)?),
            Prepared::Ask(attempt) => attempt.unbind(),
        };
        let caller: Bound<'_, Caller> = hook(py, "caller_of_task")?.call1((&task,))?.cast_into()?;
        let native: Bound<'_, Lock> = lock.getattr(intern!(py, "_native"))?.cast_into()?;
        let (completions, number) = next_number(&state)?;
        let watch = !matches!(self.body, Body::None) && lock.getattr(intern!(py, "_on_lost"))?.eq("cancel")?;
        let completions = completions.get();
        // From here on, an exception drops the call, which ends it.
        let call = native.get().acquire(completions, number, watch, caller.get(), &self.wait(py))?;
        let call = Bound::new(py, call)?;
        if let Some(outcome) = completions.queue()?.take_one(number) {
            if completions.goes_on(task.as_ptr().addr()) {
                let grant = outcome.into_value(py).map_err(|error| warned(lock, &caller, error))?;
                return Err(self.deliver(grant, &attempt, number, &state, &task)?);
            }
            completions.queue()?.push(number, outcome);
        }
        let future = state.call_method1(intern!(py, "expect"), (number,))?;
        let awaited = future.setattr(intern!(py, "_asyncio_future_blocking"), true).and_then(|()| read_for(&state, &call));
        awaited.inspect_err(|_| {
            let _ = state.getattr(intern!(py, "pending")).and_then(|pending| pending.cast::<PyDict>()?.del_item(number));
        })?;
        let (state, task) = (state.unbind(), task.unbind());
        *self.stage.lock() = Stage::Waiting(Waiting {
            call: call.unbind(),
            future: future.clone().unbind(),
            number,
            state,
            task,
            attempt,
            caller: caller.unbind(),
        });
        Ok(future)
    }

    /// The end of the iteration, with the lease of a grant that has come, or the error that came instead.
    fn finish(&self, py: Python<'_>, waiting: &Waiting) -> PyResult<PyErr> {
        let grant = waiting.future.bind(py).call_method0(intern!(py, "result")).inspect_err(|_| {
            let _ = waiting.give_up(py);
        })?;
        self.deliver(grant, &waiting.attempt, waiting.number, waiting.state.bind(py), waiting.task.bind(py))
    }

    /// Makes the lease of a grant.
    fn deliver<'py>(
        &self,
        grant: Bound<'py, PyAny>,
        attempt: &Unbound,
        number: u64,
        state: &Bound<'py, PyAny>,
        task: &Bound<'py, PyAny>,
    ) -> PyResult<PyErr> {
        let py = grant.py();
        let lease = class(py)?.call1((grant,))?.cast_into::<Lease>()?;
        let got = Got::new(lease);
        let lease = got.lease()?;
        lease.setattr(intern!(py, "_number"), number)?;
        lease.setattr(intern!(py, "_state"), py.None())?;
        lease.setattr(intern!(py, "_body"), py.None())?;
        lease.setattr(intern!(py, "_cancelled"), false)?;
        if let Some(lost) = attempt.bind(py).deliver(lease, taker(task)?)? {
            return Err(raise(lost));
        }
        if let Some(every) = lease.get().heartbeat_every() {
            state.call_method1(intern!(py, "send_heartbeats"), (lease, every))?;
        }
        if !matches!(self.body, Body::None) {
            lease.call_method1(intern!(py, "_enter"), (state, task, true))?;
        }
        self.hand_over(got)
    }

    /// Goes on with a lease that this task has entered again.
    fn own(&self, own: Bound<'_, Lease>, state: &Bound<'_, PyAny>, task: &Bound<'_, PyAny>) -> PyResult<PyErr> {
        let (py, lock) = (own.py(), self.lock.bind(own.py()));
        let got = Got::new(own);
        let lease = got.lease()?;
        if !matches!(self.body, Body::None) && !entered(lock)?.iter().any(|other| other.is(lease)) {
            // The task had acquired it without a body.
            lease.call_method1(intern!(py, "_enter"), (state, task, false))?;
        }
        self.hand_over(got)
    }

    /// The end of the iteration, with the lease as its value.
    fn hand_over(&self, got: Got<'_>) -> PyResult<PyErr> {
        let lease = got.lease()?;
        let (py, lock) = (lease.py(), self.lock.bind(lease.py()));
        match &self.body {
            Body::None => remember(lock, lease)?,
            Body::Under(exit) => {
                let entered = entered(lock)?;
                entered.append(lease)?;
                if let Some(exit) = exit {
                    exit.enters(lock, lease)?;
                }
                // From Python 3.14 on, signal handlers could otherwise run between here and the body, where nothing calls `__aexit__`.
                if let Err(raised) = py.check_signals() {
                    if let Some(exit) = exit {
                        exit.spend();
                    }
                    take_out(&entered, |other| other.is(lease))?;
                    return Err(raised);
                }
            }
        }
        let stop = py.get_type::<PyStopIteration>().call1((lease,))?;
        got.keep()?;
        Ok(PyErr::from_value(stop))
    }
}

#[pymethods]
impl Acquiring {
    /// For `lock.acquire`, without a body.
    #[new]
    #[allow(clippy::needless_pass_by_value)] // extracted
    fn of(lock: &Bound<'_, PyAny>, wait: Wait<'_>) -> Self {
        Self::new(lock, &wait, Body::None)
    }

    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.next_stage() {
            Stage::Fresh => self.start(py),
            Stage::Waiting(waiting) => Err(self.finish(py, &waiting)?),
            Stage::Over => Err(PyRuntimeError::new_err("the attempt was awaited before")),
        }
    }

    fn send<'py>(&self, py: Python<'py>, _value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.__next__(py)
    }

    #[pyo3(signature = (kind, value = None, _trace = None))]
    fn throw<'py>(
        &self,
        kind: Bound<'py, PyAny>,
        value: Option<Bound<'py, PyAny>>,
        _trace: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = kind.py();
        let raised = PyErr::from_value(value.filter(|value| !value.is_none()).unwrap_or(kind));
        // The loop also throws the exception with which the future failed.
        let Stage::Waiting(waiting) = self.next_stage() else { return Err(raised) };
        waiting.give_up(py)?;
        Err(warned(self.lock.bind(py), waiting.caller.bind(py), raised))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.lock)?;
        match self.stage.try_lock().as_deref() {
            Some(Stage::Waiting(waiting)) => {
                visit.call(&waiting.task)?;
                visit.call(&waiting.future)?;
                visit.call(&waiting.state)
            }
            _ => Ok(()),
        }
    }
}

impl Acquiring {
    fn end(&self, py: Python<'_>) -> PyResult<()> {
        match self.next_stage() {
            Stage::Waiting(waiting) => waiting.give_up(py),
            _ => Ok(()),
        }
    }
}

impl Drop for Acquiring {
    fn drop(&mut self) {
        if let Stage::Waiting(waiting) = self.next_stage() {
            Python::try_attach(|py| aside(py, || waiting.give_up(py)));
        }
    }
}

fn class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "dlock._lease", "Lease").cloned()
}
