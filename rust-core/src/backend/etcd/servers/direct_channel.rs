//! An HTTP/2 channel without a task of its own: whoever waits for an answer on it does its work as well.
//!
//! The channel's library makes tasks: one passes requests on, one reads and writes the connection. Here they are polled beside the request, by
//! its caller or by the engine. Between requests nobody polls them, so what comes then is read with the next request.

use std::future::{pending, poll_fn};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep};
use tonic::codegen::{Service, http};
use tonic::transport;

use crate::backend::direct::{EngineWait, SocketBytes, hang_up};
use crate::driver::{self, Socket};

/// How long bytes may lie in a socket that a loop reads by itself. After that it stands still, and the engine reads them.
const LONGEST_UNREAD_BY_LOOP: Duration = Duration::from_millis(250);

type Task = BoxFuture<'static, ()>;

/// What the channel of one connection has to do.
pub(super) struct DirectChannel {
    socket: Arc<Socket>,
    is_over: Arc<AtomicBool>,
    tasks: Mutex<Vec<Task>>,
    begun: BegunTasks,
    round: Arc<Round>,
}

impl DirectChannel {
    /// Begins HTTP/2, and TLS if the endpoint has it, on a socket that is connected and does not block.
    pub(super) async fn open(
        fd: OwnedFd,
        endpoint: &transport::Endpoint,
    ) -> Result<(Arc<Self>, transport::Channel), transport::Error> {
        let (socket, is_over) = (Socket::new(fd), Arc::<AtomicBool>::default());
        let stream = DirectStream { socket: socket.clone(), is_over: is_over.clone() };
        let this = Self { socket, is_over, tasks: Mutex::default(), begun: BegunTasks::default(), round: Arc::default() };
        let endpoint = endpoint.clone().executor(this.begun.clone());
        let channel = this.drive(endpoint.connect_with_connector(OneStream(Some(stream)))).await?;
        Ok((Arc::new(this), channel))
    }

    pub(super) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// Whether the connection has ended, as far as anybody has looked.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Reads what has come since the last request, such as the end of the connection.
    pub(super) fn look(&self) {
        let nothing = self.poll(pin!(pending::<()>()), &mut Context::from_waker(Waker::noop()));
        debug_assert!(nothing.is_pending());
    }

    /// Polls a request, and with it what the channel has to do. One at a time.
    ///
    /// # Cancel safety
    /// As that of the request. The server is told of it with the next one.
    pub(super) async fn drive<T>(&self, request: impl Future<Output = T>) -> T {
        let mut request = pin!(request);
        let (mut wait, mut patience) = (EngineWait::default(), None);
        poll_fn(|context| {
            loop {
                if let Poll::Ready(answer) = self.poll(request.as_mut(), context) {
                    return Poll::Ready(answer);
                }
                if driver::wait_for(&self.socket) {
                    return Poll::Pending;
                }
                if self.socket.is_read_by_loop() {
                    let patience = patience.get_or_insert_with(|| Box::pin(sleep(LONGEST_UNREAD_BY_LOOP)));
                    if patience.as_mut().poll(context).is_ready() {
                        if has_unread(&self.socket) {
                            self.socket.let_engine_read();
                        } else {
                            // It is the server that is slow.
                            patience.as_mut().reset(Instant::now() + LONGEST_UNREAD_BY_LOOP);
                        }
                        continue;
                    }
                }
                // If the socket cannot be watched, the deadline of the request ends the wait.
                match wait.poll(context, &self.socket) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) | Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Polls until nothing is left to do but to wait.
    fn poll<T>(&self, mut request: Pin<&mut impl Future<Output = T>>, context: &mut Context<'_>) -> Poll<T> {
        // Taken out: after a panic none of them is polled again, and the connection ends with them.
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        self.round.caller.register(context.waker());
        let waker = Waker::from(self.round.clone());
        // Tokio's budget is for a task, and this may be part of one: without it a round would go on for ever.
        let rounds = unconstrained(poll_fn(|_| {
            let context = &mut Context::from_waker(&waker);
            loop {
                self.round.begin();
                if let Poll::Ready(answer) = request.as_mut().poll(context) {
                    self.round.end();
                    return Poll::Ready(answer);
                }
                tasks.append(&mut self.begun.0.lock());
                tasks.retain_mut(|task| task.as_mut().poll(context).is_pending());
                if self.begun.0.lock().is_empty() && self.round.end() {
                    return Poll::Pending;
                }
            }
        }));
        let polled = pin!(rounds).poll(context);
        *self.tasks.lock() = tasks;
        polled
    }
}

/// Whether something has come that nobody has read.
fn has_unread(socket: &Socket) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// The tasks that the channel's library has begun since the last poll.
#[derive(Clone, Default)]
struct BegunTasks(Arc<Mutex<Vec<Task>>>);

impl Executor<Pin<Box<dyn Future<Output = ()> + Send>>> for BegunTasks {
    fn execute(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.lock().push(task);
    }
}

/// Says whether anything has woken request or tasks while they were polled. Later it wakes their caller.
#[derive(Default)]
struct Round {
    is_polling: AtomicBool,
    woken: AtomicBool,
    caller: AtomicWaker,
}

impl Round {
    fn begin(&self) {
        self.is_polling.store(true, Ordering::SeqCst);
        self.woken.swap(false, Ordering::SeqCst);
    }

    /// False if something has to be polled once more.
    fn end(&self) -> bool {
        self.is_polling.store(false, Ordering::SeqCst);
        !self.woken.load(Ordering::SeqCst)
    }
}

impl Wake for Round {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if !self.is_polling.load(Ordering::SeqCst) {
            self.caller.wake();
        }
    }
}

/// The bytes of the connection. It wakes nobody: whoever waits for the socket polls again.
struct DirectStream {
    socket: Arc<Socket>,
    is_over: Arc<AtomicBool>,
}

impl DirectStream {
    /// A read or write that would wait is pending.
    fn polled<T>(&self, done: io::Result<T>) -> Poll<io::Result<T>> {
        match done {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => {
                self.is_over.store(true, Ordering::Release);
                Poll::Ready(Err(error))
            }
            done => Poll::Ready(done),
        }
    }
}

impl AsyncRead for DirectStream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = SocketBytes(&self.socket).read(buffer.initialize_unfilled());
        self.polled(read).map_ok(|count| {
            if count == 0 {
                self.is_over.store(true, Ordering::Release);
            }
            buffer.advance(count);
        })
    }
}

impl AsyncWrite for DirectStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // A socket on which nothing is under way has room for a request; if it has not, the connection is of no use.
        let written = SocketBytes(&self.socket).write(bytes);
        let no_room =
            |error: io::Error| if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::BrokenPipe.into() } else { error };
        self.polled(written.map_err(no_room))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        hang_up(&self.socket);
        Poll::Ready(Ok(()))
    }
}

impl Drop for DirectStream {
    fn drop(&mut self) {
        // HTTP/2 and TLS end a connection in ways of their own.
        self.is_over.store(true, Ordering::Release);
        hang_up(&self.socket);
    }
}

/// Connects to nothing: it has the one stream already. A channel that has lost it cannot connect again.
struct OneStream(Option<DirectStream>);

impl Service<http::Uri> for OneStream {
    type Response = TokioIo<DirectStream>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        std::future::ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::ErrorKind::ConnectionAborted.into()))
    }
}
