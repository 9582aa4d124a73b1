//! The backend that a simulated machine sees: its end of the wire.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dlock::backend::{
    Acquire, Acquired, Backend, Capabilities, Handover, Inspection, Release, Renew, Renewed, Reply, Waiter, Whom,
};
use dlock::clock::Clock;
use dlock::error::{BackendError, Failure};
use dlock::owner::OwnerId;
use futures_util::future::{BoxFuture, ready};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::clock::{MachineClock, sleep};
use crate::faults::Fault;
use crate::history::History;
use crate::judge::Judge;
use crate::network::{Fate, Network};
use crate::plan::Bound;
use crate::server::{Answer, Server};
use crate::world::{Nanos, SECOND};

/// A request under way, as often as it is executed.
type Execute<T> = dyn Fn(&Server) -> Answer<T> + Send + Sync;

pub(crate) struct Wire {
    pub(crate) client: usize,
    pub(crate) server: Arc<Server>,
    pub(crate) network: Arc<Network>,
    pub(crate) history: Arc<History>,
    pub(crate) judge: Arc<Judge>,
    pub(crate) clock: Arc<MachineClock>,
    pub(crate) bound: Bound,
    pub(crate) capabilities: Capabilities,
    pub(crate) name: Arc<str>,
    pub(crate) closed: AtomicBool,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("client", &self.client).finish_non_exhaustive()
    }
}

/// Requests that outlive their caller differ in what may still become of them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Executed late, it may take or release a key.
    Lasting,
    /// The same, and what it leaves behind is another thing each time: not executed twice if it is answered.
    Once,
    /// With [`Bound::Guard`], not executed once its caller has given up.
    Passing,
}

/// Says, when it goes, that nobody waits for the answer any more.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Wire {
    /// How late a request is executed at most. A little sooner than was promised: the machine's clock may be fast.
    fn latest(&self, kind: Kind) -> Nanos {
        match (self.bound, kind) {
            (Bound::Window(window), _) => window * 97 / 100,
            (Bound::Guard, Kind::Passing) => Nanos::MAX,
            (Bound::Guard, Kind::Lasting | Kind::Once) => 10 * SECOND,
        }
    }

    fn call<T: Clone + fmt::Debug + Send + 'static>(
        &self,
        kind: Kind,
        timeout: Duration,
        what: String,
        execute: impl Fn(&Server) -> Answer<T> + Send + Sync + 'static,
    ) -> Reply<'_, T> {
        Box::pin(async move {
            if self.closed.load(Ordering::Relaxed) {
                return Err(BackendError::new(Failure::Refused, "closed"));
            }
            let mut fate = self.network.fate(self.client);
            if kind == Kind::Once && fate.answered.is_some() {
                fate.again = None;
            }
            let world = &self.server.world;
            world.note(fate.executed.unwrap_or(1) ^ fate.answered.unwrap_or(2));
            world.trace(|| format!("client {} sends {what}  {}", self.client, shown(&fate)));
            if let Some(after) = fate.not_sent {
                sleep(&self.clock, after).await;
                return Err(BackendError::new(Failure::NotSent, "no connection"));
            }
            let (reply, answer) = oneshot::channel();
            let waits = Waits(Arc::new(AtomicBool::new(true)));
            self.dispatch(kind, fate, &waits.0, &(Arc::new(execute) as Arc<Execute<T>>), reply, &what);
            let broken = async {
                match fate.broken {
                    Some(after) => sleep(&self.clock, after).await,
                    None => std::future::pending().await,
                }
            };
            let timeout = self.clock.sleep_until(self.clock.now() + timeout);
            let answer = async {
                match answer.await {
                    Ok(answer) => answer,
                    // It was lost; the machine finds out in another way.
                    Err(_) => std::future::pending().await,
                }
            };
            let answer = tokio::select! {
                biased;
                answer = answer => answer,
                () = broken => Err(BackendError::new(Failure::Unknown, "the connection broke")),
                () = timeout => Err(BackendError::new(Failure::Unknown, "no answer")),
            };
            if answer.is_err() {
                self.network.trouble(self.client);
            }
            answer
        })
    }

    /// Sends a request on its way. Whoever made it may be gone when it arrives.
    fn dispatch<T: Clone + fmt::Debug + Send + 'static>(
        &self,
        kind: Kind,
        fate: Fate,
        waited_for: &Arc<AtomicBool>,
        execute: &Arc<Execute<T>>,
        reply: oneshot::Sender<Answer<T>>,
        what: &str,
    ) {
        let Some(executed) = fate.executed else { return };
        let reply = Arc::new(Mutex::new(Some(reply)));
        let latest = self.latest(kind);
        for (number, after) in [Some(executed), fate.again.map(|again| executed + again)].into_iter().flatten().enumerate() {
            if after > latest {
                continue;
            }
            let (server, network, waited_for) = (self.server.clone(), self.network.clone(), waited_for.clone());
            let (execute, reply, client, what) = (execute.clone(), reply.clone(), self.client, what.to_owned());
            let guarded = self.bound == Bound::Guard && kind == Kind::Passing;
            self.server.world.after(after, move || {
                let ghost = !waited_for.load(Ordering::Relaxed);
                if ghost && guarded {
                    return;
                }
                if ghost {
                    network.tally.count(Fault::Ghost);
                }
                let answer = execute(&server);
                server.world.trace(|| {
                    let remark = if ghost { " as a ghost" } else { "" };
                    format!("server executes {what} of client {client}{remark}: {answer:?}")
                });
                let (0, Some(after), Some(reply)) = (number, fate.answered, reply.lock().take()) else { return };
                server.world.after(after, move || drop(reply.send(answer)));
            });
        }
    }
}

