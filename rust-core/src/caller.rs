//! Callers: the task, thread or body that asks for a key, and the callers that started it.
//!
//! A client that is being closed goes on serving callers that hold one of its leases, and a caller that waits for a key which it
//! holds itself is warned. Bindings name their callers ([`crate::Lock::acquire_for`]); what follows is decided here, in the core.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ThreadId};

use tokio::runtime;
use tokio::task;

/// How many ancestors of a caller are remembered. Tasks may start each other for ever, and the nearest ancestors are those that
/// matter.
const ANCESTORS: usize = 32;

static NEXT: AtomicU64 = AtomicU64::new(1);

tokio::task_local! {
    static SCOPE: Caller;
}

/// The caller that asks for a key: a task, a thread or a body of [`Lock::with`](crate::Lock::with), and the callers that started
/// it.
///
/// While [`Client::close`](crate::Client::close) drains, a caller that holds a lease of the client may acquire more, and so may the
/// callers that it started. What a body awaits belongs to the body. A task that it spawns is a caller of its own, unless it is
/// given its parent:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> dlock::Result<()> {
/// # let client = dlock::Client::new("memory:")?;
/// client.lock("a").with(|_| async {
///     let second = client.lock("b");
///     let helper = dlock::Caller::current().scope(async move { second.acquire().await });
///     tokio::spawn(helper).await.unwrap()
/// }).await??;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Caller(Option<KnownCaller>);

#[derive(Clone)]
struct KnownCaller {
    id: CallerId,
    /// The callers that started it, the nearest first.
    ancestors: Option<Arc<[CallerId]>>,
    /// How many of the nearest ancestors only wait for it: the callers whose body it is.
    around: usize,
}

/// The identity of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CallerId {
    /// A task of tokio.
    Task(task::Id),
    /// A thread that waits in `block_on`.
    Thread(ThreadId),
    /// A scope, or a caller of a binding.
    Made(u64),
    /// Code outside of any body, where only bodies can be told apart.
    Nobody,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("Caller(unknown)"),
            Some(known) => write!(f, "Caller({:?}, started by {:?})", known.id, self.ancestors()),
        }
    }
}

impl Caller {
    /// The innermost scope that is running: a body of [`Lock::with`](crate::Lock::with), or a future given to [`Caller::scope`].
    /// Outside of both, the task of tokio, or the thread that waits in `block_on`. On other runtimes the caller is unknown.
    pub fn current() -> Self {
        if let Ok(scope) = SCOPE.try_with(Clone::clone) {
            return scope;
        }
        let known = task::try_id().map(CallerId::Task);
        let known = known.or_else(|| runtime::Handle::try_current().ok().map(|_| CallerId::Thread(thread::current().id())));
        Self(known.map(|id| KnownCaller { id, ancestors: None, around: 0 }))
    }

    /// A caller of which nothing is known. While a client drains, whatever it asks for counts as the work of a holder.
    pub const fn unknown() -> Self {
        Self(None)
    }

    /// A caller outside of any body, where only bodies can be told apart. No holder started it, and a lease that it acquires may
    /// belong to anybody.
    pub const fn nobody() -> Self {
        Self(Some(KnownCaller { id: CallerId::Nobody, ancestors: None, around: 0 }))
    }

    /// A new caller that no other caller started.
    pub fn root() -> Self {
        Self(Some(KnownCaller { id: CallerId::Made(NEXT.fetch_add(1, Ordering::Relaxed)), ancestors: None, around: 0 }))
    }

    /// A new caller, started by this one.
    #[must_use]
    pub fn child(&self) -> Self {
        let id = CallerId::Made(NEXT.fetch_add(1, Ordering::Relaxed));
        let ancestors = match &self.0 {
            None | Some(KnownCaller { id: CallerId::Nobody, .. }) => None,
            Some(parent) => Some(std::iter::once(&parent.id).chain(self.ancestors()).take(ANCESTORS).copied().collect()),
        };
        Self(Some(KnownCaller { id, ancestors, around: 0 }))
    }

