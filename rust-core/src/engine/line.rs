//! Who waits for which key in this session: a local line for each, first come first served.
//!
//! Only the first in a line talks to the backend. It has the [`Turn`]: the right to ask, and with it the session's one place in the
//! backend's queue. Whoever leaves hands the turn on, place included, so the session keeps its place while anybody here still waits.
//! When the session itself holds the key, the turn is *parked*: its owner asks nobody and waits for the local release, which takes its
//! request along. A turn that comes with a grant to the one before is parked as it is handed on, so that even a release that follows at
//! once finds the request.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::backend::{Acquire, Acquired};
use crate::clock::Instant;
use crate::engine::lease_record::Held;
use crate::engine::line_status::Known;
use crate::error::BackendError;
use crate::fencing::Token;
use crate::owner::OwnerId;

/// The backend's answer to a request that a release took along, and when it was sent.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) sent: Instant,
    pub(crate) answer: Result<Acquired, BackendError>,
}

/// A place in the backend's queue, and what is known of the requests made for it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) owner: OwnerId,
    /// When the last request for it left; `None` if none ever did.
    pub(crate) sent: Option<Instant>,
    /// When the last request without an answer left: it may still be executed, whatever later ones were answered.
    pub(crate) unanswered: Option<Instant>,
    /// A release has taken the request along and will answer here.
    pub(crate) carried: Option<oneshot::Receiver<Carried>>,
    /// What the first request for it named as the highest token seen: whatever is granted for the place is above.
    pub(crate) floor: Option<Token>,
}

impl Place {
    pub(crate) fn new(owner: OwnerId) -> Self {
        Self { owner, sent: None, unanswered: None, carried: None, floor: None }
    }
}

/// A request that waits for a local release to take it along.
pub(crate) struct Parked {
    pub(crate) request: Acquire,
    pub(crate) reply: oneshot::Sender<Carried>,
}

/// What to do with a place that nobody here wants any more.
pub(crate) type Abandon = dyn Fn(Arc<str>, Place) + Send + Sync;

/// All lines of a session.
pub(crate) struct Lines {
    lines: Mutex<HashMap<Arc<str>, Line>>,
    abandon: Box<Abandon>,
}

struct Line {
    /// This session's own lease of the key, while it is held.
    holder: Option<Arc<Held>>,
    /// The one whose turn it is.
    first: Option<First>,
    /// Everybody behind, by arrival.
    behind: BTreeMap<u64, Behind>,
    arrivals: u64,
    known: Arc<Known>,
}

struct Behind {
    turn: oneshot::Sender<Turn>,
    /// What it will ask.
    request: Acquire,
}

struct First {
    look: Arc<Notify>,
    owner: Option<OwnerId>,
    parked: Option<Parked>,
}

/// What a newcomer gets.
pub(crate) enum Entered {
    /// Nobody was there.
    First(Turn),
    /// Others are ahead.
    Behind(Ticket),
}

impl Lines {
    pub(crate) fn new(abandon: Box<Abandon>) -> Arc<Self> {
        Arc::new(Self { lines: Mutex::default(), abandon })
    }

    /// Joins the line for a key, and gets to know what that knows. `request` is asked for if others are ahead.
    pub(crate) fn enter(self: &Arc<Self>, key: &Arc<str>, known: &mut Arc<Known>, request: impl FnOnce() -> Acquire) -> Entered {
        let mut lines = self.lines.lock();
        let line = lines.entry(key.clone()).or_insert_with(|| Line::new(known.clone()));
        known.clone_from(&line.known);
        if line.first.is_none() {
            let look = Arc::new(Notify::new());
            line.first = Some(First { look: look.clone(), owner: None, parked: None });
            return Entered::First(Turn {
                lines: self.clone(),
                key: key.clone(),
                place: None,
                look,
                has_asked: false,
                over: false,
            });
        }
        line.arrivals += 1;
        let number = line.arrivals;
        let (sender, turn) = oneshot::channel();
        line.behind.insert(number, Behind { turn: sender, request: request() });
        Entered::Behind(Ticket { lines: self.clone(), key: key.clone(), number, turn })
    }

