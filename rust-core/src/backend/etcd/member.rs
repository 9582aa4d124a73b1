//! One server of the cluster: the connection to it, made when it is needed, and how well it is.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::address::Endpoint;
use super::failure::{Failed, Scope};
use super::link::{Link, Wiring};
use crate::error::Failure;

/// The pause after a first failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest pause where a request waits for it.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between probes, for which nobody waits.
const LONGEST_PROBE_PAUSE: Duration = Duration::from_secs(5);
/// Without trouble for this long, the next one counts as the first.
const TROUBLE_MEMORY: Duration = Duration::from_secs(10);

/// A server, as this client knows it.
pub(super) struct Member {
    pub(super) endpoint: Endpoint,
    wiring: Arc<Wiring>,
    /// Looks at a new connection before it is used.
    inspect: Box<dyn Fn(&Endpoint, &Link) -> Result<(), Failed> + Send + Sync>,
    state: Mutex<State>,
    /// Counts the attempts to connect that ended.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    trouble: Option<Trouble>,
    /// The pause after the last trouble, and when it was.
    pause: Option<(Instant, Duration)>,
    /// The attempt to connect: one at a time, a task of its own, so that it outlives those who wait for it.
    connecting: Option<AbortHandle>,
    closed: bool,
}

/// What is wrong.
#[derive(Clone)]
struct Trouble {
    /// When it began.
    since: Instant,
    failed: Failed,
}

impl Member {
    pub(super) fn new(
        endpoint: Endpoint,
        wiring: Arc<Wiring>,
        inspect: impl Fn(&Endpoint, &Link) -> Result<(), Failed> + Send + Sync + 'static,
    ) -> Self {
        Self { endpoint, wiring, inspect: Box::new(inspect), state: Mutex::default(), ended: watch::Sender::new(0) }
    }

    /// The connection, or a new one.
    ///
    /// # Cancel safety
    /// An attempt that was begun goes on for the next caller.
    pub(super) async fn link(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Link>, Failed> {
        let mut ended = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(self.failed(Scope::Request, Failure::Refused, "the client is closed"));
            }
            if let Some(link) = &state.link {
                return Ok(link.clone());
            }
            let ended = self.ended.subscribe();
            self.begin(&mut state);
            ended
        };
        if timeout_at(deadline, ended.changed()).await.is_err() {
            return Err(self.failed(Scope::Server, Failure::NotSent, "not connected in time"));
        }
        let state = self.state.lock();
        match (&state.link, &state.trouble) {
            (Some(link), _) => Ok(link.clone()),
            (None, Some(trouble)) => Err(trouble.failed.clone()),
            (None, None) => Err(self.failed(Scope::Server, Failure::NotSent, "not connected")),
        }
    }

    /// When its trouble began; `None` while nothing is wrong. Sees to it that somebody looks whether it is over: no more often than
    /// its pauses allow, and only when asked, so an idle client sends nothing.
    pub(super) fn trouble_since(self: &Arc<Self>) -> Option<Instant> {
        let mut state = self.state.lock();
        let since = state.trouble.as_ref()?.since;
        let due = state.pause.is_none_or(|(at, pause)| at + pause <= Instant::now());
        if due && state.link.is_none() {
            self.begin(&mut state);
        }
        Some(since)
    }

    /// Takes a connection out of use after it failed.
    pub(super) fn retire(self: &Arc<Self>, link: &Arc<Link>, failed: &Failed) {
        let mut state = self.state.lock();
        if state.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            state.link = None;
            state.note_trouble(failed.clone());
        }
    }

    /// Takes a connection out of use because its token is not good any more. The next one gets a new token.
    pub(super) fn log_in_again(&self, link: &Arc<Link>) {
        let mut state = self.state.lock();
        if state.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            state.link = None;
        }
    }

    /// Called when a request got no answer since `asked`: unless the server answered others meanwhile, somebody else is asked first until
    /// a new connection proves it well.
    pub(super) fn suspect(self: &Arc<Self>, asked: Instant) {
        let mut state = self.state.lock();
        if state.closed || state.link.as_ref().is_some_and(|link| !link.is_silent_since(asked)) {
            return;
        }
        let was_linked = state.link.take().is_some();
        if was_linked || state.trouble.is_none() {
            state.note_trouble(self.failed(Scope::Server, Failure::NotSent, "it does not answer"));
        }
        if was_linked {
            self.begin(&mut state);
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

    /// A failure of this server.
    pub(super) fn failed(&self, scope: Scope, failure: Failure, told: &str) -> Failed {
        Failed::new(&self.endpoint.to_string(), scope, failure, told)
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
            let result = Link::open(&member.endpoint, &member.wiring).await;
            let result = result.and_then(|link| (member.inspect)(&member.endpoint, &link).map(|()| link));
            member.settle(result);
        };
        state.connecting = Some(tokio::spawn(attempt).abort_handle());
    }

    fn settle(&self, result: Result<Link, Failed>) {
        let mut state = self.state.lock();
        state.connecting = None;
        if !state.closed {
            match result {
                Ok(link) => {
                    state.link = Some(Arc::new(link));
                    state.trouble = None;
                }
                Err(failed) => state.note_trouble(failed),
            }
        }
        self.ended.send_modify(|ended| *ended += 1);
    }
}

impl State {
    fn note_trouble(&mut self, failed: Failed) {
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
