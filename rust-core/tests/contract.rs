//! The sentences of the `# Behavior` sections of `Backend`, tested on every backend.
//!
//! A backend takes part with one line at the end of this file. Where backends differ, `capabilities()` says so, and nothing else does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dlock::backend::{
    Acquire, Acquired, Backend, Capabilities, Context, Grant, Handover, Hint, Inspection, Outcome, Release, Renew, Renewed,
    Waiting, Whom,
};
use dlock::clock::BootClock;
use dlock::error::Error;
use dlock::fencing::Token;
use dlock::holder::Note;
use dlock::owner::{OwnerId, SessionId};
use futures_util::FutureExt;
use tokio::sync::mpsc;
use url::Url;

/// Longer than any test runs.
const TTL: Duration = Duration::from_secs(30);

/// How long one request may take, and how long a test waits for what must come.
const TIMEOUT: Duration = Duration::from_secs(5);

type Open = fn(&Url, Context) -> Result<Arc<dyn Backend>, Error>;

/// A place where locks are kept, and how to get at it.
struct Fixture {
    url: Url,
    open: Open,
    /// The server or directory; it goes away with the fixture.
    _keep: Box<dyn Any + Send>,
}

impl Fixture {
    fn client(&self) -> Client {
        self.client_in("dlock")
    }

    fn client_in(&self, namespace: &str) -> Client {
        let (sender, hints) = mpsc::unbounded_channel();
        let session = SessionId::random().unwrap();
        let context = Context {
            session,
            clock: Arc::new(BootClock),
            namespace: namespace.into(),
            connect_timeout: TIMEOUT,
            op_timeout: TIMEOUT,
            on_hint: Arc::new(move |hint| drop(sender.send(hint))),
        };
        Client { backend: (self.open)(&self.url, context).unwrap(), session, hints, sequence: AtomicU64::new(1) }
    }
}

/// One session on a backend.
struct Client {
    backend: Arc<dyn Backend>,
    session: SessionId,
    hints: mpsc::UnboundedReceiver<Hint>,
    sequence: AtomicU64,
}

impl Client {
    fn can(&self) -> &Capabilities {
        self.backend.capabilities()
    }

    fn owner(&self) -> OwnerId {
        OwnerId { session: self.session, sequence: self.sequence.fetch_add(1, Ordering::Relaxed) }
    }

    async fn ask(&self, request: &Acquire) -> Acquired {
        self.backend.acquire(request.clone()).await.unwrap()
    }

    /// Takes a key that is free.
    async fn take(&self, key: &str) -> (OwnerId, Grant) {
        let owner = self.owner();
        (owner, granted(self.ask(&request(key, owner)).await))
    }

    /// Queues for a key that is held.
    async fn wait(&self, key: &str) -> OwnerId {
        let owner = self.owner();
        waiting(self.ask(&Acquire { enqueue: true, ..request(key, owner) }).await);
        owner
    }

    /// Asks again at each hint, and as the backend says, until granted.
    async fn granted_in_time(&mut self, key: &str, owner: OwnerId) -> Grant {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.ask(&Acquire { enqueue: true, ..request(key, owner) }).await {
                Acquired::Granted(grant) => return grant,
                Acquired::Waiting(waiting) => {
                    assert!(Instant::now() < deadline, "never granted: {waiting:?}");
                    let _ = tokio::time::timeout(waiting.look_again.min(TIMEOUT), self.hints.recv()).await;
                }
            }
        }
    }

    /// Waits for a hint about `key`; it must come by push, well before anybody would look by themselves.
    async fn hinted(&mut self, key: &str) {
        let about = |hint: &Hint| matches!(hint, Hint::All) || matches!(hint, Hint::Key(hinted, _) if &**hinted == key);
        let hint = async { while !about(&self.hints.recv().await.expect("the backend lives")) {} };
        tokio::time::timeout(TIMEOUT, hint).await.expect("a hint");
    }

    async fn release(&self, key: &str, owner: OwnerId) -> Outcome {
        self.hand_over(key, owner, None).await.outcome
    }

    async fn hand_over(&self, key: &str, owner: OwnerId, next: Option<Acquire>) -> Handover {
        self.backend.release(Release { key: key.into(), owner, next, timeout: TIMEOUT }).await.unwrap()
    }

    async fn renew(&self, batch: Vec<Renew>) -> Vec<Renewed> {
        self.backend.renew(batch, TIMEOUT).await.unwrap()
    }

    async fn leave(&self, key: &str, owner: OwnerId) {
        self.backend.leave(key.into(), owner, TIMEOUT).await.unwrap();
    }

    async fn inspect(&self, key: &str) -> Inspection {
        self.backend.inspect(key.into(), TIMEOUT).await.unwrap()
    }

    /// What the backend says is left of the lease on `key`.
    async fn remaining(&self, key: &str) -> Duration {
        self.inspect(key).await.holder.and_then(|holder| holder.remaining).expect("a holder with a TTL")
    }

    async fn force(&self, key: &str, whom: Whom) -> bool {
        self.backend.force_release(key.into(), whom, TIMEOUT).await.unwrap()
    }
}

