//! The contract that every backend keeps.
//!
//! A backend is where the truth about locks is stored. It knows keys, owners and places in a queue; it knows nothing of sessions' leases,
//! local waiters or languages. The doc comments here *are* the contract, and the behaviour suite tests them sentence by sentence.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};

use crate::clock::Clock;
use crate::error::BackendError;
use crate::fencing::Token;
use crate::holder::Holder;
use crate::owner::{OwnerId, SessionId};

/// What a backend returns, once.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, BackendError>>;

/// Where the truth about locks is kept.
///
/// # Behavior
/// - Every request carries a `timeout`; a backend answers within it, connecting included, or fails with [`Failure::Unknown`]
///   (or [`Failure::NotSent`], when nothing can have been executed).
/// - A request that is dropped before it is answered may or may not be executed; it is never executed later than
///   [`Capabilities::late_window`] after it was made. One that was answered is not executed again.
/// - No method blocks its thread on anything but a short local system call.
///
/// [`Failure::Unknown`]: crate::error::Failure::Unknown
/// [`Failure::NotSent`]: crate::error::Failure::NotSent
pub trait Backend: Send + Sync + fmt::Debug + 'static {
    /// What this backend can and cannot do. Callers ask this, never the backend's name.
    fn capabilities(&self) -> &Capabilities;

    /// The server's address without its password, for errors and logs.
    fn server(&self) -> &Arc<str>;

    /// What is wrong with the servers' versions, or with their health, as far as it is known; nothing in most backends.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Connects if need be and makes one round trip.
    fn ping(&self, timeout: Duration) -> Reply<'_, ()>;

    /// Whether a key can be taken and given back here, now.
    ///
    /// # Behavior
    /// - Fails with what would keep a client from taking a key of its namespace, waiting for it or giving it back: missing rights, a limit that is
    ///   reached, a server that only reads, a directory that cannot be written.
    /// - Disturbs nobody: no key is held, no token moves, no waiter is woken, nothing stays behind.
    fn probe(&self, timeout: Duration) -> Reply<'_, ()>;

    /// Asks for a key.
    ///
    /// # Behavior
    /// - Free and nobody waits: granted, with a token greater than every token granted for the key before and greater than `floor`.
    ///   Where that cannot be, [`Capabilities::counts_tokens`], it is [`Failure::Refused`] and nothing remains.
    /// - A stored last token or a `floor` that is no integer from 1 to [`MAX_TOKEN`](crate::fencing::MAX_TOKEN) was spoilt, and is none. Where
    ///   no token is left that rises, it is [`Failure::Refused`] as well.
    /// - Free and somebody waits: granted only with `fair: false`, or to the first in the queue.
    /// - Held by the same owner: confirmed. The same token, the full TTL from now. Where requests may be executed late, what the lease has
    ///   beyond that stays.
    /// - A grant's TTL may have begun before the request, by a twentieth of it at most: [`Grant::age`].
    /// - Held by somebody else: with `enqueue`, the owner gets a place at the end of the queue (or keeps the one it has) and a
    ///   [`Hint`] when it is worth asking again; without, nothing remains.
    fn acquire(&self, request: Acquire) -> Reply<'_, Acquired>;

    /// Extends leases, in one request where the backend can.
    ///
    /// # Behavior
    /// - Answers one for one, in order. An error speaks for the whole batch.
    /// - A lease is extended only while its owner holds the key; a missing key is never set again.
    /// - A plain renewal never shortens what the backend has; an `exact` one sets the TTL.
    fn renew(&self, batch: Vec<Renew>, timeout: Duration) -> Reply<'_, Vec<Renewed>>;

    /// Gives a key back and, in the same step, asks for it on behalf of the session's next local waiter.
    ///
    /// # Behavior
    /// - Held by this owner: it goes to the first live waiter, who gets a hint, or becomes free.
    /// - Held by anybody else, or free: [`Outcome::NotHeld`], and nothing changes for them.
    /// - `next` takes a place at the end of the queue; where nobody was waiting it is granted at once.
    fn release(&self, release: Release) -> Reply<'_, Handover>;

    /// Gives up whatever this owner has: its place in the queue, or a grant that raced in.
    ///
    /// # Behavior
    /// Idempotent; succeeds when the owner has nothing.
    fn leave(&self, key: Arc<str>, owner: OwnerId, timeout: Duration) -> Reply<'_, ()>;

    /// Says that these waiters are alive and asks when each should look again, in one request.
    ///
    /// # Behavior
    /// - Called every [`Capabilities::heartbeat`]; backends without one are never asked.
    /// - Answers one for one, in order: the time after which an acquire may succeed, zero for now.
    fn keep_waiting(&self, waiters: Vec<Waiter>, timeout: Duration) -> Reply<'_, Vec<Duration>> {
        let _ = timeout;
        Box::pin(ready(Ok(vec![Duration::ZERO; waiters.len()])))
    }

    /// Reads who holds a key and who waits for it, without disturbing either.
    fn inspect(&self, key: Arc<str>, timeout: Duration) -> Reply<'_, Inspection>;

    /// Lists the held keys that begin with `prefix`.
    fn list(&self, prefix: Arc<str>, timeout: Duration) -> Reply<'_, Vec<Inspection>>;

    /// Takes a key away from the holder named by `whom`; its holder finds out at its next renewal. True if it was held by that holder.
    fn force_release(&self, key: Arc<str>, whom: Whom, timeout: Duration) -> Reply<'_, bool>;

    /// Copies of the open files whose lock is what holds the key, for a child process that is to share it.
    ///
    /// # Behavior
    /// - While any copy is open, in whatever process, the end of this process does not free the key; a release does.
    /// - The copies are close-on-exec, and the caller's own: a fork past the caller keeps them open.
    /// - Empty for an owner that does not hold the key, and where no open file holds keys.
    fn lock_files(&self, key: &Arc<str>, owner: OwnerId) -> Result<Vec<OwnedFd>, BackendError> {
        let _ = (key, owner);
        Ok(Vec::new())
    }

    /// Lets go of connections, watches and files. Later calls fail.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// What a backend can do, and the numbers the engine works with.
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
    /// What is taken off a TTL, beside 1 % for the clocks' rates, before the engine vouches for it.
    pub margin: Duration,
    /// How often [`Backend::keep_waiting`] wants to hear of each waiter; `None` if never.
    pub heartbeat: Option<Duration>,
    /// How long after a request was made it may still be executed, when its answer is missing.
    pub late_window: Duration,
    /// How many leases go into one [`Backend::renew`].
    pub batch: usize,
    /// Keys that begin with this are the backend's own; `None` if there are none.
    pub reserved: Option<&'static str>,
    /// Tokens are the store's own count, which cannot be raised: a grant below the asker's floor is refused instead.
    pub counts_tokens: bool,
}

