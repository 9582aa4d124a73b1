//! What the clones of a client share: where its locks are, and its session there. The first operation decides the one and starts
//! the other, closing ends the session, and reopening makes another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{RwLock, RwLockWriteGuard};

use crate::backend::{self, Capabilities};
use crate::choice::{ChosenBy, DEFAULT_CHOSEN, Variables};
use crate::clock::{BootClock, Clock};
use crate::engine::environment::Environment;
use crate::engine::session::Session;
use crate::error::{Error, Result};
use crate::observe::Observer;
use crate::observe::logs::target;
use crate::options::ClientOptions;
use crate::process::{self, Bound};

/// How long a forked child waits for a lock that a thread may hold which the child does not have.
const LONGEST_LOCK_IN_CHILD: Duration = Duration::from_millis(100);

/// A backend, and how to speak to it.
pub(crate) struct Target {
    /// The URL that was given or found; `None` for an environment of one's own.
    url: Option<String>,
    environment: Environment,
    pub(crate) options: ClientOptions,
    pub(crate) chosen_by: ChosenBy,
}

impl Target {
    pub(crate) fn new(environment: Environment, options: ClientOptions) -> Result<Arc<Self>> {
        options.validate()?;
        Ok(Arc::new(Self { url: None, environment, options, chosen_by: ChosenBy::Argument }))
    }

    /// Reads the URL and the certificates that it names.
    pub(crate) fn at(url: String, clock: Arc<dyn Clock>, options: ClientOptions, chosen_by: ChosenBy) -> Result<Arc<Self>> {
        options.validate()?;
        let plan = backend::parse(&url, &options.namespace, options.op_timeout)?;
        Ok(Arc::new(Self { url: Some(url), environment: Environment::at(plan, clock), options, chosen_by }))
    }

    /// The target of a URL or, without one, of the variables.
    pub(crate) fn chosen(url: Option<&str>, variables: &Variables, options: ClientOptions) -> Result<Arc<Self>> {
        let (url, chosen_by) = variables.choose(url, options.require_url)?;
        Self::at(url, Arc::new(BootClock), options, chosen_by)
    }

    /// The target that the variables choose now: this one, if they choose the same URL again.
    fn chosen_again(self: &Arc<Self>, variables: &Variables) -> Result<Arc<Self>> {
        let (url, chosen_by) = variables.choose(None, self.options.require_url)?;
        if self.url.as_ref() == Some(&url) && self.chosen_by == chosen_by {
            return Ok(self.clone());
        }
        Self::at(url, Arc::new(BootClock), self.options.clone(), chosen_by)
    }

    pub(crate) fn capabilities(&self) -> &Capabilities {
        self.environment.backend.capabilities()
    }

    pub(crate) fn server(&self) -> &Arc<str> {
        self.environment.backend.server()
    }
}

/// What the clones of a client share.
pub(crate) struct SharedClient {
    state: RwLock<SharedState>,
    /// The process that made it.
    maker: u32,
    /// The process that started the session; zero before that.
    user: AtomicU32,
}

struct SharedState {
    target: Arc<Target>,
    /// Where to read the variables at the first operation; `None` once it is decided where the locks are.
    undecided: Option<VariablesSource>,
    session: Option<Bound<Session>>,
    /// Closed before it was used.
    closed: bool,
    observer: Arc<Observer>,
}

/// Where variables are read: those that are given, or those of the process.
type VariablesSource = Option<Variables>;

fn variables(source: &VariablesSource) -> Result<Variables> {
    source.clone().map_or_else(Variables::of_process, Ok)
}

impl SharedState {
    fn new(target: Arc<Target>, undecided: Option<VariablesSource>) -> Self {
        Self { target, undecided, session: None, closed: false, observer: Arc::default() }
    }

    /// The target as far as it is known now, to check options against. What the variables refuse is refused at the first operation:
    /// until then the program may configure more.
    fn assumed(source: VariablesSource, options: ClientOptions) -> Result<Self> {
        let known = Variables { require_url: None, ..variables(&source)? };
        let (url, chosen_by) = known.choose(None, false)?;
        Ok(Self::new(Target::at(url, Arc::new(BootClock), options, chosen_by)?, Some(source)))
    }

    /// The session, unless its engine has stopped: then the next operation starts another.
    fn session_that_runs(&self) -> Option<&Bound<Session>> {
        self.session.as_ref().filter(|session| !session.get().is_ok_and(|session| session.engine.is_stopped()))
    }

    /// Decides where the locks are, unless that is decided.
    fn decide_target(&mut self) -> Result<()> {
        if let Some(source) = &self.undecided {
            self.target = self.target.chosen_again(&variables(source)?)?;
            self.undecided = None;
            if self.target.chosen_by == ChosenBy::Default {
                tracing::info!(target: target::CLIENT_CHOICE, "{DEFAULT_CHOSEN}");
            }
        }
        Ok(())
    }
}

impl SharedClient {
    pub(crate) fn at(target: Arc<Target>) -> Arc<Self> {
        Self::of(SharedState::new(target, None))
    }

    /// See [`Client::of_program`](crate::Client::of_program).
    pub(crate) fn of_program(source: VariablesSource) -> Result<Arc<Self>> {
        Ok(Self::of(SharedState::assumed(source, ClientOptions::default())?))
    }

    fn of(state: SharedState) -> Arc<Self> {
        Arc::new(Self { state: RwLock::new(state), maker: process::id(), user: AtomicU32::new(0) })
    }

    pub(crate) fn target(&self) -> Arc<Target> {
        self.state.read().target.clone()
    }