/// A fate in a few words.
fn shown(fate: &Fate) -> String {
    let ms = |nanos: Option<Nanos>| nanos.map_or("lost".to_owned(), |nanos| format!("{} us", nanos / 1000));
    if fate.not_sent.is_some() {
        return "(not sent)".to_owned();
    }
    let again = fate.again.map_or(String::new(), |again| format!(", again {} us later", again / 1000));
    format!("(there {}, back {}{again})", ms(fate.executed), ms(fate.answered))
}

impl Backend for Wire {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn server(&self) -> &Arc<str> {
        &self.name
    }

    fn ping(&self, timeout: Duration) -> Reply<'_, ()> {
        self.call(Kind::Passing, timeout, String::new(), |_| Ok(()))
    }

    fn probe(&self, timeout: Duration) -> Reply<'_, ()> {
        self.ping(timeout)
    }

    fn acquire(&self, request: Acquire) -> Reply<'_, Acquired> {
        let what = self.server.world.label(|| format!("acquire {} by {} for {:?}", request.key, request.owner, request.ttl));
        let (client, sent) = (self.client, self.server.world.now());
        let kind = if request.enqueue { Kind::Lasting } else { Kind::Once };
        let (key, judge, enqueue) = (request.key.clone(), self.judge.clone(), request.enqueue);
        if enqueue {
            judge.outages.asking(client, &key);
        }
        let answer = self.call(kind, request.timeout, what, move |server| server.acquire(client, sent, &request));
        Box::pin(async move {
            let answer = answer.await;
            match &answer {
                Ok(_) => judge.outages.answered(client, &key),
                Err(_) if enqueue => judge.outages.failed(client, &key),
                Err(_) => {}
            }
            answer
        })
    }

    fn renew(&self, batch: Vec<Renew>, timeout: Duration) -> Reply<'_, Vec<Renewed>> {
        for renew in batch.iter().filter(|renew| self.history.is_released(renew.owner)) {
            let owner = renew.owner;
            self.server.world.violate(|| format!("renewal: client {} renews {owner} after its release", self.client));
        }
        let owners: Vec<_> = batch.iter().map(|renew| renew.owner.sequence).collect();
        let what = self.server.world.label(|| format!("renew {owners:?} for {:?}", batch.first().map(|renew| renew.ttl)));
        let client = self.client;
        let (keys, judge): (Vec<_>, _) = (batch.iter().map(|renew| renew.key.clone()).collect(), self.judge.clone());
        let answer = self.call(Kind::Passing, timeout, what, move |server| server.renew(client, batch.clone()));
        Box::pin(async move {
            let answer = answer.await;
            for key in keys.iter().filter(|_| answer.is_ok()) {
                judge.outages.answered(client, key);
            }
            answer
        })
    }

    fn release(&self, release: Release) -> Reply<'_, Handover> {
        let next = release.next.as_ref().map(|next| next.owner.sequence);
        let what = self.server.world.label(|| format!("release {} of {}, next {next:?}", release.key, release.owner));
        let (client, sent) = (self.client, self.server.world.now());
        let (key, judge) = (release.key.clone(), self.judge.clone());
        let answer = self.call(Kind::Lasting, release.timeout, what, move |server| server.release(client, sent, release.clone()));
        Box::pin(async move {
            let answer = answer.await;
            if answer.as_ref().is_ok_and(|handover| handover.next.is_some()) {
                judge.outages.answered(client, &key);
            }
            answer
        })
    }

    fn leave(&self, key: Arc<str>, owner: OwnerId, timeout: Duration) -> Reply<'_, ()> {
        let (what, client) = (self.server.world.label(|| format!("leave {key} by {owner}")), self.client);
        self.judge.leaving(client, &key, owner);
        self.call(Kind::Lasting, timeout, what, move |server| server.leave(client, &key, owner))
    }

    fn keep_waiting(&self, waiters: Vec<Waiter>, timeout: Duration) -> Reply<'_, Vec<Duration>> {
        let client = self.client;
        let what = self.server.world.label(|| format!("keep {} waiters", waiters.len()));
        self.call(Kind::Passing, timeout, what, move |server| server.keep_waiting(client, waiters.clone()))
    }

    fn inspect(&self, key: Arc<str>, timeout: Duration) -> Reply<'_, Inspection> {
        let client = self.client;
        let what = self.server.world.label(|| format!("inspect {key}"));
        self.call(Kind::Passing, timeout, what, move |server| server.inspect(client, &key))
    }

    fn list(&self, _prefix: Arc<str>, _timeout: Duration) -> Reply<'_, Vec<Inspection>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn force_release(&self, _key: Arc<str>, _whom: Whom, _timeout: Duration) -> Reply<'_, bool> {
        Box::pin(ready(Ok(false)))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.closed.store(true, Ordering::Relaxed);
        self.network.disconnect(self.client, false);
        Box::pin(ready(()))
    }
}
