//! The contract that every backend keeps.
//!
//! A backend stores the truth about locks. It knows keys, owners and queues; it knows nothing of leases in a session, local waiters
//! or languages. The doc comments here *are* the contract, and the behaviour suite tests them sentence by sentence.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};

use crate::clock::Clock;
use crate::driver::Reader;
use crate::error::BackendError;
use crate::fencing::Token;
use crate::holder::Holder;
use crate::owner::{OwnerId, SessionId};

/// The answer of a backend, given once.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, BackendError>>;

/// Where the truth about locks is kept.
///
/// # Behavior
/// - Every request carries a `timeout`. A backend answers within it, connecting included, or fails with [`Failure::Unknown`] (or
///   with [`Failure::NotSent`], if nothing can have been executed).
/// - A request that is dropped before it is answered may or may not be executed, and never later than [`Capabilities::late_window`]
///   after it was made. A request that was answered is not executed again.
/// - No method blocks its thread on anything but a short local system call.
///
/// [`Failure::Unknown`]: crate::error::Failure::Unknown
/// [`Failure::NotSent`]: crate::error::Failure::NotSent
pub trait Backend: Send + Sync + fmt::Debug + 'static {
    /// What this backend can and cannot do. Callers ask this, never the backend's name.
    fn capabilities(&self) -> &Capabilities;

    /// The server's address without its password, for errors and logs.
    fn server(&self) -> &Arc<str>;

    /// What is wrong with the servers' versions or health, as far as the backend knows; nothing on most backends.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether a request that need not wait for a key is answered when it is polled for the first time, on whichever thread.
    fn answers_at_once(&self) -> bool {
        false
    }

    /// Whether a caller that can wait for sockets in the way of `reader` should poll an acquire or a release itself, now: the answer comes on
    /// a socket that the poll names ([`driver::wait_for`](crate::driver::wait_for)).
    ///
    /// # Behavior
    /// Nothing depends on it: a request whose caller polls it once is served like any other.
    fn serves_callers(&self, reader: Reader) -> bool {
        let _ = reader;
        false
    }

    /// Makes one round trip, connecting if need be.
    fn ping(&self, timeout: Duration) -> Reply<'_, ()>;

    /// Whether a key can be acquired and released here, now.
    ///
    /// # Behavior
    /// - Fails with whatever would keep a client from acquiring a key of its namespace, waiting for it or releasing it: missing
    ///   rights, a limit that is reached, a server that only reads, a directory that cannot be written.
    /// - Disturbs nobody: no key is held, no token moves, no waiter is woken, nothing stays behind.
    fn probe(&self, timeout: Duration) -> Reply<'_, ()>;

    /// Asks for a key.
    ///
    /// # Behavior
    /// - Free, and nobody waits: granted, with a token greater than `floor` and than every token granted for the key before. If
    ///   that is impossible ([`Capabilities::counts_tokens`]), the request is [`Failure::Refused`](crate::error::Failure::Refused) and nothing remains.
    /// - A stored last token or a `floor` that is no integer from 1 to [`MAX_TOKEN`](crate::fencing::MAX_TOKEN) is damaged and
    ///   ignored. If no greater token is left, the request is [`Failure::Refused`](crate::error::Failure::Refused) as well.
    /// - Free, and somebody waits: granted only with `fair: false`, or to the first in the queue.
    /// - Held by the same owner: confirmed, with the same token and the full TTL from now. Where requests may be executed late, a
    ///   lease that lasts longer is not shortened.
    /// - The TTL of a grant may have begun before the request, by a twentieth of it at most: [`Grant::age`].
    /// - Held by somebody else: with `enqueue`, the owner joins the end of the queue (or keeps its position) and gets a [`Hint`]
    ///   when it is worth asking again. Without `enqueue`, nothing remains.
    fn acquire(&self, request: Acquire) -> Reply<'_, Acquired>;

    /// Extends leases, in one request where the backend can.
    ///
    /// # Behavior
    /// - Answers one for one, in order. An error stands for the whole batch.
    /// - A lease is extended only while its owner holds the key; a missing key is never set again.
    /// - A plain renewal never shortens a lease; an `exact` one sets the TTL.
    fn renew(&self, batch: Vec<Renew>, timeout: Duration) -> Reply<'_, Vec<Renewed>>;

    /// Releases a key and, in the same step, acquires it on behalf of the session's next local waiter.
    ///
    /// # Behavior
    /// - Held by this owner: the key goes to the first live waiter, which gets a hint, or becomes free.
    /// - Held by another owner, or free: [`Outcome::NotHeld`], and nothing changes for anybody.
    /// - `next` joins the end of the queue; if nobody was waiting, it is granted at once.
    fn release(&self, release: Release) -> Reply<'_, Handover>;

    /// Withdraws an owner: its queue position, or a grant that it got meanwhile.
    ///
    /// # Behavior
    /// Idempotent; succeeds when the owner has nothing.
    fn leave(&self, key: Arc<str>, owner: OwnerId, timeout: Duration) -> Reply<'_, ()>;

    /// Sends the heartbeats of these waiters and asks when each should ask again, in one request.
    ///
    /// # Behavior
    /// - Called every [`Capabilities::heartbeat`]. A backend without one is never asked, and need not implement this.
    /// - Answers one for one, in order: the time after which an acquire may succeed; zero for now.
    fn keep_waiting(&self, waiters: Vec<Waiter>, timeout: Duration) -> Reply<'_, Vec<Duration>> {
        let _ = timeout;
        Box::pin(ready(Ok(vec![Duration::ZERO; waiters.len()])))
    }

    /// Reads who holds a key and who waits for it, without disturbing either.
    fn inspect(&self, key: Arc<str>, timeout: Duration) -> Reply<'_, Inspection>;

    /// Lists the held keys that begin with `prefix`.
    fn list(&self, prefix: Arc<str>, timeout: Duration) -> Reply<'_, Vec<Inspection>>;

    /// Takes a key away from the holder named by `whom`, who finds out at the next renewal. True if that holder had it.
    fn force_release(&self, key: Arc<str>, whom: Whom, timeout: Duration) -> Reply<'_, bool>;

    /// Informs the backend that the engine which ran its tasks has stopped; other sessions go on with another engine.
    ///
    /// # Behavior
    /// - What a process shares between its sessions must not depend on the dead tasks any more.
    fn engine_stopped(&self) {}

    /// Copies of the open files whose locks hold the key, for a child process that is to share it.
    ///
    /// # Behavior
    /// - While any copy is open, in whatever process, the end of this process does not free the key. A release does.
    /// - The copies are close-on-exec and belong to the caller: a fork that this library does not know of keeps them open.
    /// - Empty for an owner that does not hold the key, and on backends where no open file holds keys.
    fn lock_files(&self, key: &Arc<str>, owner: OwnerId) -> Result<Vec<OwnedFd>, BackendError> {
        let _ = (key, owner);
        Ok(Vec::new())
    }

    /// Closes connections, watches and files. Later calls fail.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// What a backend can do, and the numbers that the engine works with.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// The scheme of its URLs.
    pub scheme: &'static str,
    /// Grants in order of arrival across processes.
    pub fair: bool,
    /// The end of a holder's process frees its keys at once, whatever the TTL.
    pub crash_release: bool,
    /// The shortest TTL.
    pub ttl_floor: Duration,
    /// Taken off a TTL, in addition to 1 % for the clocks' rates, before the engine vouches for a lease.
    pub margin: Duration,
    /// How often [`Backend::keep_waiting`] is called for each waiter; `None` for never.
    pub heartbeat: Option<Duration>,
    /// For how long after it was made an unanswered request may still be executed.
    pub late_window: Duration,
    /// How many leases go into one [`Backend::renew`].
    pub batch: usize,
    /// Keys that begin with this belong to the backend; `None` if there are none.
    pub reserved: Option<&'static str>,
    /// Tokens are the store's own count, which cannot be raised: a grant at or below the client's floor is refused instead.
    pub counts_tokens: bool,
}

