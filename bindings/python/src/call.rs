//! A call under way, which its caller may drive: it waits for a socket, and goes on with the call on its own thread.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use dlock::QueuedOutcome;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::process::Owned;

/// A call under way.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct Call {
    inner: dlock::Call,
    outcome: QueuedOutcome,
}

impl Drop for Call {
    /// Ends the call of a caller that left before the outcome. It has no effect on a call that has ended, and a release goes on.
    fn drop(&mut self) {
        self.inner.abort();
    }
}

impl Call {
    pub(crate) fn new(call: dlock::Call, outcome: QueuedOutcome) -> Self {
        Self { inner: call, outcome }
    }

    /// The socket for which the caller may wait.
    pub(crate) fn waits_for(&self) -> Option<Arc<dlock::Socket>> {
        self.inner.socket()
    }

    pub(crate) fn go_on(&self) {
        self.outcome.driving(|| self.inner.drive());
    }
}

#[pymethods]
impl Call {
    /// Ends the call. A grant that it may still get is released. A release goes on.
    pub(crate) fn abort(&self) {
        self.inner.abort();
    }

    /// Leaves the call to the engine.
    pub(crate) fn leave_to_engine(&self) {
        self.inner.leave_to_engine();
    }

    /// The number of the socket on which the answer comes; None if the call is over or the engine's.
    #[getter]
    fn socket(&self) -> Option<u64> {
        self.waits_for().map(|socket| socket.number())
    }

    /// A descriptor of that socket, for a loop to watch.
    fn descriptor(&self) -> PyResult<Option<Descriptor>> {
        self.waits_for().map(|socket| Descriptor::of(&socket)).transpose()
    }

    /// Goes on with the call. False once it is over or the engine's; an outcome is in the queue then.
    fn drive(&self) -> bool {
        self.go_on();
        self.inner.socket().is_some()
    }
}

/// A descriptor of a socket. It is a copy, so that a loop never watches one that was closed and reused.
#[pyclass(frozen, module = "dlock._native")]
pub(crate) struct Descriptor(Owned<OwnedFd>);

impl Descriptor {
    fn of(socket: &dlock::Socket) -> PyResult<Self> {
        let copy = socket.as_fd().try_clone_to_owned();
        Ok(Self(Owned::new(copy.map_err(|error| PyOSError::new_err((error.raw_os_error(), error.to_string())))?)))
    }
}

#[pymethods]
impl Descriptor {
    fn fileno(&self) -> PyResult<i32> {
        Ok(self.0.get()?.as_raw_fd())
    }
}
