//! The bytes of a socket on which callers wait for their answers, read and written without waiting.

use std::io::{self, Read, Write};

use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::driver::Socket;

/// What comes on a socket, by itself or passed on by a loop that reads it, and what is sent.
pub(in crate::backend) struct SocketBytes<'a>(pub(in crate::backend) &'a Socket);

impl Read for SocketBytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(read) = self.0.read_fed(buffer) {
            return read;
        }
        Ok(rustix::net::recv(self.0, buffer, RecvFlags::DONTWAIT)?.0)
    }
}

impl Write for SocketBytes<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A closed connection is an error here, not a signal.
        Ok(rustix::net::send(self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends a connection. Loops may watch copies of its descriptor: this wakes them.
pub(in crate::backend) fn hang_up(socket: &Socket) {
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
}
