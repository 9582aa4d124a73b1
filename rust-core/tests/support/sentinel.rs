//! Real sentinels, each a redis-server in sentinel mode.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::eventually;
use super::redis::{Cli, Server};
use super::starting::{free_port, next_number};

/// One sentinel, which ends when this is dropped.
pub struct Sentinel {
    pub port: u16,
    directory: PathBuf,
    child: Child,
}

impl Sentinel {
    /// A sentinel that watches a server called `name` and counts it as down after this time. Sentinels of one server find each other. `lines` are
    /// more lines of configuration, with `{port}` for the sentinel's own port.
    pub async fn start(name: &str, server: &Server, votes: usize, down_after: Duration, lines: &[&str]) -> Self {
        let directory = std::env::temp_dir().join(format!("dlock-sentinel-{}-{}", std::process::id(), next_number()));
        std::fs::create_dir_all(&directory).unwrap();
        let (port, file) = (free_port(), directory.join("sentinel.conf"));
        let down_after = down_after.as_millis();
        let configuration = format!(
            "bind 127.0.0.1\nport {port}\ndir {}\nsentinel monitor {name} 127.0.0.1 {} {votes}\n\
             sentinel down-after-milliseconds {name} {down_after}\nsentinel failover-timeout {name} 3000\n{}\n",
            directory.display(),
            server.port,
            lines.join("\n").replace("{port}", &port.to_string()),
        );
        std::fs::write(&file, configuration).unwrap();
        let child = Command::new("redis-server").arg(&file).arg("--sentinel").stdout(Stdio::null()).stdin(Stdio::null()).spawn();
        let sentinel = Self { port, directory, child: child.expect("redis-server must be on PATH") };
        let connect = || async move { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() };
        eventually("the sentinel answers", connect).await;
        sentinel
    }

    /// The address on which it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub async fn cli(&self) -> Cli {
        Cli::to(&format!("redis://127.0.0.1:{}", self.port)).await
    }

    /// Waits until it knows this many replicas and other sentinels of the service.
    pub async fn knows(&self, name: &str, replicas: usize, others: usize) {
        let cli = self.cli().await;
        let count = async |of: &str| cli.run::<Vec<redis::Value>>(&["SENTINEL", of, name]).await.len();
        eventually("the sentinel knows everybody", || async {
            count("REPLICAS").await == replicas && count("SENTINELS").await == others
        })
        .await;
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