    /// This session's own lease of a key, while the engine vouches for it.
    pub(crate) fn holder(&self, key: &str) -> Option<Arc<Held>> {
        self.lines.lock().get(key).and_then(|line| line.holder.clone()).filter(|held| held.is_valid())
    }

    /// The key is held by this session from now on.
    pub(crate) fn set_holder(&self, held: Arc<Held>) {
        let mut lines = self.lines.lock();
        let line = lines.entry(held.key.clone()).or_insert_with(|| Line::new(Arc::default()));
        held.stands_before(&line.known);
        line.holder = Some(held);
    }

    /// How many stand in the line for a key.
    pub(crate) fn waiting(&self, key: &str) -> usize {
        self.lines.lock().get(key).map_or(0, |line| usize::from(line.first.is_some()) + line.behind.len())
    }

    /// The lease has ended. What is parked on it goes along with its release, or else asks for itself.
    pub(crate) fn end_holder(&self, held: &Arc<Held>) -> Option<Parked> {
        let mut lines = self.lines.lock();
        let line = lines.get_mut(&held.key)?;
        if !line.holder.as_ref().is_some_and(|holder| Arc::ptr_eq(holder, held)) {
            return None;
        }
        line.holder = None;
        let parked = line.first.as_mut().and_then(|first| first.parked.take());
        if line.first.is_none() {
            lines.remove(&held.key);
        }
        parked
    }

    /// Passes a backend's hint on. False if nobody here goes by this owner id: its attempt is over.
    pub(crate) fn hint(&self, key: &str, owner: Option<OwnerId>) -> bool {
        let lines = self.lines.lock();
        let Some(line) = lines.get(key) else { return owner.is_none() };
        if let Some(first) = &line.first
            && (owner.is_none() || first.owner == owner)
        {
            first.look.notify_one();
            return true;
        }
        owner.is_none() || line.holder.as_ref().is_some_and(|holder| Some(holder.owner) == owner)
    }

    /// Makes the first of a line look again.
    pub(crate) fn look(&self, key: &str) {
        self.hint(key, None);
    }

    /// Makes the first of every line look again.
    pub(crate) fn hint_all(&self) {
        let lines = self.lines.lock();
        let mut firsts: Vec<_> = lines.iter().filter_map(|(key, line)| Some((key, line.first.as_ref()?))).collect();
        // In one order, so that a simulation of it repeats.
        firsts.sort_unstable_by_key(|(key, _)| *key);
        for (_, first) in firsts {
            first.look.notify_one();
        }
    }
}

/// A wait for the turn.
///
/// # Cancel safety
/// Dropping it leaves the line. A turn that was on its way goes to the next.
pub(crate) struct Ticket {
    lines: Arc<Lines>,
    key: Arc<str>,
    number: u64,
    turn: oneshot::Receiver<Turn>,
}

impl Ticket {
    pub(crate) async fn turn(mut self) -> Turn {
        match (&mut self.turn).await {
            Ok(turn) => turn,
            // Whoever is first owns the line and serves it before going: a line cannot lose its senders.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut lines = self.lines.lines.lock();
        if let Some(line) = lines.get_mut(&self.key) {
            line.behind.remove(&self.number);
        }
    }
}

/// The right to ask the backend for a key on behalf of this session.
///
/// Dropping it passes it on with its place; the last one out gives the place up.
pub(crate) struct Turn {
    lines: Arc<Lines>,
    pub(crate) key: Arc<str>,
    pub(crate) place: Option<Place>,
    /// Notified when it is worth asking again.
    pub(crate) look: Arc<Notify>,
    /// The request that is parked or carried for the place is of the one whose turn it is, not of somebody who has left.
    pub(crate) has_asked: bool,
    over: bool,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("key", &self.key).field("place", &self.place).finish_non_exhaustive()
    }
}

