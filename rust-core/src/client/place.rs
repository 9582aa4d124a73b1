//! Where the locks of a client are, and its session there: settled by the first operation, left by closing, opened anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{RwLock, RwLockWriteGuard};

use crate::backend::{self, Capabilities};
use crate::choice::{ChosenBy, DEFAULT_CHOSEN, Variables};
use crate::clock::{BootClock, Clock};
use crate::error::{Error, Result};
use crate::ground::Ground;
use crate::observe::Observer;
use crate::options::ClientOptions;
use crate::owner::SessionId;
use crate::process::{self, Bound};
use crate::session::Session;

/// How long a forked child waits for a lock that may be held by a thread that it does not have.
const PATIENCE: Duration = Duration::from_millis(100);

/// A backend, and how it is spoken to.
pub(crate) struct Target {
    ground: Ground,
    pub(crate) options: ClientOptions,
    pub(crate) capabilities: Capabilities,
    pub(crate) server: Arc<str>,
    pub(crate) chosen_by: ChosenBy,
}

impl Target {
    pub(super) fn new(ground: Ground, options: ClientOptions, chosen_by: ChosenBy) -> Result<Arc<Self>> {
        options.validate()?;
        // Opened once without a session, to have the URL checked before anybody waits for it.
        let probe = (ground.open)(probe_context(&options, ground.clock.clone()))?;
        let (capabilities, server) = (probe.capabilities().clone(), probe.server().clone());
        Ok(Arc::new(Self { ground, options, capabilities, server, chosen_by }))
    }

    /// What a URL, if there is one, or the environment chooses.
    pub(super) fn chosen(url: Option<&str>, variables: &Variables, options: ClientOptions) -> Result<Arc<Self>> {
        let (url, chosen_by) = variables.choose(url, options.require_url)?;
        Self::new(Ground::at(&url, Arc::new(BootClock)), options, chosen_by)
    }
}

/// What the clones of a client share.
pub(super) struct Shared {
    place: RwLock<Place>,
    /// The process that made it.
    maker: u32,
    /// The process that started the session; zero before.
    user: AtomicU32,
}

struct Place {
    target: Arc<Target>,
    /// Nobody said where the locks are: the first operation looks at the environment, that of the process where none was given.
    undecided: Option<Environment>,
    session: Option<Bound<Session>>,
    /// Closed before it was used.
    closed: bool,
    observer: Arc<Observer>,
}

/// Where the variables are read.
type Environment = Option<Variables>;

fn variables(environment: &Environment) -> Result<Variables> {
    environment.clone().map_or_else(Variables::of_process, Ok)
}

impl Place {
    fn new(target: Arc<Target>, undecided: Option<Environment>) -> Self {
        Self { target, undecided, session: None, closed: false, observer: Arc::default() }
    }

    /// Where they are as far as can be said now, to check options against. What the environment refuses is refused at the first operation:
    /// until then the program may say more.
    fn assumed(environment: Environment, options: ClientOptions) -> Result<Self> {
        let known = Variables { require_url: None, ..variables(&environment)? };
        let (url, chosen_by) = known.choose(None, false)?;
        Ok(Self::new(Target::new(Ground::at(&url, Arc::new(BootClock)), options, chosen_by)?, Some(environment)))
    }

    /// The session, unless its engine has stopped: then the next operation starts another.
    fn session_that_runs(&self) -> Option<&Bound<Session>> {
        self.session.as_ref().filter(|session| !session.get().is_ok_and(|session| session.engine.is_stopped()))
    }

    fn settle(&mut self) -> Result<()> {
        if let Some(environment) = &self.undecided {
            self.target = Target::chosen(None, &variables(environment)?, self.target.options.clone())?;
            self.undecided = None;
            if self.target.chosen_by == ChosenBy::Default {
                tracing::info!("{DEFAULT_CHOSEN}");
            }
        }
        Ok(())
    }
}

impl Shared {
    pub(super) fn at(target: Arc<Target>) -> Arc<Self> {
        Self::of(Place::new(target, None))
    }

    /// See [`Client::of_program`](super::Client::of_program).
    pub(super) fn of_program(environment: Environment) -> Result<Arc<Self>> {
        Ok(Self::of(Place::assumed(environment, ClientOptions::default())?))
    }

    fn of(place: Place) -> Arc<Self> {
        Arc::new(Self { place: RwLock::new(place), maker: process::id(), user: AtomicU32::new(0) })
    }