/// A request for a key.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// The key.
    pub key: Arc<str>,
    /// The attempt that asks, the same through all of its retries.
    pub owner: OwnerId,
    /// How long the grant lasts unless it is renewed.
    pub ttl: Duration,
    /// False: may take a free key past those who wait.
    pub fair: bool,
    /// False: try once, and leave nothing behind.
    pub enqueue: bool,
    /// The encoded [`Note`](crate::holder::Note) that others see.
    pub note: Arc<str>,
    /// False: the grant ends with its TTL, whatever becomes of this process.
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
    /// How long before the request was made this TTL began.
    pub age: Duration,
}

/// A key is held by somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Ask again after this long even without a hint.
    pub look_again: Duration,
    /// How many are ahead in the queue, where there is one.
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

/// What became of a lease to extend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// It lives at least this long from the moment the request was sent.
    Extended(Duration),
    /// The owner no longer holds the key.
    Gone,
}

/// A key to give back.
#[derive(Clone, Debug)]
pub struct Release {
    /// The key.
    pub key: Arc<str>,
    /// The owner that gives it back.
    pub owner: OwnerId,
    /// The same session's next waiter.
    pub next: Option<Acquire>,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// What became of a release, and of the next waiter that went with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// What became of the release.
    pub outcome: Outcome,
    /// The answer to `next`; `None` if there was none to ask for, or if it was certainly not asked: then it asks for itself.
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
    /// The places in the backend's queue, first in line first: one for each client that waits, however many of its callers do. Empty
    /// where the backend keeps no queue, as on `local:`.
    pub queue: Vec<String>,
    /// How many callers of the client that was asked stand in its own line for the key, on every backend. Other clients' callers nobody
    /// can count.
    pub waiting_here: usize,
    /// Which cluster's count the holder's token is, where it is one: tokens of two clusters cannot be compared.
    pub cluster: Option<String>,
}

/// A backend's word that a waiter should ask again. Never a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Look at this key. The owner is the one the hint is meant for, where the backend knows.
    Key(Arc<str>, Option<OwnerId>),
    /// Hints may have been missed, after a reconnect for instance: look at every key.
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
    /// Takes hints; cheap, and never blocks.
    pub on_hint: Arc<dyn Fn(Hint) + Send + Sync>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("session", &self.session).field("namespace", &self.namespace).finish_non_exhaustive()
    }
}
