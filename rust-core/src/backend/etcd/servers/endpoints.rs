//! Which server to ask: the best one first, others when it does not answer, all within the caller's timeout.
//!
//! There is one client for each endpoint. A client that balances over all endpoints would fail a third of the calls while one of three
//! servers is dead. A server that fails or falls silent ranks behind the others until a new connection to it works, so a dead server
//! delays one call only. Nothing is sent before the first call, nor while the client is idle.

use std::fmt;
use std::ops::ControlFlow::{self, Break, Continue};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::Client;
use futures_util::future::select_all;
use tokio::time::{Instant, sleep, timeout_at};

use super::address::EtcdAddress;
use super::cluster::Cluster;
use super::direct::{self, LentConnection};
use super::failure::{FailureScope, ServerFailure};
use super::link::ServerLink;
use super::login::EtcdLogin;
use super::member::Member;
use crate::backend::timers::deadline_after;
use crate::backoff::Backoff;
use crate::driver::{self, Reader};
use crate::error::{BackendError, Failure, NO_ANSWER};

/// How long a call waits for one server while it could ask another one.
const LONGEST_PATIENCE: Duration = Duration::from_millis(500);

/// How long a call waits for all servers before it asks them again. Each further round waits twice as long.
const PATIENCE_WITH_ALL: Duration = Duration::from_secs(1);

/// The pauses before a call asks a cluster again that could not serve.
const ASK_AGAIN_BACKOFF: Backoff = Backoff::millis(20, 200);

/// The servers of one cluster.
pub struct Endpoints {
    members: Vec<Arc<Member>>,
    /// The member that is asked first while all are well. Each client draws its own, which shares the load.
    first: usize,
    cluster: Arc<Cluster>,
    shown: Arc<str>,
}

/// The answer to an idempotent request.
#[derive(Clone, Copy, Debug)]
pub struct ServerAnswer<T> {
    /// The content of the answer.
    pub value: T,
    /// Another server got the same request, did not answer, and may still execute it.
    pub may_run_again: bool,
}

/// The server at which a stream is opened.
pub struct StreamServer {
    /// The client to open it with.
    pub client: Client,
    link: Arc<ServerLink>,
    member: Arc<Member>,
}

impl fmt::Debug for StreamServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StreamServer").field(&self.name()).finish()
    }
}

impl StreamServer {
    /// The server's address.
    pub fn name(&self) -> String {
        self.member.endpoint.to_string()
    }
}

impl Endpoints {
    /// Connects to nothing.
    pub fn new(address: EtcdAddress, connect_timeout: Duration) -> Self {
        let shown = address.shown();
        let cluster = Arc::new(Cluster::default());
        let login = Arc::new(EtcdLogin { credentials: address.credentials, connect_timeout });
        let member = |endpoint| Arc::new(Member::new(endpoint, login.clone(), cluster.clone()));
        let members: Vec<_> = address.endpoints.into_iter().map(member).collect();
        let first = getrandom::u32().map_or(0, |random| random as usize % members.len().max(1));
        Self { members, first, cluster, shown }
    }

