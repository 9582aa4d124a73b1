//! One server of the cluster: the connection to it, made when it is needed, and its health.
//!
//! A server in trouble is asked after the others. Its trouble ends with an answer, or with a new connection on which it reports its
//! status. The connection on which a server fell silent is kept until there is a new one: perhaps only the cluster is slow, and a server
//! that cannot log anybody in at the moment may still serve connections that are logged in.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::address::Endpoint;
use super::cluster::Cluster;
use super::direct;
use super::failure::{FailureScope, ServerFailure};
use super::link::ServerLink;
use super::login::EtcdLogin;
use crate::backoff::{Backoff, Pauses};
use crate::driver::Reader;
use crate::error::Failure;
use crate::observe::logs::target;

/// The pauses before connecting again, while no request waits for the connection.
const MEMBER_BACKOFF: Backoff = Backoff::millis(25, 5_000);
/// The longest pause while a request waits.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A failure this long after the pause of the last one counts as a first failure.
const TROUBLE_MEMORY: Duration = Duration::from_secs(10);
/// The shortest silence that counts against a server. An impatient caller proves nothing.
const SHORTEST_SILENCE: Duration = Duration::from_millis(100);
/// How long a call waits for a new connection before it uses the doubtful one.
const DOUBT: Duration = Duration::from_millis(200);

/// A server, as this client knows it.
pub(super) struct Member {
    pub(super) endpoint: Endpoint,
    login: Arc<EtcdLogin>,
    cluster: Arc<Cluster>,
    state: Mutex<MemberState>,
    /// How many attempts to connect have ended.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct MemberState {
    link: Option<Arc<ServerLink>>,
    trouble: Option<Trouble>,
    /// The pause after the last failure.
    pause: Option<Pause>,
    /// The attempt to connect, one at a time. It is a task of its own, so that it outlives the callers that wait for it.
    connecting: Option<AbortHandle>,
    closed: bool,
}

/// The pause after a failure, before the next attempt to connect.
#[derive(Clone, Copy)]
struct Pause {
    since: Instant,
    length: Duration,
    /// The longer ones that follow.
    next: Pauses,
}

impl Pause {
    fn end(self) -> Instant {
        self.since + self.length
    }
}

/// Why a server is asked after the others.
struct Trouble {
    /// When it began.
    since: Instant,
    failed: ServerFailure,
}

impl Member {
    pub(super) fn new(endpoint: Endpoint, login: Arc<EtcdLogin>, cluster: Arc<Cluster>) -> Self {
        Self { endpoint, login, cluster, state: Mutex::default(), ended: watch::Sender::new(0) }
    }

    /// The connection, or a new one.
    ///
    /// # Cancel safety
    /// Connecting goes on, for the next caller.
    pub(super) async fn link(self: &Arc<Self>, deadline: Instant) -> Result<Arc<ServerLink>, ServerFailure> {
        let (mut ended, patience) = {
            let mut state = self.state.lock();
            let patience = match &state.link {
                _ if state.closed => return Err(ServerFailure::closed(&self.endpoint)),
                Some(link) if state.trouble.is_none() => return Ok(link.clone()),
                Some(_) => deadline.min(Instant::now() + DOUBT),
                None => deadline,
            };
            let ended = self.ended.subscribe();
            self.connect(&mut state);
            (ended, patience)
        };
        let in_time = timeout_at(patience, ended.changed()).await.is_ok();
        let state = self.state.lock();
        match (&state.link, &state.trouble) {
            // A request that is sent at the last moment gets no answer, and then its outcome is unknown.
            (Some(link), _) if Instant::now() < deadline => Ok(link.clone()),
            // After a timeout the earlier failure says more. An earlier refusal does not count, because it would be final.
            (_, Some(trouble)) if in_time || !matches!(trouble.failed.scope, FailureScope::Request | FailureScope::Silent) => {
                Err(trouble.failed.clone())
            }
            _ => Err(self.failed(FailureScope::Silent, Failure::NotSent, "not connected in time")),
        }
    }

    /// Whether a lone request of a caller with this reader would go over a direct connection. A few that would are worth making one.
    pub(super) fn serves_callers(&self, reader: Reader) -> bool {
        let link = {
            let state = self.state.lock();
            state.link.clone().filter(|_| state.trouble.is_none())
        };
        let Some(link) = link else { return false };
        let is_free = link.direct.is_free(reader);
        if !is_free && link.direct.is_worthwhile() {
            let (endpoint, login, cluster) = (self.endpoint.clone(), self.login.clone(), self.cluster.clone());
            tokio::spawn(direct::connect(endpoint, login, cluster, Arc::downgrade(&link.direct)));
        }
        is_free
    }