    pub(crate) fn observer(&self) -> Arc<Observer> {
        self.state.read().observer.clone()
    }

    /// The target, and the session if there is one. The caller must check that this process may use it.
    pub(crate) fn target_and_session(&self) -> (Arc<Target>, Option<Bound<Session>>) {
        let state = self.state.read();
        (state.target.clone(), state.session_that_runs().cloned())
    }

    /// The session, started if need be.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOptions`] if the variables refuse to name a backend, [`Error::ClientClosed`], [`Error::Forked`].
    pub(crate) fn bound(&self, operation: &'static str) -> Result<Bound<Session>> {
        self.mine()?;
        if let (_, Some(session)) = self.target_and_session() {
            return Ok(session);
        }
        let mut state = self.write()?;
        if let Some(session) = state.session_that_runs() {
            return Ok(session.clone());
        }
        let closed = |session: &Bound<Session>| session.get().is_ok_and(|session| session.closing.begun.is_cancelled());
        if state.closed || state.session.as_ref().is_some_and(closed) {
            return Err(Error::ClientClosed { operation });
        }
        state.decide_target()?;
        let Target { environment, options, .. } = &*state.target;
        let session = Bound::new(Session::start(environment, options.clone(), state.observer.clone())?);
        state.session = Some(session.clone());
        self.user.store(process::id(), Ordering::Relaxed);
        Ok(session)
    }

    /// The session, if this process has started one.
    pub(crate) fn session_in_use(&self) -> Option<Arc<Session>> {
        self.mine().ok()?;
        self.state.read().session.as_ref()?.get().ok().cloned()
    }

    /// Whether another process has used it.
    pub(crate) fn is_inherited(&self) -> bool {
        self.mine().is_err()
    }

    /// Sets the target before the first operation. Without a URL the variables are read once more then.
    pub(crate) fn configure(&self, url: Option<&str>, source: VariablesSource, options: ClientOptions) -> Result<()> {
        self.mine()?;
        let target = Target::chosen(url, &variables(&source)?, options)?;
        let mut state = self.write()?;
        if state.session.is_some() {
            return Err(Error::InUse { operation: "configure" });
        }
        state.target = target;
        state.undecided = url.is_none().then_some(source);
        Ok(())
    }

    /// The session that there is to close. Without one the client is closed at once.
    pub(crate) fn begin_close(&self) -> Result<Option<Bound<Session>>> {
        self.mine()?;
        let mut state = self.write()?;
        state.closed |= state.session.is_none();
        Ok(state.session.clone())
    }

    /// Drops a session that is closed or closing, so that the next operation starts another one.
    pub(crate) fn reopen(&self) -> Result<()> {
        self.mine()?;
        let mut state = self.write()?;
        state.closed = false;
        let left = match &state.session {
            Some(session) if session.get()?.closing.begun.is_cancelled() => state.session.take(),
            _ => None,
        };
        if left.is_some() {
            self.user.store(0, Ordering::Relaxed);
        }
        // The lock comes first: dropping a session may take its time.
        drop(state);
        drop(left);
        Ok(())
    }

    /// Forgets everything: target, observers and counts. Returns the session, to be closed.
    pub(crate) fn reset(&self, source: VariablesSource) -> Result<Option<Bound<Session>>> {
        self.mine()?;
        let fresh = SharedState::assumed(source, ClientOptions::default())?;
        let mut state = self.write()?;
        let former = std::mem::replace(&mut *state, fresh);
        self.user.store(0, Ordering::Relaxed);
        drop(state);
        former.observer.end();
        Ok(former.session)
    }

    fn mine(&self) -> Result<()> {
        match self.user.load(Ordering::Relaxed) {
            0 => Ok(()),
            user if user == process::id() => Ok(()),
            parent => Err(Error::Forked { parent }),
        }
    }

    fn write(&self) -> Result<RwLockWriteGuard<'_, SharedState>> {
        if self.maker == process::id() {
            return Ok(self.state.write());
        }
        self.state.try_write_for(LONGEST_LOCK_IN_CHILD).ok_or(Error::Forked { parent: self.maker })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn counted(opened: &Arc<AtomicUsize>) -> Result<backend::Plan> {
        let (memory, opened) = (backend::parse("memory:", "dlock", Duration::from_secs(1))?, opened.clone());
        let (capabilities, server) = (memory.capabilities().clone(), memory.server().clone());
        Ok(backend::Plan::new(capabilities, server, move |context| {
            opened.fetch_add(1, Ordering::Relaxed);
            memory.open(context)
        }))
    }

    #[tokio::test]
    async fn a_backend_is_opened_once_and_by_the_first_operation() {
        let opened = Arc::<AtomicUsize>::default();
        let environment = Environment::at(counted(&opened).unwrap(), Arc::new(BootClock));
        let core = SharedClient::at(Target::new(environment, ClientOptions::default()).unwrap());
        assert_eq!((&**core.target().server(), opened.load(Ordering::Relaxed)), ("memory:", 0));
        for _ in 0..2 {
            core.bound("acquire").unwrap();
        }
        assert_eq!(opened.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_url_that_is_chosen_again_is_not_read_again() {
        let variables = |url: &str| Variables { url: Some(url.to_owned()), ..Variables::default() };
        let first = Target::chosen(None, &variables("memory:a"), ClientOptions::default()).unwrap();
        assert!(Arc::ptr_eq(&first, &first.chosen_again(&variables("memory:a")).unwrap()));
        assert_eq!(&**first.chosen_again(&variables("memory:b")).unwrap().server(), "memory:b");
    }
}
