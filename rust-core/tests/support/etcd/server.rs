//! A real server of etcd.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::support::eventually;
use crate::support::starting::{START_ATTEMPTS, START_TIMEOUT, free_port, next_number};

/// How long a member that is alive may take to tell its status.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// Which etcd: `make services` brings both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 3.6.5 or newer.
    Current,
    /// 3.4: an old leader may wrongly revoke leases.
    Old,
}

impl Version {
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Current => "etcd",
            Self::Old => "etcd-3.4",
        }
    }
}

/// Files that a server with TLS is started with.
#[derive(Clone, Debug)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// With it, clients need a certificate of this authority.
    pub client_ca: Option<PathBuf>,
}

/// What a server is started with; tests change what they need.
#[derive(Clone, Debug)]
pub struct Options {
    pub version: Version,
    pub tls: Option<Tls>,
    /// Further words of the command line, such as `--auth-token-ttl`.
    pub arguments: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { version: Version::Current, tls: None, arguments: Vec::new() }
    }
}

impl From<Version> for Options {
    fn from(version: Version) -> Self {
        Self { version, ..Self::default() }
    }
}

/// What a member says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    pub member: u64,
    /// The member that leads as far as this one knows; zero for none.
    pub leader: u64,
    pub term: u64,
    /// The last entry of the log that is committed: counts what a request costs.
    pub raft_index: u64,
    pub revision: u64,
}

/// One process of etcd with its own data, of this test alone; ended by Drop.
pub struct EtcdServer {
    pub port: u16,
    peer_port: u16,
    /// Answers in plain HTTP whatever clients must speak.
    status_port: u16,
    name: String,
    pub(super) cluster: String,
    directory: PathBuf,
    options: Options,
    child: Option<Child>,
    /// Of `root`, once a password is required.
    pub(super) password: Option<String>,
    token: Mutex<String>,
}

impl EtcdServer {
    /// A current etcd, alone in its cluster.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// One with other options, or just another [`Version`].
    pub async fn start_with(options: impl Into<Options>) -> Self {
        let options = options.into();
        for _ in 0..START_ATTEMPTS {
            let mut server = Self::new("alone", &options);
            server.cluster = server.as_peer();
            server.spawn();
            if server.becomes_healthy().await {
                return server;
            }
        }
        panic!("{} does not start", options.version.program());
    }

    pub(super) fn new(name: &str, options: &Options) -> Self {
        let directory = std::env::temp_dir().join(format!("dlock-etcd-{}-{}", std::process::id(), next_number()));
        std::fs::create_dir_all(&directory).unwrap();
        let port = free_port();
        Self {
            port,
            peer_port: free_port(),
            status_port: if options.tls.is_some() { free_port() } else { port },
            name: name.to_owned(),
            cluster: String::new(),
            directory,
            options: options.clone(),
            child: None,
            password: None,
            token: Mutex::default(),
        }
    }

    /// Starts the server again, on its ports and its data. Returns when it serves: a member alone needs the others for that.
    pub async fn restart(&mut self) {
        self.kill();
        self.spawn();
        assert!(self.becomes_healthy().await, "etcd does not start again: {}", self.log());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGSTOP; returns when every thread of it stands still.
    pub async fn pause(&self) {
        self.signal(Signal::STOP);
        let pid = self.pid();
        eventually("etcd stands still", || async move { stands_still(pid) }).await;
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// `127.0.0.1` and the port.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What a client of ours is opened with.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls.is_some() { "etcds" } else { "etcd" };
        format!("{scheme}://{}", self.endpoint())
    }

    /// What a client of etcd's own is opened with.
    pub fn client_url(&self) -> String {
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.endpoint())
    }

    /// What the server has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// `None` if it is dead, paused, or cut off from what it needs to answer.
    pub async fn status(&self) -> Option<Status> {
        let mut answer = self.post("maintenance/status", "{}").await?;
        if let (Some(password), None) = (&self.password, answer.get("header")) {
            // There is no token yet, or it has run out. A new one is an entry of the log itself.
            let login = json!({"name": "root", "password": password}).to_string();
            let login = self.post("auth/authenticate", &login).await?;
            login["token"].as_str()?.clone_into(&mut self.token.lock().unwrap());
            answer = self.post("maintenance/status", "{}").await?;
        }
        answer.get("header")?;
        Some(Status {
            member: number(&answer["header"]["member_id"]),
            leader: number(&answer["leader"]),
            term: number(&answer["raftTerm"]),
            raft_index: number(&answer["raftIndex"]),
            revision: number(&answer["header"]["revision"]),
        })
    }