    /// Sends an idempotent request to the best server first, and to the next best when that one fails or does not answer in its share of
    /// the time. The first answer counts. While the cluster has no leader, it tries again until `timeout`.
    ///
    /// # Errors
    /// Names each server that was asked, and the reason why it did not serve.
    ///
    /// # Cancel safety
    /// A request that is dropped may still be executed.
    pub async fn run<T, F, Fut>(&self, timeout: Duration, request: F) -> Result<ServerAnswer<T>, BackendError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        self.run_as(false, timeout, request).await
    }

    /// [`Endpoints::run`] for a request with which nothing else is under way: if its caller polls it, it may go over the direct connection.
    pub(in crate::backend::etcd) async fn run_lone<T, F, Fut>(
        &self,
        timeout: Duration,
        request: F,
    ) -> Result<ServerAnswer<T>, BackendError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        self.run_as(true, timeout, request).await
    }

    async fn run_as<T, F, Fut>(&self, is_lone: bool, timeout: Duration, request: F) -> Result<ServerAnswer<T>, BackendError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = deadline_after(timeout);
        let mut failures = EarlierFailures::default();
        let unanswered = AtomicUsize::new(0);
        let (borrowed, counter) = (&request, &unanswered);
        let ask = |member| async move { send(&member, is_lone, deadline, borrowed, counter).await };
        let value = self.ask_around(deadline, &mut failures, ask).await;
        let may_run_again = unanswered.into_inner() > 0;
        match value {
            Some(value) => Ok(ServerAnswer { value, may_run_again }),
            None => Err(failures.into_error(may_run_again, self.members.len())),
        }
    }

    /// The best server for one stream. Another server may be best for the next stream.
    ///
    /// # Cancel safety
    /// Connecting goes on, for the next caller.
    pub async fn best(&self, timeout: Duration) -> Result<StreamServer, BackendError> {
        let deadline = deadline_after(timeout);
        let mut failures = EarlierFailures::default();
        let ask = |member: Arc<Member>| async move {
            let link = member.link(deadline).await?;
            Ok(StreamServer { client: link.logged_in.client.clone(), link, member })
        };
        self.ask_around(deadline, &mut failures, ask).await.ok_or_else(|| failures.into_error(false, self.members.len()))
    }

    /// Whether a lone request of a caller with this reader would go over a direct connection now.
    /// Needs a runtime for what it may begin.
    pub(in crate::backend::etcd) fn serves_callers(&self, reader: Reader) -> bool {
        self.ranked().first().is_some_and(|member| member.serves_callers(reader))
    }

    /// Notes that a stream fell silent, or could not be opened in time. Other servers are asked first until this one works again.
    pub fn suspect(&self, server: &StreamServer) {
        server.member.suspect_link(&server.link);
    }

    /// Notes the error of a stream, and returns what it means.
    pub fn failed(&self, server: &StreamServer, error: etcd_client::Error) -> BackendError {
        let failed = ServerFailure::of_request(&server.member.endpoint, error);
        server.member.note(&server.link, &failed);
        failed.error
    }

    /// Known faults of the servers' versions, and the servers' present failures, as far as this client has met them.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.cluster.warnings();
        warnings.extend(self.members.iter().filter_map(|member| member.trouble()));
        warnings
    }

    /// The cluster's id; `None` before the first connection.
    pub fn cluster_id(&self) -> Option<u64> {
        self.cluster.id()
    }

    /// The address without its password.
    pub fn shown(&self) -> &Arc<str> {
        &self.shown
    }

    /// Closes the connections once the requests in flight are answered. Later calls fail.
    pub fn close(&self) {
        for member in &self.members {
            member.close();
        }
    }

    /// Asks the servers in turn until one answers: the next one as soon as one fails, or takes more than its share of the time. Servers
    /// that were asked before may still answer. Asks all servers again where that may help.
    async fn ask_around<T, F, Fut>(&self, deadline: Instant, failures: &mut EarlierFailures, ask: F) -> Option<T>
    where
        F: Fn(Arc<Member>) -> Fut,
        Fut: Future<Output = Result<T, ServerFailure>>,
    {
        // Not `FuturesUnordered`, which wakes its own task when it has polled all: a caller that polls its request would leave it to the engine.
        let mut asked = Vec::new();
        let (mut pauses, mut patience_with_all) = (ASK_AGAIN_BACKOFF.pauses(), PATIENCE_WITH_ALL);
        loop {
            failures.is_hopeless = true;
            let ranked = self.ranked();
            for (place, member) in ranked.iter().enumerate() {
                let others = ranked.len() - place - 1;
                let (now, ask) = (Instant::now(), &ask);
                let patience =
                    if others > 0 { patience(deadline.saturating_duration_since(now), others) } else { patience_with_all };
                let target = member.clone();
                asked.push(Box::pin(async move { (ask(target.clone()).await, target) }));
                loop {
                    match timeout_at(now + patience, failures.next(&mut asked)).await {
                        Ok(Break(end)) => return end,
                        Ok(Continue(())) if others == 0 && !asked.is_empty() => {}
                        Ok(Continue(())) => break,
                        Err(_) => {
                            member.suspect(now);
                            break;
                        }
                    }
                }
            }
            if !asked.is_empty() {
                // A request on its way to a leader that is gone is never answered. The next leader may have been elected by now.
                patience_with_all *= 2;
                continue;
            }
            let pause = pauses.next();
            if failures.is_hopeless || Instant::now() + pause >= deadline {
                return None;
            }
            sleep(pause).await;
        }
    }

    /// The members, best first.
    fn ranked(&self) -> Vec<Arc<Member>> {
        let count = self.members.len();
        let mut ranked: Vec<_> = (0..count)
            .filter_map(|place| self.members.get((self.first + place) % count))
            .map(|member| (member.trouble_since(), member.clone()))
            .collect();
        // Servers in trouble come last, those whose trouble began most recently first among them.
        ranked.sort_by_key(|(since, _)| (since.is_some(), since.map(std::cmp::Reverse)));
        ranked.into_iter().map(|(_, member)| member).collect()
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoints").field(&self.shown).finish()
    }
}

