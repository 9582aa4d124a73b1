//! Calls that the event loop drives: it reads their answers from a socket and passes them on.

use std::os::fd::{AsFd, IntoRawFd};
use std::sync::Arc;

use dlock::{Reader, Socket};
use napi::bindgen_prelude::Uint8Array;
use napi_derive::napi;

use crate::bridge::{Bridge, Tables};
use crate::numbers::number;

/// How far a call has got when a step on the event loop's thread ends. `completion.js` has the same list.
#[derive(Clone, Copy)]
pub(crate) enum Progress {
    /// It is the engine's, and its outcome comes through the queue.
    WithEngine = 0,
    /// It is over: `take` writes its outcome.
    Over = 1,
    /// Its answer comes on a socket.
    OnSocket = 2,
}

#[napi]
impl Bridge {
    /// The number of the socket on which the answer of a call comes; nothing if the call is over or the engine's.
    #[napi]
    pub fn socket(&self, call: i64) -> Option<f64> {
        let socket = driven(&self.tables.borrow(), call)?;
        i64::try_from(socket.number()).ok().map(number)
    }

    /// A copy of that socket's descriptor, for the event loop to read and to close. It passes on all that comes.
    #[napi]
    pub fn open_socket(&self, call: i64) -> Option<i32> {
        let mut tables = self.tables.borrow_mut();
        let socket = driven(&tables, call)?;
        let copy = socket.as_fd().try_clone_to_owned().ok()?;
        socket.let_loop_read();
        tables.sockets.insert(i64::try_from(socket.number()).ok()?, socket);
        Some(copy.into_raw_fd())
    }

    /// Passes on what the event loop has read; no bytes if it has closed the socket. The engine waits for them if it has taken the call over.
    #[napi]
    pub fn feed(&self, socket: i64, bytes: Uint8Array) {
        let mut tables = self.tables.borrow_mut();
        let known = if bytes.is_empty() { tables.sockets.remove(&socket) } else { tables.sockets.get(&socket).cloned() };
        drop(tables);
        if let Some(socket) = known {
            socket.feed(&bytes);
        }
    }

    /// Goes on with a call for which something was read. Returns how far it has got.
    #[napi]
    pub fn go_on(&self, call: i64) -> u32 {
        self.drive(call);
        self.progress(call)
    }

    /// This environment can read no sockets: the engine reads them, for this call and for all others.
    #[napi]
    pub fn cannot_read(&self, call: i64) {
        self.reader.set(Reader::Never);
        let left = std::mem::take(&mut self.tables.borrow_mut().sockets);
        for socket in left.values() {
            socket.let_engine_read();
        }
        let tables = self.tables.borrow();
        if let Some(call) = tables.acquires.get(&call).or_else(|| tables.releases.get(&call)) {
            call.leave_to_engine();
        }
    }

    pub(crate) fn progress(&self, call: i64) -> u32 {
        let progress = if self.completions.has(call) {
            Progress::Over
        } else if driven(&self.tables.borrow(), call).is_some() {
            Progress::OnSocket
        } else {
            Progress::WithEngine
        };
        progress as u32
    }

    fn drive(&self, call: i64) {
        let taken = {
            let mut tables = self.tables.borrow_mut();
            let acquire = tables.acquires.remove(&call).map(|acquire| (acquire, true));
            acquire.or_else(|| tables.releases.remove(&call).map(|release| (release, false)))
        };
        let Some((driven, is_acquire)) = taken else { return };
        self.completions.driving(call, || driven.drive());
        let mut tables = self.tables.borrow_mut();
        // An acquire without an entry was given up.
        let table = if is_acquire { &mut tables.acquires } else { &mut tables.releases };
        table.insert(call, driven);
    }
}

/// The socket on which the answer of a call comes.
fn driven(tables: &Tables, call: i64) -> Option<Arc<Socket>> {
    tables.acquires.get(&call).or_else(|| tables.releases.get(&call)).and_then(dlock::Call::socket)
}