fn request(key: &str, owner: OwnerId) -> Acquire {
    Acquire {
        key: key.into(),
        owner,
        ttl: TTL,
        fair: true,
        enqueue: false,
        note: Note { host: "here".into(), pid: std::process::id(), since: 1, metadata: Some("why | so".into()) }.encode().into(),
        floor: 0,
        timeout: TIMEOUT,
    }
}

fn renewal(key: &str, owner: OwnerId, ttl: Duration) -> Renew {
    Renew { key: key.into(), owner, ttl, exact: false }
}

fn granted(answer: Acquired) -> Grant {
    match answer {
        Acquired::Granted(grant) => grant,
        Acquired::Waiting(waiting) => panic!("not granted: {waiting:?}"),
    }
}

fn waiting(answer: Acquired) -> Waiting {
    match answer {
        Acquired::Waiting(waiting) => waiting,
        Acquired::Granted(grant) => panic!("granted: {grant:?}"),
    }
}

async fn r07_a_free_key_is_granted_with_a_greater_token(fixture: &Fixture) {
    let client = fixture.client();
    let mut last: Token = 0;
    for _ in 0..20 {
        let (owner, grant) = client.take("k").await;
        assert!(grant.token > last, "{} after {last}", grant.token);
        assert_eq!(grant.ttl, TTL);
        last = grant.token;
        assert_eq!(client.release("k", owner).await, Outcome::Released);
    }
}

async fn r07_a_token_is_greater_than_the_floor(fixture: &Fixture) {
    let client = fixture.client();
    let (owner, grant) = client.take("k").await;
    client.release("k", owner).await;
    let floor = grant.token + 3_600_000_000;
    let above = granted(client.ask(&Acquire { floor, ..request("k", client.owner()) }).await);
    assert!(above.token > floor);
}

async fn r04_the_same_owner_is_confirmed(fixture: &Fixture) {
    let client = fixture.client();
    let owner = client.owner();
    let short = Duration::from_secs(2);
    let first = granted(client.ask(&Acquire { ttl: short, ..request("k", owner) }).await);
    assert!(client.remaining("k").await <= short);
    let again = granted(client.ask(&request("k", owner)).await);
    assert_eq!((again.token, again.ttl), (first.token, TTL));
    assert!(client.remaining("k").await > short, "the full TTL from now");
    assert_eq!(client.release("k", owner).await, Outcome::Released);
    assert_eq!(client.inspect("k").await.holder, None, "confirmed twice, released once");
}

async fn a_failed_try_names_the_holder_and_leaves_nothing(fixture: &Fixture) {
    let (holder, other) = (fixture.client(), fixture.client());
    let (owner, grant) = holder.take("k").await;
    let seen = waiting(other.ask(&request("k", other.owner())).await);
    let seen = seen.holder.expect("the holder is known");
    assert_eq!((seen.owner, seen.token), (owner.to_string(), Some(grant.token)));
    assert!(holder.inspect("k").await.queue.is_empty());
    holder.release("k", owner).await;
    holder.take("k").await;
}

async fn r08_a_waiter_is_hinted_when_the_key_is_released(fixture: &Fixture) {
    let (holder, mut waiter) = (fixture.client(), fixture.client());
    let (owner, first) = holder.take("k").await;
    let waiting = waiter.wait("k").await;
    assert_eq!(holder.release("k", owner).await, Outcome::Released);
    waiter.hinted("k").await;
    let second = waiter.granted_in_time("k", waiting).await;
    assert!(second.token > first.token);
    assert_eq!(waiter.release("k", waiting).await, Outcome::Released);
}

async fn r08_a_waiter_of_the_same_session_is_hinted_too(fixture: &Fixture) {
    let mut client = fixture.client();
    let (owner, _) = client.take("k").await;
    let waiting = client.wait("k").await;
    client.release("k", owner).await;
    client.hinted("k").await;
    client.granted_in_time("k", waiting).await;
}

