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
        self.ask(&json!({"op": "read", "k": key, "token": token})).await
    }

    /// Without looking at the lease: what protects the data is the token.
    pub(crate) async fn write(&self, key: &str, token: u64, seen: Option<Value>) {
        if let Some(seen) = seen {
            self.ask(&json!({"op": "write", "k": key, "token": token, "seen": seen})).await;
        }
    }

    async fn ask(&self, request: &Value) -> Option<Value> {
        let mut connection = self.connection.lock().await;
        let answer = tokio::time::timeout(PATIENCE, self.exchange(&mut connection, request)).await;
        if let Ok(Ok(seen)) = answer {
            return Some(seen);
        }
        *connection = None;
        None
    }

    async fn exchange(&self, connection: &mut Option<BufReader<TcpStream>>, request: &Value) -> io::Result<Value> {
        let open = match connection.take() {
            Some(open) => open,
            None => BufReader::new(TcpStream::connect((self.address.0.as_str(), self.address.1)).await?),
        };
        let open = connection.insert(open);
        open.write_all(format!("{request}\n").as_bytes()).await?;
        let mut line = String::new();
        open.read_line(&mut line).await?;
        Ok(serde_json::from_str(&line)?)
    }
}