/// How long a call waits for one server while it could ask others: a share of the time left.
fn patience(left: Duration, others: usize) -> Duration {
    let shares = u32::try_from(others + 2).unwrap_or(u32::MAX);
    (left / shares).min(LONGEST_PATIENCE)
}

/// Sends a request to one server, and once more if its login had expired, or the direct connection was lost.
async fn send<T, F, Fut>(
    member: &Arc<Member>,
    is_lone: bool,
    deadline: Instant,
    request: &F,
    unanswered: &AtomicUsize,
) -> Result<T, ServerFailure>
where
    F: Fn(Client) -> Fut,
    Fut: Future<Output = Result<T, etcd_client::Error>>,
{
    if is_lone
        && let Some(reader) = driver::reader()
        && let link = member.link(deadline).await?
        && let Some(lent) = direct::lend(&link.direct, reader)
    {
        match send_on(member, &link, Some(lent), deadline, request, unanswered).await {
            // Both say nothing of the link.
            Err(failed) if matches!(failed.scope, FailureScope::Server | FailureScope::Login) => {}
            answer => {
                if let Err(failed) = &answer {
                    member.note(&link, failed);
                }
                return answer;
            }
        }
    }
    match send_once(member, deadline, request, unanswered).await {
        Err(failed) if failed.scope == FailureScope::Login => {}
        other => return other,
    }
    match send_once(member, deadline, request, unanswered).await {
        Err(ServerFailure { scope: FailureScope::Login, error }) => {
            Err(ServerFailure { scope: FailureScope::Request, error: BackendError { failure: Failure::Refused, ..error } })
        }
        other => other,
    }
}

/// Sends a request over the link.
async fn send_once<T, F, Fut>(
    member: &Arc<Member>,
    deadline: Instant,
    request: &F,
    unanswered: &AtomicUsize,
) -> Result<T, ServerFailure>
where
    F: Fn(Client) -> Fut,
    Fut: Future<Output = Result<T, etcd_client::Error>>,
{
    let link = member.link(deadline).await?;
    let answer = send_on(member, &link, None, deadline, request, unanswered).await;
    if let Err(failed) = &answer {
        member.note(&link, failed);
    }
    answer
}

