//! Finds the lease of a taker among those that `dlock._handles.LockHandle` remembers, without a step of Python.

use pyo3::exceptions::PyTimeoutError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyWeakrefMethods, PyWeakrefReference};

use crate::caller::Caller;
use crate::hooks::hook;
use crate::lease::Lease;
use crate::lock::{Lock, Wait};
use crate::taker::warn_dropped;

/// From this many remembered leases on, a lock drops those that have ended.
const REMEMBERED: usize = 8;

/// The part of a lock that both faces share.
#[pyclass(frozen, subclass, module = "dlock._native")]
pub(crate) struct Handle;

#[pymethods]
impl Handle {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyAny>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self
    }

    /// What `__del__` does. It is native: an exception of a signal handler in Python code would reach nobody.
    fn _dropped(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, lock) = (slf.py(), slf.as_any());
        // It is missing if the options were refused.
        if let Some(entered) = lock.getattr_opt(intern!(py, "_entered"))? {
            entered.cast::<PyList>()?.set_slice(0, usize::MAX, PyList::empty(py).as_any())?;
        }
        let Some(native) = lock.getattr_opt(intern!(py, "_native"))? else { return Ok(()) };
        let dropped = native.cast::<Lock>()?.get().dropped_with_it();
        if dropped.is_empty() { Ok(()) } else { warn_dropped(py, dropped, Some(lock)) }
    }
}

fn taken<'py>(lock: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    Ok(lock.getattr(intern!(lock.py(), "_taken"))?.cast_into()?)
}

/// The leases of a list of weak references that still exist.
fn known<'py>(list: &Bound<'py, PyList>) -> PyResult<Vec<Bound<'py, Lease>>> {
    let mut leases = Vec::with_capacity(list.len());
    for reference in list {
        if let Some(lease) = reference.cast::<PyWeakrefReference>()?.upgrade() {
            leases.push(lease.cast_into()?);
        }
    }
    Ok(leases)
}

fn bodies<'py>(lock: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, Lease>>> {
    entered(lock)?.iter().map(|lease| Ok(lease.cast_into()?)).collect()
}

fn is_of(lease: &Bound<'_, Lease>, taker: &Bound<'_, PyAny>) -> PyResult<bool> {
    let own = lease.getattr(intern!(lease.py(), "_taker"))?;
    Ok(own.is(taker) || own.eq(taker)?)
}

/// Remembers a lease that was acquired without a body.
pub(crate) fn remember(lock: &Bound<'_, PyAny>, lease: &Bound<'_, Lease>) -> PyResult<()> {
    let list = taken(lock)?;
    let reentrant = lock.getattr(intern!(lock.py(), "_reentrant"))?.is_truthy()?;
    if reentrant && known(&list)?.iter().any(|known| known.is(lease)) {
        return Ok(());
    }
    if list.len() >= REMEMBERED {
        for place in (0..list.len()).rev() {
            let lease = list.get_item(place)?.cast::<PyWeakrefReference>()?.upgrade();
            if lease.is_none_or(|lease| lease.cast::<Lease>().is_ok_and(|lease| lease.get().is_released())) {
                list.del_item(place)?;
            }
        }
    }
    list.append(PyWeakrefReference::new(lease.as_any())?)
}

/// The lease that this taker acquired last, else the only outstanding one. Lost leases count.
pub(crate) fn to_release<'py>(lock: &Bound<'py, PyAny>, taker: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, Lease>>> {
    let mut outstanding = known(&taken(lock)?)?;
    outstanding.extend(bodies(lock)?);
    outstanding.retain(|lease| !lease.get().is_released());
    for lease in outstanding.iter().rev() {
        if is_of(lease, taker)? {
            return Ok(Some(lease.clone()));
        }
    }
    let last = outstanding.pop();
    Ok(last.filter(|last| outstanding.iter().all(|lease| lease.is(last))))
}

/// Enters the lease that this taker holds through this lock again.
fn again<'py>(lock: &Bound<'py, PyAny>, taker: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, Lease>>> {
    for lease in bodies(lock)?.into_iter().chain(known(&taken(lock)?)?) {
        if is_of(&lease, taker)? && lease.get().again() {
            return Ok(Some(lease));
        }
    }
    Ok(None)
}

/// Takes out the lease whose body this taker began last, else the only one that has a body.
pub(crate) fn to_end<'py>(lock: &Bound<'py, PyAny>, taker: &Bound<'py, PyAny>, operation: &str) -> PyResult<Bound<'py, Lease>> {
    let list = entered(lock)?;
    let own = |lease: &Bound<'py, PyAny>| lease.cast::<Lease>().is_ok_and(|lease| is_of(lease, taker).unwrap_or(false));
    let lease = match take_out(&list, own)? {
        None if list.len() == 1 => take_out(&list, |_| true)?,
        found => found,
    };
    if let Some(lease) = lease {
        return Ok(lease.cast_into()?);
    }
    let (key, taker) = (lock.getattr("key")?, lock.getattr("_taker_name")?);
    Err(PyErr::from_value(hook(lock.py(), "ambiguous")?.call1((key, operation, list.len(), taker))?))
}