    pub(super) fn target(&self) -> Arc<Target> {
        self.place.read().target.clone()
    }

    pub(super) fn observer(&self) -> Arc<Observer> {
        self.place.read().observer.clone()
    }

    /// Where the locks are, and the session if there is one. Whether this process may use it is for the caller to ask.
    pub(super) fn standing(&self) -> (Arc<Target>, Option<Bound<Session>>) {
        let place = self.place.read();
        (place.target.clone(), place.session_that_runs().cloned())
    }

    /// The session, started if need be.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] where the environment refuses to name a backend, [`Error::ClientClosed`], [`Error::Forked`].
    pub(super) fn bound(&self, operation: &'static str) -> Result<Bound<Session>> {
        self.mine()?;
        if let (_, Some(session)) = self.standing() {
            return Ok(session);
        }
        let mut place = self.write()?;
        if let Some(session) = place.session_that_runs() {
            return Ok(session.clone());
        }
        let closed = |session: &Bound<Session>| session.get().is_ok_and(|session| session.closing.begun.is_cancelled());
        if place.closed || place.session.as_ref().is_some_and(closed) {
            return Err(Error::ClientClosed { operation });
        }
        place.settle()?;
        let Target { ground, options, .. } = &*place.target;
        let session = Bound::new(Session::start(ground, options.clone(), place.observer.clone())?);
        place.session = Some(session.clone());
        self.user.store(process::id(), Ordering::Relaxed);
        Ok(session)
    }

    /// The session, if this process has started one.
    pub(super) fn session_in_use(&self) -> Option<Arc<Session>> {
        self.mine().ok()?;
        self.place.read().session.as_ref()?.get().ok().cloned()
    }

    /// Whether another process has used it.
    pub(super) fn is_inherited(&self) -> bool {
        self.mine().is_err()
    }

    /// Says where the locks are, before the first operation. Without a URL the environment is looked at once more then.
    pub(super) fn configure(&self, url: Option<&str>, environment: Environment, options: ClientOptions) -> Result<()> {
        self.mine()?;
        let target = Target::chosen(url, &variables(&environment)?, options)?;
        let mut place = self.write()?;
        if place.session.is_some() {
            return Err(Error::InUse { operation: "configure" });
        }
        place.target = target;
        place.undecided = url.is_none().then_some(environment);
        Ok(())
    }

    /// What there is to close; without a session it is closed at once.
    pub(super) fn begin_close(&self) -> Result<Option<Bound<Session>>> {
        self.mine()?;
        let mut place = self.write()?;
        place.closed |= place.session.is_none();
        Ok(place.session.clone())
    }

    /// Lets go of a session that is closed or closing, so that the next operation starts another.
    pub(super) fn reopen(&self) -> Result<()> {
        self.mine()?;
        let mut place = self.write()?;
        place.closed = false;
        let left = match &place.session {
            Some(session) if session.get()?.closing.begun.is_cancelled() => place.session.take(),
            _ => None,
        };
        if left.is_some() {
            self.user.store(0, Ordering::Relaxed);
        }
        // In this order: what a session lets go of may take its time.
        drop(place);
        drop(left);
        Ok(())
    }

    /// Forgets everything: where the locks are, who observes them, and what was counted. Returns the session, to be closed.
    pub(super) fn reset(&self, environment: Environment) -> Result<Option<Bound<Session>>> {
        self.mine()?;
        let fresh = Place::assumed(environment, ClientOptions::default())?;
        let mut place = self.write()?;
        let former = std::mem::replace(&mut *place, fresh);
        self.user.store(0, Ordering::Relaxed);
        drop(place);
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

    fn write(&self) -> Result<RwLockWriteGuard<'_, Place>> {
        if self.maker == process::id() {
            return Ok(self.place.write());
        }
        self.place.try_write_for(PATIENCE).ok_or(Error::Forked { parent: self.maker })
    }
}

/// What a backend is opened with when only its URL matters.
fn probe_context(options: &ClientOptions, clock: Arc<dyn Clock>) -> backend::Context {
    backend::Context {
        session: SessionId::from_u128(0),
        clock,
        namespace: options.namespace.as_str().into(),
        connect_timeout: options.connect_timeout,
        op_timeout: options.op_timeout,
        on_hint: Arc::new(|_| {}),
    }
}
