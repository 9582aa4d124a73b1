//! Two ways from a tokio task to a JavaScript promise, on the same runtime: napi's, and a completion queue.

use std::sync::Arc;

use napi::bindgen_prelude::{Function, spawn};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;
use parking_lot::Mutex;

/// The operation: so short that only the way back is measured.
async fn operation() {
    tokio::task::yield_now().await;
}

#[napi]
pub async fn by_library() {
    operation().await;
}

type Wake = ThreadsafeFunction<(), (), (), napi::Status, false, true>;

#[derive(Default)]
struct Done {
    ids: Vec<u32>,
    /// The loop was woken and has not looked yet.
    armed: bool,
}

struct Queue {
    done: Mutex<Done>,
    wake: Wake,
}

impl Queue {
    fn push(&self, id: u32) {
        let mut done = self.done.lock();
        done.ids.push(id);
        if std::mem::replace(&mut done.armed, true) {
            return;
        }
        drop(done);
        self.wake.call((), ThreadsafeFunctionCallMode::NonBlocking);
    }

    /// Disarms *before* it takes: what is pushed from here on wakes the loop again.
    fn take(&self) -> Vec<u32> {
        let mut done = self.done.lock();
        done.armed = false;
        std::mem::take(&mut done.ids)
    }
}

/// Many completions, one wake-up.
#[napi]
pub struct Completions(Arc<Queue>);

/// A `Uint32Array` of the caller's. Named, because the macros take a plain `&mut` for one of our classes.
type Ids<'a> = &'a mut [u32];

#[napi]
impl Completions {
    #[napi(constructor)]
    pub fn new(wake: Function<'_, (), ()>) -> napi::Result<Self> {
        let wake = wake.build_threadsafe_function().weak::<true>().build()?;
        Ok(Self(Arc::new(Queue { done: Mutex::default(), wake })))
    }

    #[napi]
    pub fn start(&self, id: u32) {
        let queue = Arc::clone(&self.0);
        spawn(async move {
            operation().await;
            queue.push(id);
        });
    }

    /// Writes the ids of all that is done, and returns how many. `out` has a place for each operation in flight.
    #[napi]
    pub fn drain(&self, out: Ids<'_>) -> u32 {
        let ids = self.0.take();
        out[..ids.len()].copy_from_slice(&ids);
        ids.len() as u32
    }
}