    /// A body that this caller waits for.
    pub(crate) fn body(&self) -> Self {
        let mut body = self.child();
        if let (Some(body), Some(around)) = (&mut body.0, &self.0) {
            body.around = around.around + 1;
        }
        body
    }

    /// Runs a future as something that this caller started: for tasks that a holder spawns.
    pub fn scope<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        self.child().running(work)
    }

    /// Runs a future as this caller.
    pub(crate) fn running<F: Future>(self, work: F) -> impl Future<Output = F::Output> + use<F> {
        SCOPE.scope(self, work)
    }

    fn ancestors(&self) -> &[CallerId] {
        self.0.as_ref().and_then(|known| known.ancestors.as_deref()).unwrap_or_default()
    }

    /// The identity under which its leases are filed; `None` if they may belong to anybody.
    pub(crate) fn id(&self) -> Option<CallerId> {
        self.0.as_ref().map(|known| known.id).filter(|id| *id != CallerId::Nobody)
    }

    pub(crate) fn is_known(&self) -> bool {
        self.0.is_some()
    }

    /// Itself and its ancestors.
    pub(crate) fn lineage(&self) -> impl Iterator<Item = CallerId> {
        self.id().into_iter().chain(self.ancestors().iter().copied())
    }

    /// How it is related to the holder of a lease.
    pub(crate) fn related_to(&self, holder: &Self) -> Kinship {
        let Some(holder) = holder.id() else { return Kinship::None };
        if self.id() == Some(holder) {
            return Kinship::Same;
        }
        let around = self.0.as_ref().map_or(0, |known| known.around);
        match self.ancestors().iter().position(|ancestor| *ancestor == holder) {
            Some(nearness) if nearness < around => Kinship::Same,
            Some(_) => Kinship::Started,
            None => Kinship::None,
        }
    }
}

/// How a caller is related to the holder of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kinship {
    /// It is the holder, or a body that the holder waits for.
    Same,
    /// The holder is one of its ancestors.
    Started,
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_started_is_its_own_at_any_depth_and_what_it_did_not_is_not() {
        let holder = Caller::root();
        let child = holder.child();
        assert_eq!(holder.related_to(&holder), Kinship::Same);
        assert_eq!(child.child().related_to(&holder), Kinship::Started);
        assert_eq!(holder.related_to(&child), Kinship::None, "who started the holder does not hold");
        assert_eq!(holder.child().related_to(&child), Kinship::None, "a sibling");
        let body = child.body().body();
        assert_eq!((body.related_to(&child), body.related_to(&holder)), (Kinship::Same, Kinship::Started));
        assert_eq!(body.child().related_to(&body), Kinship::Started);
        assert_eq!(Caller::nobody().related_to(&Caller::nobody()), Kinship::None);
        assert_eq!(Caller::nobody().child().related_to(&Caller::unknown()), Kinship::None);
    }

    #[test]
    fn r17_callers_that_start_each_other_for_ever_remember_the_nearest() {
        let mut caller = Caller::root();
        for _ in 0..10 * ANCESTORS {
            caller = caller.child();
        }
        assert_eq!(caller.ancestors().len(), ANCESTORS);
        assert_eq!(caller.child().related_to(&caller), Kinship::Started);
    }

    #[test]
    fn off_tokio_a_caller_is_unknown_and_a_scope_is_known() {
        assert!(!Caller::current().is_known());
        let parent = Caller::root();
        let inside = futures_util::FutureExt::now_or_never(parent.scope(async { Caller::current() })).unwrap();
        assert_eq!(inside.related_to(&parent), Kinship::Started);
    }

    #[tokio::test]
    async fn on_tokio_a_caller_is_its_scope_or_else_its_task_or_else_its_thread() {
        let here = Caller::current();
        assert_eq!(Caller::current().related_to(&here), Kinship::Same);
        let other = tokio::spawn(async { Caller::current() }).await.unwrap();
        assert_eq!(other.related_to(&here), Kinship::None);
        let scoped = tokio::spawn(here.scope(async { Caller::current() })).await.unwrap();
        assert_eq!(scoped.related_to(&here), Kinship::Started);
    }
}