/// A request for a key.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// The key.
    pub key: Arc<str>,
    /// The owner id of the attempt, the same for all of its requests.
    pub owner: OwnerId,
    /// How long the grant lasts unless it is renewed.
    pub ttl: Duration,
    /// False: may take a free key before those who wait.
    pub fair: bool,
    /// False: asks once and leaves nothing behind.
    pub enqueue: bool,
    /// The encoded [`Note`](crate::holder::Note) of the holder, for others to read.
    pub note: Arc<str>,
    /// False: the grant ends with its TTL, also if this process lives on.
    pub renew: bool,
    /// The highest token this client has seen.
    pub floor: Token,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// The answer to a request for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// The owner holds the key.
    Granted(Grant),
    /// Somebody else holds it.
    Waiting(Waiting),
}

/// A key was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The fencing token.
    pub token: Token,
    /// The TTL that the backend confirmed.
    pub ttl: Duration,
    /// How long before the request this TTL began.
    pub age: Duration,
}

/// A key is held by somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Ask again after this long even without a hint.
    pub look_again: Duration,
    /// How many waiters are ahead in the queue, if there is one.
    pub position: Option<u64>,
    /// Who holds the key.
    pub holder: Option<Holder>,
}

/// A lease to extend.
#[derive(Clone, Debug)]
pub struct Renew {
    /// The key.
    pub key: Arc<str>,
    /// Its owner.
    pub owner: OwnerId,
    /// The life to give it, from now.
    pub ttl: Duration,
    /// True: set this TTL even if it shortens the lease.
    pub exact: bool,
}

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// It lives at least this long from the moment the request was sent.
    Extended(Duration),
    /// The owner no longer holds the key.
    Gone,
}