/// Sends a request over the link, or over the direct connection that it has lent.
async fn send_on<T, F, Fut>(
    member: &Arc<Member>,
    link: &Arc<ServerLink>,
    lent: Option<LentConnection>,
    deadline: Instant,
    request: &F,
    unanswered: &AtomicUsize,
) -> Result<T, ServerFailure>
where
    F: Fn(Client) -> Fut,
    Fut: Future<Output = Result<T, etcd_client::Error>>,
{
    let asked = Instant::now();
    unanswered.fetch_add(1, Ordering::Relaxed);
    let is_lent = lent.is_some();
    let answer = async {
        match lent {
            Some(lent) => {
                let asked = request(lent.client.clone());
                lent.ask(asked).await
            }
            None => request(link.logged_in.client.clone()).await,
        }
    };
    let failed = match timeout_at(deadline, answer).await {
        Ok(Ok(value)) => {
            unanswered.fetch_sub(1, Ordering::Relaxed);
            // An answer over the direct connection says nothing of the link.
            if !is_lent {
                member.answered(link);
            }
            return Ok(value);
        }
        Ok(Err(error)) => ServerFailure::of_request(&member.endpoint, error),
        Err(_) => {
            member.suspect(asked);
            return Err(member.failed(FailureScope::Silent, Failure::Unknown, NO_ANSWER));
        }
    };
    if failed.error.failure != Failure::Unknown {
        unanswered.fetch_sub(1, Ordering::Relaxed);
    }
    Err(failed)
}

/// The failures of a call so far, the latest of each server.
#[derive(Default)]
struct EarlierFailures {
    failures: Vec<(Arc<Member>, ServerFailure)>,
    /// Asking all servers again would not help.
    is_hopeless: bool,
}

impl EarlierFailures {
    /// Waits for one of the servers that were asked. Breaks with an answer, or with none when no server would do better.
    async fn next<T, F>(&mut self, asked: &mut Vec<Pin<Box<F>>>) -> ControlFlow<Option<T>>
    where
        F: Future<Output = (Result<T, ServerFailure>, Arc<Member>)>,
    {
        if asked.is_empty() {
            return Continue(());
        }
        let ((answer, member), place, _) = select_all(asked.iter_mut()).await;
        drop(asked.swap_remove(place));
        match answer {
            Ok(value) => Break(Some(value)),
            Err(failed) => self.note(member, failed),
        }
    }

    fn note<T>(&mut self, member: Arc<Member>, failed: ServerFailure) -> ControlFlow<Option<T>> {
        let scope = failed.scope;
        self.failures.retain(|(other, _)| !Arc::ptr_eq(other, &member));
        self.failures.push((member, failed));
        if matches!(scope, FailureScope::Leaderless | FailureScope::Moment) {
            self.is_hopeless = false;
        }
        if scope == FailureScope::Request { Break(None) } else { Continue(()) }
    }

    /// One error for the call. The request may have been executed if any server may have executed it.
    fn into_error(self, may_run_again: bool, members: usize) -> BackendError {
        let all = |failure| self.failures.iter().all(|(_, failed)| failed.error.failure == failure);
        let any_final = self.failures.iter().any(|(_, failed)| failed.scope == FailureScope::Request);
        let failure = match () {
            () if may_run_again => Failure::Unknown,
            () if any_final || all(Failure::Refused) => Failure::Refused,
            () => Failure::NotSent,
        };
        let texts: Vec<_> = self.failures.iter().map(|(_, failed)| &*failed.error.message).collect();
        let message = if texts.is_empty() { NO_ANSWER.to_owned() } else { texts.join("; ") };
        let cause = self.failures.last().and_then(|(_, failed)| failed.error.cause.clone());
        let is_definite = |failed: &ServerFailure| failed.error.definite || failed.error.failure == Failure::Refused;
        // Definite only if every server is: one dead server of three does not end a single try.
        let definite =
            !may_run_again && self.failures.len() == members && self.failures.iter().all(|(_, failed)| is_definite(failed));
        BackendError { failure, message: message.into(), definite, cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn requests_can_be_boxed_and_sent_between_threads() {
        let endpoints = Endpoints::new(EtcdAddress::parse("etcd://127.0.0.1:1").unwrap(), Duration::from_secs(1));
        let timeout = Duration::from_secs(1);
        let run = endpoints.run(timeout, |mut client| async move { client.get("k", None).await }).boxed();
        let best = endpoints.best(timeout).boxed();
        assert_eq!(run.await.unwrap_err().failure, Failure::NotSent);
        assert_eq!(best.await.unwrap_err().failure, Failure::NotSent);
    }
}
