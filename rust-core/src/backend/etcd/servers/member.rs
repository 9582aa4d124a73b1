//! One server of the cluster: the connection to it, made when it is needed, and how well it is.
//!
//! A server that is in trouble is asked after the others. Two things end the trouble: an answer, and a new connection on which the server
//! says that it is well. When a server falls silent, the connection it was silent on is kept until there is a new one: it may be the
//! cluster that is slow, and a server that cannot log anybody in just now may still serve those who are.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::address::Endpoint;
use super::cluster::Cluster;
use super::failure::{Failed, Scope};
use super::link::{Link, Login};
use crate::error::{CLOSED, Failure};
use crate::observe::logs::target;

/// The pause after a first trouble; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest pause where a request waits for it.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between probes, for which nobody waits.
const LONGEST_PROBE_PAUSE: Duration = Duration::from_secs(5);
/// Without trouble for this long, the next one counts as the first.
const TROUBLE_MEMORY: Duration = Duration::from_secs(10);
/// The shortest silence that says something about a server: impatient callers do not.
const SHORTEST_SILENCE: Duration = Duration::from_millis(100);
/// How long a new connection is waited for before the one that is in doubt is used.
const DOUBT: Duration = Duration::from_millis(200);

/// A server, as this client knows it.
pub(super) struct Member {
    pub(super) endpoint: Endpoint,
    login: Arc<Login>,
    cluster: Arc<Cluster>,
    state: Mutex<State>,
    /// Counts the attempts to connect that ended.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    trouble: Option<Trouble>,
    /// When the last trouble was noted, and the pause after it.
    pause: Option<(Instant, Duration)>,
    /// The attempt to connect: one at a time, a task of its own, so that it outlives those who wait for it.
    connecting: Option<AbortHandle>,
    closed: bool,
}

/// What is wrong.
struct Trouble {
    /// When it began.
    since: Instant,
    failed: Failed,
}

impl Member {
    pub(super) fn new(endpoint: Endpoint, login: Arc<Login>, cluster: Arc<Cluster>) -> Self {
        Self { endpoint, login, cluster, state: Mutex::default(), ended: watch::Sender::new(0) }
    }

    /// The connection, or a new one.
    ///
    /// # Cancel safety
    /// An attempt that was begun goes on for the next caller.
    pub(super) async fn link(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Link>, Failed> {
        let (mut ended, patience) = {
            let mut state = self.state.lock();
            let patience = match &state.link {
                _ if state.closed => return Err(self.failed(Scope::Request, Failure::Refused, CLOSED)),
                Some(link) if state.trouble.is_none() => return Ok(link.clone()),
                Some(_) => deadline.min(Instant::now() + DOUBT),
                None => deadline,
            };
            let ended = self.ended.subscribe();
            self.begin(&mut state);
            (ended, patience)
        };
        let in_time = timeout_at(patience, ended.changed()).await.is_ok();
        let state = self.state.lock();
        match (&state.link, &state.trouble) {
            // What is sent in the last moment is not answered, and then nobody knows whether it was executed.
            (Some(link), _) if Instant::now() < deadline => Ok(link.clone()),
            // Out of time, the trouble known from before tells more; but a refusal is final, and has to be fresh.
            (_, Some(trouble)) if in_time || !matches!(trouble.failed.scope, Scope::Request | Scope::Silent) => {
                Err(trouble.failed.clone())
            }
            _ => Err(self.failed(Scope::Silent, Failure::NotSent, "not connected in time")),
        }
    }

    /// When its trouble began; `None` while it is well. Sees to it that somebody looks whether the trouble is over: no more often than the
    /// pauses allow, and only when asked, so an idle client sends nothing.
    pub(super) fn trouble_since(self: &Arc<Self>) -> Option<Instant> {
        let mut state = self.state.lock();
        let since = state.trouble.as_ref()?.since;
        if state.pause.is_none_or(|(at, pause)| at + pause <= Instant::now()) {
            self.begin(&mut state);
        }
        Some(since)
    }

    /// What is wrong, in words; `None` while it is well.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state.lock().trouble.as_ref().map(|trouble| trouble.failed.error.message.to_string())
    }