impl Turn {
    /// The place, made by `owner` if there is none yet.
    pub(crate) fn place(&mut self, owner: impl FnOnce() -> OwnerId) -> &mut Place {
        let place = self.place.take().unwrap_or_else(|| {
            let place = Place::new(owner());
            self.announce(place.owner);
            place
        });
        self.place.insert(place)
    }

    /// Leaves the request for the local holder's release to take along. False if the holder has gone meanwhile.
    pub(crate) fn park(&mut self, holder: &Arc<Held>, request: Acquire) -> bool {
        let mut lines = self.lines.lines.lock();
        let Some(line) = lines.get_mut(&self.key) else { return false };
        if !line.holder.as_ref().is_some_and(|held| Arc::ptr_eq(held, holder)) {
            return false;
        }
        let (Some(first), Some(place)) = (line.first.as_mut(), self.place.as_mut()) else { return false };
        let (reply, carried) = oneshot::channel();
        place.floor.get_or_insert(request.floor);
        first.parked = Some(Parked { request, reply });
        place.carried = Some(carried);
        true
    }

    /// The place has become a lease: the next in line starts afresh.
    pub(crate) fn granted(mut self) {
        self.place = None;
    }

    /// From now on a hint for this owner is for this turn.
    fn announce(&self, owner: OwnerId) {
        if let Some(first) = self.lines.lines.lock().get_mut(&self.key).and_then(|line| line.first.as_mut()) {
            first.owner = Some(owner);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.over = true;
        let mut place = self.place.take();
        loop {
            let next = {
                let mut lines = self.lines.lines.lock();
                let Some(line) = lines.get_mut(&self.key) else { break };
                let next = line.next(place.take());
                if next.is_err() && line.holder.is_none() {
                    lines.remove(&self.key);
                }
                next
            };
            let next = match next {
                Ok(next) => next,
                Err(nobodys) => {
                    place = nobodys;
                    break;
                }
            };
            let turn = Turn {
                lines: self.lines.clone(),
                key: self.key.clone(),
                place: next.place,
                look: next.look,
                has_asked: next.has_asked,
                over: false,
            };
            match next.turn.send(turn) {
                Ok(()) => return,
                Err(mut refused) => {
                    // Its waiter has just left. Take the place back and try the next one.
                    refused.over = true;
                    place = refused.place.take();
                }
            }
        }
        if let Some(place) = place {
            (self.lines.abandon)(self.key.clone(), place);
        }
    }
}

/// Whose turn it is next, and with what.
struct Next {
    turn: oneshot::Sender<Turn>,
    place: Option<Place>,
    look: Arc<Notify>,
    has_asked: bool,
}

impl Line {
    fn new(known: Arc<Known>) -> Self {
        Self { holder: None, first: None, behind: BTreeMap::new(), arrivals: 0, known }
    }

    /// Makes the next waiter the first; it inherits the place. Gives the place back when nobody waits.
    fn next(&mut self, inherited: Option<Place>) -> Result<Next, Option<Place>> {
        let Some((_, Behind { turn, mut request })) = self.behind.pop_first() else {
            self.first = None;
            self.known.forget_trouble();
            return Err(inherited);
        };
        let look = Arc::new(Notify::new());
        let (mut place, mut parked) = (inherited, None);
        if let (None, Some(holder)) = (&place, &self.holder) {
            // Also if that one is ending: whatever ends it looks for what is parked.
            request.floor = request.floor.max(holder.token);
            let (reply, carried) = oneshot::channel();
            place = Some(Place { carried: Some(carried), floor: Some(request.floor), ..Place::new(request.owner) });
            parked = Some(Parked { request, reply });
        }
        let has_asked = parked.is_some();
        let owner = place.as_ref().map(|place| place.owner);
        self.first = Some(First { look: look.clone(), owner, parked });
        Ok(Next { turn, place, look, has_asked })
    }
}
