//! A real redis-server, and sessions that use it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dlock::backend::{Acquire, Acquired, Backend, Context, Grant, Handover, Hint, Outcome, Release, Waiter, Waiting, from_url};
use dlock::clock::{BootClock, Clock};
use dlock::error::BackendError;
use dlock::holder::Note;
use dlock::owner::{OwnerId, SessionId};
use redis::aio::MultiplexedConnection;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::certificates::{Authority, Identity};
use super::starting::{START_ATTEMPTS, START_TIMEOUT, free_port, next_number};

pub const TTL: Duration = Duration::from_secs(30);
/// Long enough for a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// A server for one test, which ends when this is dropped.
pub struct Server {
    pub port: u16,
    directory: PathBuf,
    program: &'static str,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// The programs of all servers that the tests use.
pub const PROGRAMS: [&str; 3] = ["redis-server", "redis-server-6.2", "valkey-server"];

impl Server {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with more arguments.
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::start_program(PROGRAMS[0], arguments).await
    }

    /// Starts one of [`PROGRAMS`].
    pub async fn start_program(program: &'static str, arguments: &[&str]) -> Self {
        Self::start_on(program, |port| [&["--port", port], arguments].concat().into_iter().map(str::to_owned).collect()).await
    }

    /// Starts a server that speaks only TLS, and may require a certificate of its clients.
    pub async fn start_secure(authority: &Authority, wants_certificates: bool) -> Self {
        let (Identity { certificate, key }, ca) = (authority.issue("server"), authority.certificate());
        let of_clients = if wants_certificates { "yes" } else { "no" };
        Self::start_on(PROGRAMS[0], |port| {
            let arguments = [
                ["--port", "0"],
                ["--tls-port", port],
                ["--tls-auth-clients", of_clients],
                ["--tls-cert-file", certificate.to_str().unwrap()],
                ["--tls-key-file", key.to_str().unwrap()],
                ["--tls-ca-cert-file", ca.to_str().unwrap()],
            ];
            arguments.as_flattened().iter().copied().map(str::to_owned).collect()
        })
        .await
    }

    /// Starts a server on a free port, which its arguments name.
    async fn start_on(program: &'static str, arguments: impl Fn(&str) -> Vec<String>) -> Self {
        for _ in 0..START_ATTEMPTS {
            let directory = std::env::temp_dir().join(format!("dlock-redis-{}-{}", std::process::id(), next_number()));
            std::fs::create_dir_all(&directory).unwrap();
            let port = free_port();
            let mut server = Self { port, directory, program, arguments: arguments(&port.to_string()), child: None };
            server.spawn();
            if server.serves().await {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    /// Starts the server, again on the same port.
    pub async fn restart(&mut self) {
        self.spawn();
        assert!(self.serves().await, "redis-server does not start again");
    }

    fn spawn(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        let child = Command::new(self.program)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--unixsocket", self.socket().to_str().unwrap(), "--daemonize", "no", "--dir"])
            .arg(&self.directory)
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{} must be on PATH: {error}", self.program));
        self.child = Some(child);
    }

    /// Waits until the server serves; false if its process ends instead. It is asked through its socket, which it opens after the port: another
    /// server may answer on the port.
    async fn serves(&mut self) -> bool {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline && self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none()) {
            if UnixStream::connect(self.socket()).await.is_ok() {
                return true;
            }
            sleep(Duration::from_millis(5)).await;
        }
        false
    }

    /// Kills the server with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("redis.sock")
    }

    /// A connection outside dlock, as `redis-cli` has it.
    pub async fn cli(&self) -> Cli {
        Cli::to(&self.url()).await
    }

    /// A connection through the socket, whatever the server speaks on its port.
    pub async fn local_cli(&self) -> Cli {
        Cli::to(&format!("redis+unix://{}", self.socket().display())).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Plain commands.
#[derive(Clone)]
pub struct Cli(MultiplexedConnection);

impl Cli {
    pub async fn to(url: &str) -> Self {
        Self(redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap())
    }

    pub async fn run<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut self.0.clone()).await.unwrap()
    }

    /// All keys, sorted.
    pub async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.run(&["KEYS", "*"]).await;
        keys.sort();
        keys
    }

    pub async fn left(&self, key: &str) -> Duration {
        Duration::from_millis(u64::try_from(self.run::<i64>(&["PTTL", key]).await).unwrap_or(0))
    }

    /// The server's time in µs.
    pub async fn time(&self) -> u64 {
        let (seconds, micros): (u64, u64) = self.run(&["TIME"]).await;
        seconds * 1_000_000 + micros
    }
}