/// A key to release.
#[derive(Clone, Debug)]
pub struct Release {
    /// The key.
    pub key: Arc<str>,
    /// The owner that releases it.
    pub owner: OwnerId,
    /// The next local waiter of the same session.
    pub next: Option<Acquire>,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// The answer to a release, and to the next waiter's request that went with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The answer to the release.
    pub outcome: Outcome,
    /// The answer to `next`; `None` without one, or if it was certainly not asked: then it asks for itself.
    pub next: Option<Acquired>,
}

/// A definite answer to a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The owner held the key and no longer does.
    Released,
    /// The owner did not hold the key.
    NotHeld,
}

/// A waiter in a backend's queue.
#[derive(Clone, Debug)]
pub struct Waiter {
    /// The key waited for.
    pub key: Arc<str>,
    /// The waiting attempt.
    pub owner: OwnerId,
}

/// Whom to take a key away from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The holder with this token.
    Token(Token),
    /// The holder with this owner id, in its text form.
    Owner(String),
}

/// What can be read about a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// The key.
    pub key: String,
    /// Who holds it; `None` if it is free.
    pub holder: Option<Holder>,
    /// The backend's queue, first in line first: one entry for each client that waits, however many of its callers do. Empty on
    /// backends that keep no queue, such as `local:`.
    pub queue: Vec<String>,
    /// How many callers of the client that was asked stand in its local line for the key, on every backend. Nobody can count the
    /// callers of other clients.
    pub waiting_here: usize,
    /// The cluster whose count the holder's token is, if it is one: tokens of two clusters cannot be compared.
    pub cluster: Option<String>,
}

/// A backend's notice that a waiter should ask again. It is never a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Ask for this key again. The owner is the waiter that the hint is meant for, if the backend knows.
    Key(Arc<str>, Option<OwnerId>),
    /// Hints may have been missed, for instance during a reconnect: ask for every key again.
    All,
}

/// What a backend is opened with.
#[derive(Clone)]
pub struct Context {
    /// The session that opens it.
    pub session: SessionId,
    /// The engine's clock.
    pub clock: Arc<dyn Clock>,
    /// Put before every key.
    pub namespace: Arc<str>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long one request may take.
    pub op_timeout: Duration,
    /// Receives hints; cheap, and never blocks.
    pub on_hint: Arc<dyn Fn(Hint) + Send + Sync>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("session", &self.session).field("namespace", &self.namespace).finish_non_exhaustive()
    }
}
