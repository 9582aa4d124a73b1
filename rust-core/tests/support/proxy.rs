//! A TCP proxy that can hold back bytes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Which bytes pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    #[default]
    Open,
    /// Bytes are read and kept until the gate opens again.
    Stalled,
    /// Bytes are read and dropped for good, since a stream with a hole cannot go on.
    Lost,
    /// The kept bytes pass, and nothing after them, so that the receiver does not learn that the sender gave up or ended.
    Kept,
    /// Bytes take 150 ms, as over a long distance.
    Slow,
    /// The receiving side sees the end of the connection.
    Closed,
}

/// The two directions of one connection.
#[derive(Clone)]
struct Gates {
    to_server: Arc<watch::Sender<Gate>>,
    to_client: Arc<watch::Sender<Gate>>,
}

/// Forwards connections on a free loopback port to another one.
pub struct Proxy {
    pub port: u16,
    gates: Arc<Mutex<Vec<Gates>>>,
    /// How many times bytes were kept back so far.
    kept: Arc<AtomicUsize>,
    /// How many times bytes went to the server so far.
    sent: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(port: u16) -> Self {
        Self::through(Gate::Open, port).await
    }

    /// A proxy whose connections begin with this gate.
    pub async fn through(gate: Gate, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let gates = Arc::new(Mutex::new(Vec::new()));
        let known = gates.clone();
        let kept = Arc::new(AtomicUsize::new(0));
        let keeping = kept.clone();
        let sent = Arc::new(AtomicUsize::new(0));
        let sending = sent.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let gates = Gates { to_server: Arc::new(watch::Sender::new(gate)), to_client: Arc::new(watch::Sender::new(gate)) };
                known.lock().unwrap().push(gates.clone());
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pump(
                    from_client,
                    to_server,
                    gates.to_server.subscribe(),
                    gates.to_server,
                    [keeping.clone(), sending.clone()],
                ));
                tokio::spawn(pump(
                    from_server,
                    to_client,
                    gates.to_client.subscribe(),
                    gates.to_client,
                    [keeping.clone(), Arc::default()],
                ));
            }
        });
        Self { port: own_port, gates, kept, sent, task }
    }

    /// Sets the gate for requests on the present connections; new connections pass.
    pub fn requests(&self, gate: Gate) {
        for gates in self.gates.lock().unwrap().iter() {
            gates.to_server.send_replace(gate);
        }
    }

    /// Sets the gate for requests on one connection; they are numbered from 0, in the order in which they were made.
    #[allow(dead_code)] // not every test program tells connections apart
    pub fn requests_of(&self, connection: usize, gate: Gate) {
        self.gates.lock().unwrap()[connection].to_server.send_replace(gate);
    }

    /// Lets the kept requests pass, and nothing more on those connections, so that they are executed late.
    pub fn let_late_requests_through(&self) {
        for gates in self.gates.lock().unwrap().iter() {
            gates.to_server.send_if_modified(|gate| *gate == Gate::Stalled && std::mem::replace(gate, Gate::Kept) == Gate::Stalled);
        }
    }

    /// Sets the gate for answers on the present connections; new connections pass.
    pub fn answers(&self, gate: Gate) {
        for gates in self.gates.lock().unwrap().iter() {
            gates.to_client.send_replace(gate);
        }
    }

    /// Sets the gate for answers on one connection.
    #[allow(dead_code)] // not every test program tells connections apart
    pub fn answers_of(&self, connection: usize, gate: Gate) {
        self.gates.lock().unwrap()[connection].to_client.send_replace(gate);
    }

    /// How many times bytes were kept back so far.
    pub fn kept(&self) -> usize {
        self.kept.load(Ordering::SeqCst)
    }

    /// How many times bytes went to the server so far.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.gates.lock().unwrap().len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `_open` keeps the gate alive after the proxy was dropped.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut gate: watch::Receiver<Gate>,
    _open: Arc<watch::Sender<Gate>>,
    [kept, passed]: [Arc<AtomicUsize>; 2],
) {
    let mut buffer = vec![0; 65_536];
    let (mut closed, mut lost) = (gate.clone(), false);
    loop {
        let count = tokio::select! {
            _ = closed.wait_for(|gate| *gate == Gate::Closed) => return,
            read = from.read(&mut buffer) => match read {
                Ok(count @ 1..) => count,
                _ if *gate.borrow() == Gate::Kept => 0,
                _ => return,
            },
        };
        if count == 0 {
            let _silence = closed.wait_for(|gate| *gate == Gate::Closed).await;
            return;
        }
        let mut bytes = buffer[..count].to_vec();
        if *gate.borrow() == Gate::Stalled {
            kept.fetch_add(1, Ordering::SeqCst);
            read_the_rest(&mut from, &mut bytes, &mut gate).await;
        }
        let Ok(now) = gate.wait_for(|gate| *gate != Gate::Stalled).await.map(|gate| *gate) else { return };
        lost |= now == Gate::Lost;
        if lost {
            continue;
        }
        if now == Gate::Slow {
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        }
        lost = now == Gate::Kept;
        if now != Gate::Closed && to.write_all(&bytes).await.is_err() {
            return;
        }
        passed.fetch_add(1, Ordering::SeqCst);
    }
}

/// Reads on for a moment while the gate is stalled, since a request may come in two pieces. The end of the connection comes later.
async fn read_the_rest(from: &mut OwnedReadHalf, bytes: &mut Vec<u8>, gate: &mut watch::Receiver<Gate>) {
    let moment = tokio::time::sleep(std::time::Duration::from_millis(200));
    tokio::pin!(moment);
    loop {
        tokio::select! {
            biased;
            _ = gate.wait_for(|gate| *gate != Gate::Stalled) => return,
            () = &mut moment => return,
            read = from.read_buf(bytes) => if !matches!(read, Ok(1..)) { return },
        }
    }
}