/// The settings of a session.
pub struct Setup {
    pub url: String,
    pub namespace: &'static str,
    pub clock: Arc<dyn Clock>,
    pub op_timeout: Duration,
    pub connect_timeout: Duration,
}

impl Setup {
    pub fn new(url: impl Into<String>) -> Self {
        let clock = Arc::new(BootClock);
        Self { url: url.into(), namespace: "ns", clock, op_timeout: TIMEOUT, connect_timeout: TIMEOUT }
    }

    pub fn open(self) -> Session {
        let (sender, hints) = mpsc::unbounded_channel();
        let id = SessionId::random().unwrap();
        let context = Context {
            session: id,
            clock: self.clock,
            namespace: self.namespace.into(),
            connect_timeout: self.connect_timeout,
            op_timeout: self.op_timeout,
            on_hint: Arc::new(move |hint| {
                let _ = sender.send(hint);
            }),
        };
        let backend = from_url(&self.url, context).unwrap();
        Session { backend, hints, id, timeout: self.op_timeout }
    }
}

/// One client of the server, as a process is. Dropping it closes the connection, as the end of the process would.
pub struct Session {
    pub backend: Arc<dyn Backend>,
    pub hints: mpsc::UnboundedReceiver<Hint>,
    pub id: SessionId,
    pub timeout: Duration,
}

impl Session {
    pub fn new(server: &Server) -> Self {
        Setup::new(server.url()).open()
    }

    pub fn owner(&self, sequence: u64) -> OwnerId {
        OwnerId { session: self.id, sequence }
    }

    /// A request that queues; tests change what they need.
    pub fn request(&self, key: &str, sequence: u64) -> Acquire {
        Acquire {
            key: key.into(),
            owner: self.owner(sequence),
            ttl: TTL,
            fair: true,
            enqueue: true,
            renew: true,
            note: Note::of_this_process(std::time::SystemTime::now(), None).encode().into(),
            floor: 0,
            timeout: self.timeout,
        }
    }

    pub async fn ask(&self, key: &str, sequence: u64) -> Acquired {
        self.backend.acquire(self.request(key, sequence)).await.unwrap()
    }

    pub async fn granted(&self, key: &str, sequence: u64) -> Grant {
        grant(self.ask(key, sequence).await)
    }

    pub async fn waiting(&self, key: &str, sequence: u64) -> Waiting {
        waiting(self.ask(key, sequence).await)
    }

    pub async fn release(&self, key: &str, sequence: u64) -> Outcome {
        self.release_to(key, sequence, None).await.unwrap().outcome
    }

    pub async fn release_to(&self, key: &str, sequence: u64, next: Option<Acquire>) -> Result<Handover, BackendError> {
        let release = Release { key: key.into(), owner: self.owner(sequence), next, timeout: self.timeout };
        self.backend.release(release).await
    }

    pub async fn leave(&self, key: &str, sequence: u64) {
        self.backend.leave(key.into(), self.owner(sequence), self.timeout).await.unwrap();
    }

    /// Sends the waiter's heartbeat; returns when it should look again.
    pub async fn heartbeat(&self, key: &str, sequence: u64) -> Duration {
        let waiter = Waiter { key: key.into(), owner: self.owner(sequence) };
        self.backend.keep_waiting(vec![waiter], self.timeout).await.unwrap()[0]
    }

    pub async fn hint(&mut self) -> Hint {
        timeout(TIMEOUT, self.hints.recv()).await.expect("a hint").unwrap()
    }

    /// Waits as the engine does: by hints, by the times that answers name, and with heartbeats.
    pub async fn wait(&mut self, key: &str, sequence: u64) -> Grant {
        let heartbeat = self.backend.capabilities().heartbeat.unwrap();
        let mut next_heartbeat = Instant::now() + heartbeat;
        loop {
            let mut look = match self.ask(key, sequence).await {
                Acquired::Granted(grant) => return grant,
                Acquired::Waiting(waiting) => Instant::now() + waiting.look_again,
            };
            loop {
                tokio::select! {
                    _ = self.hints.recv() => break,
                    () = sleep_until(look) => break,
                    () = sleep_until(next_heartbeat) => {
                        look = Instant::now() + self.heartbeat(key, sequence).await;
                        next_heartbeat = Instant::now() + heartbeat;
                    }
                }
            }
        }
    }
}

#[track_caller]
pub fn grant(acquired: Acquired) -> Grant {
    match acquired {
        Acquired::Granted(grant) => grant,
        Acquired::Waiting(waiting) => panic!("not granted: {waiting:?}"),
    }
}

#[track_caller]
pub fn waiting(acquired: Acquired) -> Waiting {
    match acquired {
        Acquired::Waiting(waiting) => waiting,
        Acquired::Granted(grant) => panic!("granted: {grant:?}"),
    }
}
