//! Which server to ask: the best one first, others when it does not answer, all within the time that the caller gives.
//!
//! There is one client for each endpoint, not one that balances over all of them: with one of three servers dead that one fails a third of
//! the calls. A server that fails or falls silent ranks behind the others until a new connection to it proves it well, so it costs a call
//! some time once. Nobody is asked before the first call, and an idle client sends nothing.

use std::fmt;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::Client;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout_at};

use super::address::Address;
use super::cluster::Cluster;
use super::failure::{Failed, Scope};
use super::link::{Link, Login};
use super::member::Member;
use crate::error::{BackendError, Failure};

/// The longest that one server is waited for while another one could be asked.
const LONGEST_PATIENCE: Duration = Duration::from_millis(500);

/// How long all are waited for before they are asked again; doubled with each further time.
const PATIENCE_WITH_ALL: Duration = Duration::from_secs(1);

/// The pause before a cluster that could not serve is asked again; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Longer timeouts are cut: the sum of an instant and a boundless duration overflows.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(86_400);

/// The servers of one cluster.
pub struct Endpoints {
    members: Vec<Arc<Member>>,
    /// The member that is asked first while all are well: another one in each client, to share the load.
    first: usize,
    cluster: Arc<Cluster>,
    shown: Arc<str>,
}

/// The answer to an idempotent request.
#[derive(Clone, Copy, Debug)]
pub struct Answer<T> {
    /// What was answered.
    pub value: T,
    /// The same request may still be executed again, late: another server got it and did not answer.
    pub ghosts: bool,
}

/// Where a stream is opened.
pub struct Via {
    /// The client to open it with.
    pub client: Client,
    link: Arc<Link>,
    member: Arc<Member>,
}

impl fmt::Debug for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Via").field(&self.server()).finish()
    }
}

impl Via {
    /// The server's address.
    pub fn server(&self) -> String {
        self.member.endpoint.to_string()
    }
}

impl Endpoints {
    /// Connects to nothing.
    pub fn new(address: Address, connect_timeout: Duration) -> Self {
        let shown = address.shown();
        let cluster = Arc::new(Cluster::default());
        let login = Arc::new(Login { credentials: address.credentials, connect_timeout });
        let member = |endpoint| Arc::new(Member::new(endpoint, login.clone(), cluster.clone()));
        let members: Vec<_> = address.endpoints.into_iter().map(member).collect();
        let first = getrandom::u32().map_or(0, |random| random as usize % members.len().max(1));
        Self { members, first, cluster, shown }
    }