async fn r09_the_longest_waiting_goes_first(fixture: &Fixture) {
    let (holder, mut first, mut second) = (fixture.client(), fixture.client(), fixture.client());
    if !holder.can().fair {
        return;
    }
    let (owner, _) = holder.take("k").await;
    let (one, two) = (first.wait("k").await, second.wait("k").await);
    // Asking again keeps the place.
    waiting(first.ask(&Acquire { enqueue: true, ..request("k", one) }).await);
    let queue = holder.inspect("k").await.queue;
    assert_eq!(queue, [one.to_string(), two.to_string()]);
    holder.release("k", owner).await;
    waiting(holder.ask(&request("k", holder.owner())).await);
    waiting(second.ask(&Acquire { enqueue: true, ..request("k", two) }).await);
    first.granted_in_time("k", one).await;
    first.release("k", one).await;
    second.granted_in_time("k", two).await;
}

async fn renewals_are_answered_one_for_one(fixture: &Fixture) {
    let (client, other) = (fixture.client(), fixture.client());
    let (a, _) = client.take("a").await;
    let (c, _) = client.take("c").await;
    let stranger = other.owner();
    let batch = vec![renewal("a", a, TTL), renewal("b", a, TTL), renewal("c", stranger, TTL), renewal("c", c, TTL)];
    let answers = client.renew(batch).await;
    assert!(matches!(answers[0], Renewed::Extended(ttl) if ttl + Duration::from_secs(1) > TTL), "{answers:?}");
    assert_eq!(answers[1..3], [Renewed::Gone, Renewed::Gone]);
    assert!(matches!(answers[3], Renewed::Extended(_)));
    assert_eq!(client.inspect("b").await.holder, None, "a missing key is never set again");
}

async fn r06_a_released_lease_cannot_be_renewed(fixture: &Fixture) {
    let client = fixture.client();
    let (owner, _) = client.take("k").await;
    client.release("k", owner).await;
    assert_eq!(client.renew(vec![renewal("k", owner, TTL)]).await, [Renewed::Gone]);
    client.take("k").await;
}

async fn only_an_exact_renewal_shortens(fixture: &Fixture) {
    let client = fixture.client();
    let (owner, _) = client.take("k").await;
    let short = Duration::from_secs(3);
    assert!(matches!(client.renew(vec![renewal("k", owner, short)]).await[0], Renewed::Extended(left) if left >= short));
    assert!(client.remaining("k").await > short);
    let exact = Renew { exact: true, ..renewal("k", owner, short) };
    assert!(matches!(client.renew(vec![exact]).await[0], Renewed::Extended(left) if left <= short));
    assert!(client.remaining("k").await <= short);
}

async fn r05_only_the_holder_releases(fixture: &Fixture) {
    let (client, other) = (fixture.client(), fixture.client());
    assert_eq!(client.release("k", client.owner()).await, Outcome::NotHeld);
    let (owner, grant) = client.take("k").await;
    assert_eq!(other.release("k", other.owner()).await, Outcome::NotHeld);
    assert_eq!(client.release("k", client.owner()).await, Outcome::NotHeld);
    assert_eq!(client.inspect("k").await.holder.unwrap().token, Some(grant.token));
    assert_eq!(client.release("k", owner).await, Outcome::Released);
    assert_eq!(client.release("k", owner).await, Outcome::NotHeld);
}

async fn a_release_grants_the_next_where_nobody_waits(fixture: &Fixture) {
    let client = fixture.client();
    let (owner, first) = client.take("k").await;
    let next = Acquire { enqueue: true, ..request("k", client.owner()) };
    let handover = client.hand_over("k", owner, Some(next.clone())).await;
    assert_eq!(handover.outcome, Outcome::Released);
    assert!(granted(handover.next.expect("an answer to next")).token > first.token);
    assert_eq!(client.inspect("k").await.holder.unwrap().owner, next.owner.to_string());
}

async fn a_release_lets_those_who_wait_elsewhere_have_a_turn(fixture: &Fixture) {
    let (mut client, mut other) = (fixture.client(), fixture.client());
    let (owner, _) = client.take("k").await;
    let elsewhere = other.wait("k").await;
    let next = Acquire { enqueue: true, ..request("k", client.owner()) };
    let answer = client.hand_over("k", owner, Some(next.clone())).await.next.expect("an answer to next");
    if client.can().fair {
        waiting(answer);
        other.granted_in_time("k", elsewhere).await;
        other.release("k", elsewhere).await;
        client.granted_in_time("k", next.owner).await;
    } else {
        // In whatever order: both get it.
        client.granted_in_time("k", next.owner).await;
        client.release("k", next.owner).await;
        other.granted_in_time("k", elsewhere).await;
    }
}

