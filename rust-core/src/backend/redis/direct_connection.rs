//! A connection on which one request at a time is answered, and which whoever waits for the answer reads: bytes in, values out.
//!
//! Nothing here waits. A read that finds no whole value keeps what has come, in the parser or in the TLS machine, for the next read.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use redis::{Cmd, Parser, RedisError, Value};
use tokio_rustls::rustls::ClientConnection;

use crate::backend::direct::{CallerConnection, SocketBytes, hang_up};
use crate::driver::Socket;

/// A socket, with TLS if there is any, and what was read so far.
pub(super) struct DirectConnection {
    socket: Arc<Socket>,
    tls: Option<Box<ClientConnection>>,
    parser: Parser,
}

impl DirectConnection {
    /// `fd` is connected and does not block.
    pub(super) fn new(fd: OwnedFd, tls: Option<ClientConnection>) -> Self {
        Self { socket: Socket::new(fd), tls: tls.map(Box::new), parser: Parser::new() }
    }

    /// Sends a command as a whole. A socket on which nothing is under way has room for one; if it has not, that is an error.
    pub(super) fn send(&mut self, command: &Cmd) -> io::Result<()> {
        let bytes = command.get_packed_command();
        match &mut self.tls {
            None => SocketBytes(&self.socket).write_all(&bytes),
            Some(tls) => {
                tls.writer().write_all(&bytes)?;
                flush(tls, &self.socket)
            }
        }
    }

    /// The next answer, if it has come as a whole.
    pub(super) fn receive(&mut self) -> Result<Option<Value>, RedisError> {
        let mut incoming = Incoming { socket: &self.socket, tls: self.tls.as_deref_mut(), is_empty: false };
        match self.parser.parse_value(&mut incoming) {
            Err(_) if incoming.is_empty => Ok(None),
            value => value.map(Some),
        }
    }
}

impl CallerConnection for DirectConnection {
    fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// An answer that nobody has asked for must not be taken for that to the next request. What only TLS is about is none.
    fn is_usable(&mut self) -> bool {
        matches!(self.receive(), Ok(None))
    }
}

impl Drop for DirectConnection {
    fn drop(&mut self) {
        hang_up(&self.socket);
    }
}

fn is_empty(read: &io::Result<usize>) -> bool {
    read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn flush(tls: &mut ClientConnection, socket: &Arc<Socket>) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(&mut SocketBytes(socket))?;
    }
    Ok(())
}

/// Reads what the server has sent, and remembers if that was all.
struct Incoming<'a> {
    socket: &'a Arc<Socket>,
    tls: Option<&'a mut ClientConnection>,
    is_empty: bool,
}

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.tls {
            None => SocketBytes(self.socket).read(buffer),
            Some(tls) => Decrypting { socket: self.socket, tls }.read(buffer),
        };
        self.is_empty = is_empty(&read);
        read
    }
}

/// The socket's bytes through TLS.
struct Decrypting<'a> {
    socket: &'a Arc<Socket>,
    tls: &'a mut ClientConnection,
}

impl Read for Decrypting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.tls.reader().read(buffer);
            if !is_empty(&read) {
                return read;
            }
            // This says that it would block if no whole record has come yet.
            self.tls.read_tls(&mut SocketBytes(self.socket))?;
            self.tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            // What has no room now is sent with the next command.
            if let Err(error) = flush(self.tls, self.socket)
                && error.kind() != io::ErrorKind::WouldBlock
            {
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection};

    use super::*;

    fn connection() -> (DirectConnection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (DirectConnection::new(ours.into(), None), theirs)
    }

    #[test]
    fn an_answer_that_comes_in_pieces_is_read_as_one() {
        let (mut connection, mut server) = connection();
        let answer = b"*2\r\n:17\r\n*4\r\n:5\r\n$3\r\na\r\n\r\n:-1\r\n+OK\r\n";
        for byte in &answer[..answer.len() - 1] {
            assert_eq!(connection.receive().unwrap(), None);
            server.write_all(&[*byte]).unwrap();
        }
        assert_eq!(connection.receive().unwrap(), None);
        server.write_all(b"\n:7\r\n").unwrap();
        let inner = vec![Value::Int(5), Value::BulkString(b"a\r\n".to_vec()), Value::Int(-1), Value::Okay];
        assert_eq!(connection.receive().unwrap(), Some(Value::Array(vec![Value::Int(17), Value::Array(inner)])));
        assert_eq!(connection.receive().unwrap(), Some(Value::Int(7)));
        assert_eq!(connection.receive().unwrap(), None);
    }

    /// A TLS connection after its handshake, and the server's side.
    fn secure() -> (DirectConnection, ServerConnection, UnixStream) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from("localhost").unwrap()).unwrap();
        let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let server = server.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut bytes = Vec::new();
        while client.is_handshaking() || server.is_handshaking() {
            bytes.clear();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut &*bytes).unwrap();
            server.process_new_packets().unwrap();
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut &*bytes).unwrap();
            client.process_new_packets().unwrap();
        }
        // What only TLS is about comes after the handshake.
        while server.wants_write() {
            server.write_tls(&mut theirs).unwrap();
        }
        ours.set_nonblocking(true).unwrap();
        (DirectConnection::new(ours.into(), Some(client)), server, theirs)
    }

    #[test]
    fn a_tls_record_that_is_cut_in_two_is_read_as_one() {
        let (mut connection, mut server, mut wire) = secure();
        assert!(connection.is_usable(), "tickets are no answer");
        for answer in [Value::Int(7), Value::BulkString(vec![b'x'; 3_000])] {
            connection.send(redis::cmd("PING").arg("x")).unwrap();
            match &answer {
                Value::Int(number) => server.writer().write_all(format!(":{number}\r\n").as_bytes()).unwrap(),
                _ => server.writer().write_all(format!("$3000\r\n{}\r\n", "x".repeat(3_000)).as_bytes()).unwrap(),
            }
            let mut record = Vec::new();
            server.write_tls(&mut record).unwrap();
            for half in [&record[..record.len() / 2], &record[record.len() / 2..]] {
                assert_eq!(connection.receive().unwrap(), None);
                wire.write_all(half).unwrap();
            }
            assert_eq!(connection.receive().unwrap(), Some(answer));
            assert!(connection.is_usable());
        }
        drop(wire);
        assert!(!connection.is_usable());
    }

    #[test]
    fn a_server_that_has_hung_up_is_noticed_before_and_after_a_request() {
        let (mut connection, server) = connection();
        assert!(connection.is_usable());
        drop(server);
        assert!(!connection.is_usable());
        assert!(connection.receive().is_err());
        assert!(connection.send(redis::cmd("PING").arg("x")).is_err());
    }

    #[test]
    fn whoever_watches_a_copy_hears_of_the_end() {
        let (connection, _server) = connection();
        let copy = UnixStream::from(rustix::io::dup(&**connection.socket()).unwrap());
        drop(connection);
        assert_eq!((&copy).read(&mut [0; 8]).unwrap(), 0);
    }
}
