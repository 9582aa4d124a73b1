//! The resource that the keys protect. Where it cannot be reached, the hold goes without.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

const PATIENCE: Duration = Duration::from_millis(500);

pub(crate) struct Register {
    address: (String, u16),
    connection: Mutex<Option<BufReader<TcpStream>>>,
}

impl Register {
    pub(crate) fn new(address: (String, u16)) -> Self {
        Self { address, connection: Mutex::new(None) }
    }

    pub(crate) async fn read(&self, key: &str, token: u64) -> Option<Value> {
        let mut connection = self.connection.lock().await;
        let answer = tokio::time::timeout(PATIENCE, self.ask(&mut connection, key, token)).await;
        if let Ok(Ok(seen)) = answer {
            return Some(seen);
        }
        *connection = None;
        None
    }

    async fn ask(&self, connection: &mut Option<BufReader<TcpStream>>, key: &str, token: u64) -> io::Result<Value> {
        let open = match connection.take() {
            Some(open) => open,
            None => BufReader::new(TcpStream::connect((self.address.0.as_str(), self.address.1)).await?),
        };
        let open = connection.insert(open);
        open.write_all(format!("{}\n", json!({"op": "read", "k": key, "token": token})).as_bytes()).await?;
        let mut line = String::new();
        open.read_line(&mut line).await?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Without looking at the lease: what protects the data is the token. Without waiting either: what does not fit is not written.
    pub(crate) fn write(&self, key: &str, token: u64, seen: Option<Value>) {
        let (Some(seen), Ok(mut connection)) = (seen, self.connection.try_lock()) else { return };
        let request = format!("{}\n", json!({"op": "write", "k": key, "token": token, "seen": seen}));
        let sent = connection.as_ref().map(|open| open.get_ref().try_write(request.as_bytes()));
        if !matches!(sent, Some(Ok(written)) if written == request.len()) {
            *connection = None;
        }
    }
}