async fn leaving_gives_up_a_place_or_a_grant(fixture: &Fixture) {
    let (client, other, mut third) = (fixture.client(), fixture.client(), fixture.client());
    client.leave("k", client.owner()).await;
    let (owner, _) = client.take("k").await;
    let left = other.wait("k").await;
    let stays = third.wait("k").await;
    other.leave("k", left).await;
    other.leave("k", left).await;
    client.leave("k", owner).await;
    third.granted_in_time("k", stays).await;
    third.release("k", stays).await;
    client.take("k").await;
}

async fn r04_a_dropped_request_can_be_given_back(fixture: &Fixture) {
    let client = fixture.client();
    client.take("warm").await;
    for _ in 0..20 {
        let owner = client.owner();
        let _ = client.backend.acquire(request("k", owner)).now_or_never();
        client.leave("k", owner).await;
        let (owner, _) = client.take("k").await;
        client.release("k", owner).await;
    }
}

async fn inspecting_shows_the_holder_and_disturbs_nobody(fixture: &Fixture) {
    let (client, other) = (fixture.client(), fixture.client());
    assert_eq!(client.inspect("k").await, Inspection { key: "k".into(), ..Inspection::default() });
    let (owner, grant) = client.take("k").await;
    let seen = other.inspect("k").await.holder.expect("held");
    assert_eq!((seen.owner, seen.token), (owner.to_string(), Some(grant.token)));
    assert_eq!(seen.note.unwrap().metadata.as_deref(), Some("why | so"));
    assert!(seen.remaining.unwrap() <= TTL);
    client.release("k", owner).await;
    let backend = Arc::clone(&other.backend);
    let probe = tokio::spawn(async move {
        loop {
            backend.inspect("k".into(), TIMEOUT).await.unwrap();
        }
    });
    for _ in 0..200 {
        let (owner, _) = client.take("k").await;
        assert_eq!(client.release("k", owner).await, Outcome::Released);
    }
    probe.abort();
}

async fn listing_shows_held_keys_with_a_prefix(fixture: &Fixture) {
    let (client, elsewhere) = (fixture.client(), fixture.client_in("elsewhere"));
    let long = format!("order:{}", "x".repeat(500));
    for key in ["order:1", "order:2", "Order:3", "other", &long] {
        client.take(key).await;
    }
    elsewhere.take("order:9").await;
    let (released, _) = client.take("order:4").await;
    client.release("order:4", released).await;
    let mut keys: Vec<_> = client.backend.list("order:".into(), TIMEOUT).await.unwrap().into_iter().map(|seen| seen.key).collect();
    keys.sort();
    assert_eq!(keys, ["order:1", "order:2", &long]);
    assert_eq!(client.backend.list("".into(), TIMEOUT).await.unwrap().len(), 5);
}

async fn a_forced_release_hits_the_named_holder_alone(fixture: &Fixture) {
    let (client, other) = (fixture.client(), fixture.client());
    assert!(!other.force("k", Whom::Token(1)).await);
    let (owner, grant) = client.take("k").await;
    assert!(!other.force("k", Whom::Token(grant.token + 1)).await);
    assert!(!other.force("k", Whom::Owner("nobody".into())).await);
    assert!(other.force("k", Whom::Token(grant.token)).await);
    let (successor, next) = other.take("k").await;
    assert!(next.token > grant.token);
    assert_eq!(client.renew(vec![renewal("k", owner, TTL)]).await, [Renewed::Gone]);
    assert_eq!(client.release("k", owner).await, Outcome::NotHeld);
    assert_eq!(other.inspect("k").await.holder.unwrap().token, Some(next.token), "the loser's release left it alone");
    assert!(client.force("k", Whom::Owner(successor.to_string())).await);
    assert_eq!(client.inspect("k").await.holder, None);
}

async fn r08_a_waiter_is_hinted_when_the_key_is_forced_free(fixture: &Fixture) {
    let (client, mut waiter) = (fixture.client(), fixture.client());
    let (_, grant) = client.take("k").await;
    let waiting = waiter.wait("k").await;
    assert!(client.force("k", Whom::Token(grant.token)).await);
    assert!(waiter.granted_in_time("k", waiting).await.token > grant.token);
}

async fn keys_and_namespaces_are_apart(fixture: &Fixture) {
    let (client, elsewhere) = (fixture.client(), fixture.client_in("elsewhere"));
    let longest = "é".repeat(256);
    let keys = ["k", "K", "k ", "k/1", "k:1", "{k}", "..", "%6b", &longest, &"x".repeat(512), &"x".repeat(511)];
    let mut owners = Vec::new();
    for key in keys {
        owners.push(client.take(key).await.0);
        elsewhere.take(key).await;
    }
    for (key, owner) in keys.iter().zip(owners) {
        waiting(client.ask(&request(key, client.owner())).await);
        assert_eq!(client.release(key, owner).await, Outcome::Released);
    }
}