    /// Sends an idempotent request: to the best server first; to the next best when that one fails or does not answer in its share of the
    /// time. The first answer counts. Goes on until `timeout` while the cluster is without a leader.
    ///
    /// # Errors
    /// Names each server that was asked, and why it did not serve.
    ///
    /// # Cancel safety
    /// A request that is dropped may still be executed.
    pub async fn run<T, F, Fut>(&self, timeout: Duration, request: F) -> Result<Answer<T>, BackendError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = deadline(timeout);
        let mut past = Past::default();
        let unanswered = AtomicUsize::new(0);
        let (borrowed, counter) = (&request, &unanswered);
        let ask = |member| async move { send(&member, deadline, borrowed, counter).await };
        let value = self.ask_around(deadline, &mut past, ask).await;
        let ghosts = unanswered.into_inner() > 0;
        match value {
            Some(value) => Ok(Answer { value, ghosts }),
            None => Err(past.into_error(ghosts, self.members.len())),
        }
    }

    /// The best server, to open a stream at: one stream, for the next one may be better off elsewhere.
    ///
    /// # Cancel safety
    /// Attempts to connect go on for the next caller.
    pub async fn best(&self, timeout: Duration) -> Result<Via, BackendError> {
        let deadline = deadline(timeout);
        let mut past = Past::default();
        let ask = |member: Arc<Member>| async move {
            let link = member.link(deadline).await?;
            Ok(Via { client: link.client.clone(), link, member })
        };
        self.ask_around(deadline, &mut past, ask).await.ok_or_else(|| past.into_error(false, self.members.len()))
    }

    /// Says that a stream fell silent, or could not be opened in time. Other servers are asked first until this one proves well.
    pub fn suspect(&self, via: &Via) {
        via.member.suspect_link(&via.link);
    }

    /// Takes note of the error of a stream, and tells what it means.
    pub fn failed(&self, via: &Via, error: etcd_client::Error) -> BackendError {
        let failed = Failed::of_request(&via.member.endpoint, error);
        via.member.note(&via.link, &failed);
        failed.error
    }

    /// What is wrong with the servers' versions and with their health, as far as this client has met them.
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

    /// Lets go of the connections once the requests in flight are answered; later calls fail.
    pub fn close(&self) {
        for member in &self.members {
            member.close();
        }
    }

    /// Asks the servers in turn until one answers: the next one as soon as one fails, or takes more than its share of the time. Those asked
    /// before may still answer. Asks all again when that may help.
    async fn ask_around<T, F, Fut>(&self, deadline: Instant, past: &mut Past, ask: F) -> Option<T>
    where
        F: Fn(Arc<Member>) -> Fut,
        Fut: Future<Output = Result<T, Failed>>,
    {
        let mut asked = FuturesUnordered::new();
        let (mut pause, mut patience_with_all) = (FIRST_PAUSE, PATIENCE_WITH_ALL);
        loop {
            past.hopeless = true;
            let ranked = self.ranked();
            for (place, member) in ranked.iter().enumerate() {
                let others = ranked.len() - place - 1;
                let (now, ask) = (Instant::now(), &ask);
                let patience =
                    if others > 0 { patience(deadline.saturating_duration_since(now), others) } else { patience_with_all };
                let target = member.clone();
                asked.push(async move { (ask(target.clone()).await, target) });
                loop {
                    match timeout_at(now + patience, past.next(&mut asked)).await {
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
                // What is on its way to a leader that is gone is never answered. The one after it may have been elected by now.
                patience_with_all *= 2;
                continue;
            }
            if past.hopeless || Instant::now() + pause >= deadline {
                return None;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The members, best first.
    fn ranked(&self) -> Vec<Arc<Member>> {
        let count = self.members.len();
        let mut ranked: Vec<_> = (0..count)
            .filter_map(|place| self.members.get((self.first + place) % count))
            .map(|member| (member.trouble_since(), member.clone()))
            .collect();
        // Those in trouble last, and of these the ones that were well until recently first.
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

fn deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(LONGEST_TIMEOUT)
}

/// How long to wait for one server while others could be asked: a share of the time left.
fn patience(left: Duration, others: usize) -> Duration {
    let shares = u32::try_from(others + 2).unwrap_or(u32::MAX);
    (left / shares).min(LONGEST_PATIENCE)
}

/// Sends a request to one server; once more if only the login was too old.
async fn send<T, F, Fut>(member: &Arc<Member>, deadline: Instant, request: &F, unanswered: &AtomicUsize) -> Result<T, Failed>
where
    F: Fn(Client) -> Fut,
    Fut: Future<Output = Result<T, etcd_client::Error>>,
{
    match send_once(member, deadline, request, unanswered).await {
        Err(failed) if failed.scope == Scope::Login => {}
        other => return other,
    }
    match send_once(member, deadline, request, unanswered).await {
        Err(Failed { scope: Scope::Login, error }) => {
            Err(Failed { scope: Scope::Request, error: BackendError { failure: Failure::Refused, ..error } })
        }
        other => other,
    }
}

async fn send_once<T, F, Fut>(member: &Arc<Member>, deadline: Instant, request: &F, unanswered: &AtomicUsize) -> Result<T, Failed>
where
    F: Fn(Client) -> Fut,
    Fut: Future<Output = Result<T, etcd_client::Error>>,
{
    let link = member.link(deadline).await?;
    let asked = Instant::now();
    unanswered.fetch_add(1, Ordering::Relaxed);
    let failed = match timeout_at(deadline, request(link.client.clone())).await {
        Ok(Ok(value)) => {
            unanswered.fetch_sub(1, Ordering::Relaxed);
            member.answered(&link);
            return Ok(value);
        }
        Ok(Err(error)) => Failed::of_request(&member.endpoint, error),
        Err(_) => {
            member.suspect(asked);
            return Err(member.failed(Scope::Silent, Failure::Unknown, "no answer in time"));
        }
    };
    if failed.error.failure != Failure::Unknown {
        unanswered.fetch_sub(1, Ordering::Relaxed);
    }
    member.note(&link, &failed);
    Err(failed)
}

/// What went wrong so far, the latest of each server.
#[derive(Default)]
struct Past {
    failures: Vec<(Arc<Member>, Failed)>,
    /// Asking again would not help.
    hopeless: bool,
}

impl Past {
    /// Waits for one of those asked. Breaks with an answer, or with none when no server would do better.
    async fn next<T, F>(&mut self, asked: &mut FuturesUnordered<F>) -> ControlFlow<Option<T>>
    where
        F: Future<Output = (Result<T, Failed>, Arc<Member>)>,
    {
        match asked.next().await {
            Some((Ok(value), _)) => Break(Some(value)),
            Some((Err(failed), member)) => self.note(member, failed),
            None => Continue(()),
        }
    }

    fn note<T>(&mut self, member: Arc<Member>, failed: Failed) -> ControlFlow<Option<T>> {
        let scope = failed.scope;
        self.failures.retain(|(other, _)| !Arc::ptr_eq(other, &member));
        self.failures.push((member, failed));
        if matches!(scope, Scope::Leaderless | Scope::Moment) {
            self.hopeless = false;
        }
        if scope == Scope::Request { Break(None) } else { Continue(()) }
    }

    /// One error for all. It may have been executed if any of them may have.
    fn into_error(self, ghosts: bool, members: usize) -> BackendError {
        let all = |failure| self.failures.iter().all(|(_, failed)| failed.error.failure == failure);
        let any_final = self.failures.iter().any(|(_, failed)| failed.scope == Scope::Request);
        let failure = match () {
            () if ghosts => Failure::Unknown,
            () if any_final || all(Failure::Refused) => Failure::Refused,
            () => Failure::NotSent,
        };
        let texts: Vec<_> = self.failures.iter().map(|(_, failed)| &*failed.error.message).collect();
        let message = if texts.is_empty() { "no answer in time".to_owned() } else { texts.join("; ") };
        let cause = self.failures.last().and_then(|(_, failed)| failed.error.cause.clone());
        let clear = |failed: &Failed| failed.error.definite || failed.error.failure == Failure::Refused;
        // Said by each of them: one dead server of three is no reason to end.
        let definite = !ghosts && self.failures.len() == members && self.failures.iter().all(|(_, failed)| clear(failed));
        BackendError { failure, message: message.into(), definite, cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn requests_can_be_boxed_and_sent_between_threads() {
        let endpoints = Endpoints::new(Address::parse("etcd://127.0.0.1:1").unwrap(), Duration::from_secs(1));
        let timeout = Duration::from_secs(1);
        let run = endpoints.run(timeout, |mut client| async move { client.get("k", None).await }).boxed();
        let best = endpoints.best(timeout).boxed();
        assert_eq!(run.await.unwrap_err().failure, Failure::NotSent);
        assert_eq!(best.await.unwrap_err().failure, Failure::NotSent);
    }
}