    /// When its trouble began; `None` while it is well. Starts a new connection if the pause has passed: only this call does, so an idle
    /// client sends nothing.
    pub(super) fn trouble_since(self: &Arc<Self>) -> Option<Instant> {
        let mut state = self.state.lock();
        let since = state.trouble.as_ref()?.since;
        if state.pause.is_none_or(|pause| pause.end() <= Instant::now()) {
            self.connect(&mut state);
        }
        Some(since)
    }

    /// The message of its failure; `None` while it is well.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state.lock().trouble.as_ref().map(|trouble| trouble.failed.error.message.to_string())
    }

    /// Notes an answer, which ends any trouble.
    pub(super) fn answered(&self, link: &Arc<ServerLink>) {
        link.note_answer();
        let mut state = self.state.lock();
        if state.trouble.is_some() && state.uses(link) {
            state.trouble = None;
        }
    }

    /// Notes what a failure means for this server and the connection.
    pub(super) fn note(&self, link: &Arc<ServerLink>, failed: &ServerFailure) {
        let mut state = self.state.lock();
        if !state.uses(link) {
            return;
        }
        match failed.scope {
            FailureScope::Server => {
                state.link = None;
                state.note_trouble(failed.clone());
            }
            // The next connection logs in again.
            FailureScope::Login => state.link = None,
            FailureScope::Leaderless => state.note_trouble(failed.clone()),
            FailureScope::Silent => {}
            FailureScope::Moment | FailureScope::Request => link.note_answer(),
        }
    }

    /// Notes that a request made at `asked` got no answer, or no connection. A server that has answered other requests since is only busy.
    pub(super) fn suspect(self: &Arc<Self>, asked: Instant) {
        let mut state = self.state.lock();
        if asked.elapsed() >= SHORTEST_SILENCE && state.link.as_ref().is_none_or(|link| link.is_silent_since(asked)) {
            self.doubt(&mut state);
        }
    }

    /// Notes that a stream on this connection is silent.
    pub(super) fn suspect_link(self: &Arc<Self>, link: &Arc<ServerLink>) {
        let mut state = self.state.lock();
        if state.uses(link) {
            self.doubt(&mut state);
        }
    }

    /// Stops connecting; later calls fail. Requests in flight go on.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.link = None;
        if let Some(connecting) = state.connecting.take() {
            connecting.abort();
        }
        self.ended.send_modify(|ended| *ended += 1);
    }

    /// A failure of this server that this client found by itself.
    pub(super) fn failed(&self, scope: FailureScope, failure: Failure, message: &str) -> ServerFailure {
        ServerFailure::new(&self.endpoint, scope, failure, message)
    }

    fn doubt(self: &Arc<Self>, state: &mut MemberState) {
        if state.trouble.is_none() {
            state.note_trouble(self.failed(FailureScope::Silent, Failure::NotSent, "it does not answer"));
        }
        self.connect(state);
    }

    fn connect(self: &Arc<Self>, state: &mut MemberState) {
        if state.closed || state.connecting.as_ref().is_some_and(|connecting| !connecting.is_finished()) {
            return;
        }
        let until = state.pause.map(|pause| pause.since + pause.length.min(LONGEST_PAUSE));
        let member = self.clone();
        let attempt = async move {
            if let Some(until) = until {
                sleep_until(until).await;
            }
            let result = ServerLink::open(&member.endpoint, &member.login).await;
            member.connected(result.and_then(|link| member.cluster.check(&member.endpoint, &link.logged_in).map(|()| link)));
        };
        state.connecting = Some(tokio::spawn(attempt).abort_handle());
    }

    fn connected(&self, result: Result<ServerLink, ServerFailure>) {
        let mut state = self.state.lock();
        state.connecting = None;
        match result {
            _ if state.closed => {}
            Ok(link) => {
                state.link = Some(Arc::new(link));
                state.trouble = None;
            }
            Err(failed) => {
                if failed.scope == FailureScope::Server {
                    // Nothing accepts connections any more, so the old connection is dead as well.
                    state.link = None;
                }
                state.note_trouble(failed);
            }
        }
        self.ended.send_modify(|ended| *ended += 1);
    }
}

impl MemberState {
    fn uses(&self, link: &Arc<ServerLink>) -> bool {
        self.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link))
    }

    fn note_trouble(&mut self, failed: ServerFailure) {
        if self.trouble.is_none() {
            tracing::debug!(target: target::ETCD_MEMBER, error = %failed.error, "a server is in trouble, others are asked first");
        }
        let now = Instant::now();
        let since = self.trouble.as_ref().map_or(now, |trouble| trouble.since);
        self.trouble = Some(Trouble { since, failed });
        let mut next = match self.pause {
            Some(pause) if now < pause.end() + TROUBLE_MEMORY => pause.next,
            _ => MEMBER_BACKOFF.pauses(),
        };
        self.pause = Some(Pause { since: now, length: next.next(), next });
    }
}