async fn a_lease_that_is_not_renewed_ends(fixture: &Fixture) {
    let (client, mut other) = (fixture.client(), fixture.client());
    if client.can().crash_release {
        // Its locks end with the process, not with a TTL: the engine releases what it no longer vouches for.
        return;
    }
    let owner = client.owner();
    granted(client.ask(&Acquire { ttl: client.can().ttl_floor, ..request("k", owner) }).await);
    let waiting = other.wait("k").await;
    other.granted_in_time("k", waiting).await;
    assert_eq!(client.renew(vec![renewal("k", owner, TTL)]).await, [Renewed::Gone]);
}

async fn r14_a_closed_backend_fails_and_its_waiters_are_gone(fixture: &Fixture) {
    let (client, other) = (fixture.client(), fixture.client());
    let (owner, _) = client.take("k").await;
    let _waits = other.wait("k").await;
    other.backend.close().await;
    assert!(other.backend.acquire(request("k2", other.owner())).await.is_err());
    assert_eq!(client.release("k", owner).await, Outcome::Released);
}

async fn one_key_is_never_held_twice(fixture: &Fixture) {
    let inside = Arc::new(AtomicU64::new(0));
    let last = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let mut client = fixture.client();
        let (inside, last) = (Arc::clone(&inside), Arc::clone(&last));
        tasks.push(async move {
            for _ in 0..25 {
                let owner = client.owner();
                let grant = client.granted_in_time("k", owner).await;
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two holders at once");
                assert!(last.swap(grant.token, Ordering::SeqCst) < grant.token, "a token went back");
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                assert_eq!(client.release("k", owner).await, Outcome::Released);
            }
        });
    }
    for done in futures_util::future::join_all(tasks.into_iter().map(tokio::spawn)).await {
        done.unwrap();
    }
}

/// Runs every sentence on one backend, each on a fixture of its own.
macro_rules! contract {
    ($backend:ident, $start:path) => {
        contract!(
            $backend, $start;
            r07_a_free_key_is_granted_with_a_greater_token,
            r07_a_token_is_greater_than_the_floor,
            r04_the_same_owner_is_confirmed,
            a_failed_try_names_the_holder_and_leaves_nothing,
            r08_a_waiter_is_hinted_when_the_key_is_released,
            r08_a_waiter_of_the_same_session_is_hinted_too,
            r09_the_longest_waiting_goes_first,
            renewals_are_answered_one_for_one,
            r06_a_released_lease_cannot_be_renewed,
            only_an_exact_renewal_shortens,
            r05_only_the_holder_releases,
            a_release_grants_the_next_where_nobody_waits,
            a_release_lets_those_who_wait_elsewhere_have_a_turn,
            leaving_gives_up_a_place_or_a_grant,
            r04_a_dropped_request_can_be_given_back,
            inspecting_shows_the_holder_and_disturbs_nobody,
            listing_shows_held_keys_with_a_prefix,
            a_forced_release_hits_the_named_holder_alone,
            r08_a_waiter_is_hinted_when_the_key_is_forced_free,
            keys_and_namespaces_are_apart,
            a_lease_that_is_not_renewed_ends,
            r14_a_closed_backend_fails_and_its_waiters_are_gone,
            one_key_is_never_held_twice,
        );
    };
    ($backend:ident, $start:path; $($case:ident,)*) => {
        mod $backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case(&$start().await).await;
                }
            )*
        }
    };
}

/// A directory that is removed with its fixture.
struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[allow(clippy::unused_async, reason = "a fixture with a server awaits it")]
async fn local() -> Fixture {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("dlock-contract-{}-{number}", std::process::id()));
    std::fs::create_dir(&path).unwrap();
    let url = Url::parse(&format!("local://{}/locks", path.display())).unwrap();
    Fixture { url, open: dlock::backend::local::open, _keep: Box::new(Scratch(path)) }
}

contract!(local, super::local);

async fn redis() -> Fixture {
    let server = support::redis::Server::start().await;
    Fixture { url: Url::parse(&server.url()).unwrap(), open: dlock::backend::redis::open, _keep: Box::new(server) }
}

contract!(redis, super::redis);

#[allow(clippy::unused_async, reason = "a fixture with a server awaits it")]
async fn memory() -> Fixture {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let url = format!("memory:contract-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    Fixture { url: Url::parse(&url).unwrap(), open: dlock::backend::memory::open, _keep: Box::new(()) }
}

contract!(memory, super::memory);