    /// Takes note of an answer: whatever the trouble was, it is over.
    pub(super) fn answered(&self, link: &Arc<Link>) {
        link.note_answer();
        let mut state = self.state.lock();
        if state.trouble.is_some() && state.uses(link) {
            state.trouble = None;
        }
    }

    /// Takes note of a failure: what it says about this server and the connection.
    pub(super) fn note(&self, link: &Arc<Link>, failed: &Failed) {
        let mut state = self.state.lock();
        if !state.uses(link) {
            return;
        }
        match failed.scope {
            Scope::Server => {
                state.link = None;
                state.note_trouble(failed.clone());
            }
            // The next one comes with a new token.
            Scope::Login => state.link = None,
            Scope::Leaderless => state.note_trouble(failed.clone()),
            Scope::Silent => {}
            Scope::Moment | Scope::Request => link.note_answer(),
        }
    }

    /// Called when a request that was made at `asked` has no answer, or no connection to be sent on. A server that answered others
    /// meanwhile is merely busy.
    pub(super) fn suspect(self: &Arc<Self>, asked: Instant) {
        let mut state = self.state.lock();
        if asked.elapsed() >= SHORTEST_SILENCE && state.link.as_ref().is_none_or(|link| link.is_silent_since(asked)) {
            self.doubt(&mut state);
        }
    }

    /// Called when a stream on this connection is silent.
    pub(super) fn suspect_link(self: &Arc<Self>, link: &Arc<Link>) {
        let mut state = self.state.lock();
        if state.uses(link) {
            self.doubt(&mut state);
        }
    }

    /// Ends the attempt to connect; later calls fail. Requests in flight go on.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.link = None;
        if let Some(connecting) = state.connecting.take() {
            connecting.abort();
        }
        self.ended.send_modify(|ended| *ended += 1);
    }

    /// A failure of this server, found on this side.
    pub(super) fn failed(&self, scope: Scope, failure: Failure, told: &str) -> Failed {
        Failed::new(&self.endpoint, scope, failure, told)
    }

    fn doubt(self: &Arc<Self>, state: &mut State) {
        if state.trouble.is_none() {
            state.note_trouble(self.failed(Scope::Silent, Failure::NotSent, "it does not answer"));
        }
        self.begin(state);
    }

    fn begin(self: &Arc<Self>, state: &mut State) {
        if state.closed || state.connecting.as_ref().is_some_and(|connecting| !connecting.is_finished()) {
            return;
        }
        let pause = state.pause.map(|(at, pause)| at + pause.min(LONGEST_PAUSE));
        let member = self.clone();
        let attempt = async move {
            if let Some(pause) = pause {
                sleep_until(pause).await;
            }
            let result = Link::open(&member.endpoint, &member.login).await;
            member.settle(result.and_then(|link| member.cluster.check(&member.endpoint, &link).map(|()| link)));
        };
        state.connecting = Some(tokio::spawn(attempt).abort_handle());
    }

    fn settle(&self, result: Result<Link, Failed>) {
        let mut state = self.state.lock();
        state.connecting = None;
        match result {
            _ if state.closed => {}
            Ok(link) => {
                state.link = Some(Arc::new(link));
                state.trouble = None;
            }
            Err(failed) => {
                if failed.scope == Scope::Server {
                    // There is nothing to connect to any more: the old connection leads nowhere either.
                    state.link = None;
                }
                state.note_trouble(failed);
            }
        }
        self.ended.send_modify(|ended| *ended += 1);
    }
}

impl State {
    fn uses(&self, link: &Arc<Link>) -> bool {
        self.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link))
    }

    fn note_trouble(&mut self, failed: Failed) {
        if self.trouble.is_none() {
            tracing::debug!(target: target::ETCD_MEMBER, error = %failed.error, "a server is in trouble: others are asked first");
        }
        let now = Instant::now();
        let since = self.trouble.as_ref().map_or(now, |trouble| trouble.since);
        self.trouble = Some(Trouble { since, failed });
        let pause = match self.pause {
            Some((at, pause)) if now < at + pause + TROUBLE_MEMORY => (pause * 2).min(LONGEST_PROBE_PAUSE),
            _ => FIRST_PAUSE,
        };
        self.pause = Some((now, pause));
    }
}