/// The leases of this lock whose bodies have begun, the latest last.
pub(crate) fn entered<'py>(lock: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    Ok(lock.getattr(intern!(lock.py(), "_entered"))?.cast_into()?)
}

/// Takes the last item that fits out of the list.
pub(crate) fn take_out<'py>(
    list: &Bound<'py, PyList>,
    fits: impl Fn(&Bound<'py, PyAny>) -> bool,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    for place in (0..list.len()).rev() {
        let item = list.get_item(place)?;
        if fits(&item) {
            list.del_item(place)?;
            return Ok(Some(item));
        }
    }
    Ok(None)
}

/// What both faces need of a lock before they ask for its key.
pub(crate) struct Attempt<'py> {
    lock: Bound<'py, PyAny>,
    key: Bound<'py, PyAny>,
    /// What the client knows as the latest lease of each key.
    leases: Bound<'py, PyDict>,
}

/// What an acquire begins with.
pub(crate) enum Prepared<'py> {
    /// The taker holds the lock already and has entered its lease again.
    Again(Bound<'py, Lease>),
    /// The engine has to be asked.
    Ask(Attempt<'py>),
}

/// Begins an acquire. It enters a reentrant lock again if the taker holds it, and warns a taker that is about to wait for itself.
/// `taker` is called only if the client has a lease of the key; it returns None for a caller that is no taker.
pub(crate) fn prepare<'py>(
    lock: &Bound<'py, PyAny>,
    wait: &Wait<'py>,
    taker: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Prepared<'py>> {
    let py = lock.py();
    let leases: Bound<'_, PyDict> = lock.getattr(intern!(py, "_client"))?.getattr(intern!(py, "_leases"))?.cast_into()?;
    let key = lock.getattr(intern!(py, "key"))?;
    if leases.contains(&key)? {
        let taker = taker()?;
        if !taker.is_none()
            && lock.getattr(intern!(py, "_reentrant"))?.is_truthy()?
            && let Some(own) = again(lock, &taker)?
        {
            return Ok(Prepared::Again(own));
        }
        let native: Bound<'_, Lock> = lock.getattr(intern!(py, "_native"))?.cast_into()?;
        if native.get().waits(wait)? {
            lock.call_method1(intern!(py, "_warn_of_own_lease"), (taker,))?;
        }
    }
    Ok(Prepared::Ask(Attempt { lock: lock.clone(), key, leases }))
}

impl Attempt<'_> {
    /// Completes the lease of a grant for its taker and makes it known to its client. Returns the error if the lease was lost before it got
    /// here: the process was paused, or the caller blocked with renewal off.
    pub(crate) fn deliver(&self, lease: &Bound<'_, Lease>, taker: Bound<'_, PyAny>) -> PyResult<Option<dlock::Error>> {
        let py = lease.py();
        lease.setattr(intern!(py, "_key"), &self.key)?;
        lease.setattr(intern!(py, "_leases"), &self.leases)?;
        lease.setattr(intern!(py, "_on_lost"), self.lock.getattr(intern!(py, "_on_lost"))?)?;
        lease.setattr(intern!(py, "_taker"), taker)?;
        let lost = Lease::claim(lease)?;
        if lost.is_none() {
            self.leases.set_item(&self.key, PyWeakrefReference::new(lease.as_any())?)?;
        }
        Ok(lost)
    }

    pub(crate) fn unbind(self) -> Unbound {
        Unbound { lock: self.lock.unbind(), key: self.key.unbind(), leases: self.leases.unbind() }
    }
}

/// An [`Attempt`] that waits.
pub(crate) struct Unbound {
    lock: Py<PyAny>,
    key: Py<PyAny>,
    leases: Py<PyDict>,
}

impl Unbound {
    pub(crate) fn bind<'py>(&self, py: Python<'py>) -> Attempt<'py> {
        Attempt { lock: self.lock.bind(py).clone(), key: self.key.bind(py).clone(), leases: self.leases.bind(py).clone() }
    }
}

/// The error of a failed acquire. After a timeout it warns the caller if the key is held by the task or thread that started it.
pub(crate) fn warned(lock: &Bound<'_, PyAny>, caller: &Bound<'_, Caller>, error: PyErr) -> PyErr {
    let py = lock.py();
    if !error.is_instance_of::<PyTimeoutError>(py) {
        return error;
    }
    lock.call_method1(intern!(py, "_warn_of_starter"), (caller,)).err().unwrap_or(error)
}