    /// The index of the last raft entry.
    pub async fn raft_index(&self) -> u64 {
        self.status().await.expect("a status").raft_index
    }

    /// The revision of the last write.
    pub async fn revision(&self) -> u64 {
        self.status().await.expect("a status").revision
    }

    /// Calls etcd's JSON gateway, as in `call("kv/range", ..)`. Keys and values are in base64 there. What fails has a `code`.
    pub async fn call(&self, what: &str, body: &str) -> Value {
        self.post(what, body).await.unwrap_or_else(|| panic!("no answer to {what}"))
    }

    /// From now on clients need a user: there is `root` with this password.
    pub async fn require_password(&mut self, password: &str) {
        for (what, body) in [
            ("auth/user/add", json!({"name": "root", "password": password})),
            ("auth/role/add", json!({"name": "root"})),
            ("auth/user/grant", json!({"user": "root", "role": "root"})),
            ("auth/enable", json!({})),
        ] {
            let answer = self.call(what, &body.to_string()).await;
            assert!(answer.get("code").is_none(), "{what}: {answer}");
        }
        self.password = Some(password.to_owned());
        self.status().await.expect("a status");
    }

    pub(super) fn spawn(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.directory.join("log")).unwrap();
        let peer_url = format!("http://127.0.0.1:{}", self.peer_port);
        let mut listen = self.client_url();
        if self.status_port != self.port {
            write!(listen, ",http://127.0.0.1:{}", self.status_port).unwrap();
        }
        let child = Command::new(self.options.version.program())
            .args(["--name", &self.name, "--initial-cluster", &self.cluster, "--initial-cluster-state", "new"])
            .args(["--listen-client-urls", &listen, "--advertise-client-urls", &self.client_url()])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--logger", "zap", "--log-level", "error", "--data-dir"])
            .arg(self.directory.join("data"))
            .args(self.options.tls.iter().flat_map(tls_arguments))
            .args(&self.options.arguments)
            // What these tests kill is a process, not a machine.
            .env("ETCD_UNSAFE_NO_FSYNC", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|_| panic!("{} must be on PATH: make services", self.options.version.program()));
        self.child = Some(child);
    }

    /// False if the process ends instead: its port may be somebody else's.
    pub(super) async fn becomes_healthy(&mut self) -> bool {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline && self.runs() {
            if self.ask("GET /health", "").await.is_some_and(|answer| answer.contains("\"true\"")) {
                return self.runs();
            }
            sleep(Duration::from_millis(10)).await;
        }
        false
    }

    fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub(super) fn as_peer(&self) -> String {
        format!("{}=http://127.0.0.1:{}", self.name, self.peer_port)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid().cast_signed()).unwrap(), signal).unwrap();
    }

    async fn post(&self, what: &str, body: &str) -> Option<Value> {
        serde_json::from_str(&self.ask(&format!("POST /v3/{what}"), body).await?).ok()
    }

    /// The body of the answer. HTTP/1.0: it ends where the connection does.
    async fn ask(&self, what: &str, body: &str) -> Option<String> {
        let token = self.token.lock().unwrap().clone();
        // 3.4 takes an empty one for a wrong one.
        let authorization = if token.is_empty() { token } else { format!("Authorization: {token}\r\n") };
        let length = body.len();
        let request = format!("{what} HTTP/1.0\r\nHost: etcd\r\n{authorization}Content-Length: {length}\r\n\r\n{body}");
        let exchange = async {
            let mut connection = TcpStream::connect(("127.0.0.1", self.status_port)).await?;
            connection.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            connection.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = timeout(STATUS_TIMEOUT, exchange).await.ok()?.ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn tls_arguments(tls: &Tls) -> Vec<PathBuf> {
    let mut words = vec!["--cert-file".into(), tls.certificate.clone(), "--key-file".into(), tls.key.clone()];
    if let Some(ca) = &tls.client_ca {
        words.extend(["--client-cert-auth".into(), "--trusted-ca-file".into(), ca.clone()]);
    }
    words
}

/// The gateway writes 64-bit numbers as text and leaves zeros out.
fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn stands_still(pid: u32) -> bool {
    let state = |thread: &Path| {
        let stat = std::fs::read_to_string(thread.join("stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    };
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().all(|thread| state(&thread.path()).is_none_or(|state| state == 'T'))
}
