//! Two ways from a tokio task to an asyncio future, on the same runtime: a library's, and a completion queue.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3_async_runtimes::tokio::{future_into_py, get_runtime};
use rustix::event::{EventfdFlags, eventfd};

/// The operation: so short that only the way back is measured.
async fn operation() {
    tokio::task::yield_now().await;
}

#[pyfunction]
fn by_library(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    future_into_py(py, async {
        operation().await;
        Ok(())
    })
}

#[derive(Default)]
struct Done {
    ids: Vec<u64>,
    /// The loop was woken and has not looked yet.
    armed: bool,
}

struct Queue {
    done: Mutex<Done>,
    wake: OwnedFd,
}

impl Queue {
    fn push(&self, id: u64) {
        let mut done = self.done.lock();
        done.ids.push(id);
        if std::mem::replace(&mut done.armed, true) {
            return;
        }
        drop(done);
        // It can fail only where the counter is full: then the loop is awake already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Reads the descriptor and disarms *before* it takes: what is pushed from here on wakes the loop again.
    fn take(&self) -> Vec<u64> {
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
        let mut done = self.done.lock();
        done.armed = false;
        std::mem::take(&mut done.ids)
    }
}

/// Many completions, one wake-up.
#[pyclass(frozen)]
struct Completions(Arc<Queue>);

#[pymethods]
impl Completions {
    #[new]
    fn new() -> PyResult<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(std::io::Error::from)?;
        Ok(Self(Arc::new(Queue { done: Mutex::default(), wake })))
    }

    fn fileno(&self) -> RawFd {
        self.0.wake.as_raw_fd()
    }

    fn start(&self, id: u64) {
        let queue = Arc::clone(&self.0);
        get_runtime().spawn(async move {
            operation().await;
            queue.push(id);
        });
    }

    fn drain(&self) -> Vec<u64> {
        self.0.take()
    }
}

#[pymodule]
fn bridge_python(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(by_library, module)?)?;
    module.add_class::<Completions>()
}
