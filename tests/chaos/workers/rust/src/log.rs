//! The worker's log: a JSON object a line, written at once.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

pub(crate) struct Log(File);

impl Log {
    pub(crate) fn open(path: &str) -> io::Result<Self> {
        OpenOptions::new().create(true).append(true).open(path).map(Self)
    }

    pub(crate) fn write(&self, event: &str, mut fields: Value) {
        fields["t"] = now().into();
        fields["e"] = event.into();
        if (&self.0).write_all(format!("{fields}\n").as_bytes()).is_err() {
            // A history with gaps proves nothing.
            std::process::exit(3);
        }
    }
}

/// Milliseconds of `CLOCK_MONOTONIC`.
pub(crate) fn now() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    #[allow(clippy::cast_precision_loss)] // milliseconds with a fraction are precise enough for years
    let millis = now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6;
    millis
}
