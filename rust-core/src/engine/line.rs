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
use crate::engine::lease_record::LeaseRecord;
use crate::engine::line_status::LineStatus;
use crate::error::BackendError;
use crate::fencing::Token;
use crate::owner::OwnerId;

/// The backend's answer to a request that a release took along, and when it was sent.
#[derive(Debug)]
pub(crate) struct HandOverAnswer {
    pub(crate) sent: Instant,
    pub(crate) answer: Result<Acquired, BackendError>,
}

/// A place in the backend's queue, and what is known of the requests made for it.
#[derive(Debug)]
pub(crate) struct QueuePosition {
    pub(crate) owner: OwnerId,
    /// When the last request for it left; `None` if none ever did.
    pub(crate) sent: Option<Instant>,
    /// When the last request without an answer left: it may still be executed, whatever later ones were answered.
    pub(crate) unanswered: Option<Instant>,
    /// A release has taken the request along and will answer here.
    pub(crate) handed_over: Option<oneshot::Receiver<HandOverAnswer>>,
    /// What the first request for it named as the highest token seen: whatever is granted for the place is above.
    pub(crate) floor: Option<Token>,
}

impl QueuePosition {
    pub(crate) fn new(owner: OwnerId) -> Self {
        Self { owner, sent: None, unanswered: None, handed_over: None, floor: None }
    }
}

/// A request that waits for a local release to take it along.
pub(crate) struct HandOver {
    pub(crate) request: Acquire,
    pub(crate) reply: oneshot::Sender<HandOverAnswer>,
}

/// What to do with a place that nobody here wants any more.
pub(crate) type OnWithdraw = dyn Fn(Arc<str>, QueuePosition) + Send + Sync;

/// All lines of a session.
pub(crate) struct Lines {
    lines: Mutex<HashMap<Arc<str>, Line>>,
    withdraw: Box<OnWithdraw>,
}

struct Line {
    /// This session's own lease of the key, while it is held.
    holder: Option<Arc<LeaseRecord>>,
    /// The one whose turn it is.
    first: Option<FirstInLine>,
    /// Everybody behind, by arrival.
    behind: BTreeMap<u64, QueuedCaller>,
    arrivals: u64,
    known: Arc<LineStatus>,
}

struct QueuedCaller {
    turn: oneshot::Sender<Turn>,
    /// What it will ask.
    request: Acquire,
}

struct FirstInLine {
    ask_again: Arc<Notify>,
    owner: Option<OwnerId>,
    hand_over: Option<HandOver>,
}

/// What a newcomer gets.
pub(crate) enum Joined {
    /// Nobody was there.
    First(Turn),
    /// Others are ahead.
    Behind(WaitForTurn),
}

impl Lines {
    pub(crate) fn new(withdraw: Box<OnWithdraw>) -> Arc<Self> {
        Arc::new(Self { lines: Mutex::default(), withdraw })
    }

    /// Joins the line for a key, and gets to know what that knows. `request` is asked for if others are ahead.
    pub(crate) fn enter(
        self: &Arc<Self>,
        key: &Arc<str>,
        known: &mut Arc<LineStatus>,
        request: impl FnOnce() -> Acquire,
    ) -> Joined {
        let mut lines = self.lines.lock();
        let line = lines.entry(key.clone()).or_insert_with(|| Line::new(known.clone()));
        known.clone_from(&line.known);
        if line.first.is_none() {
            let ask_again = Arc::new(Notify::new());
            line.first = Some(FirstInLine { ask_again: ask_again.clone(), owner: None, hand_over: None });
            return Joined::First(Turn {
                lines: self.clone(),
                key: key.clone(),
                position: None,
                ask_again,
                has_asked: false,
                over: false,
            });
        }
        line.arrivals += 1;
        let number = line.arrivals;
        let (sender, turn) = oneshot::channel();
        line.behind.insert(number, QueuedCaller { turn: sender, request: request() });
        Joined::Behind(WaitForTurn { lines: self.clone(), key: key.clone(), number, turn })
    }

    /// This session's own lease of a key, while the engine vouches for it.
    pub(crate) fn holder(&self, key: &str) -> Option<Arc<LeaseRecord>> {
        self.lines.lock().get(key).and_then(|line| line.holder.clone()).filter(|record| record.is_valid())
    }

    /// The key is held by this session from now on.
    pub(crate) fn set_holder(&self, record: Arc<LeaseRecord>) {
        let mut lines = self.lines.lock();
        let line = lines.entry(record.key.clone()).or_insert_with(|| Line::new(Arc::default()));
        record.stands_before(&line.known);
        line.holder = Some(record);
    }

    /// How many stand in the line for a key.
    pub(crate) fn waiting(&self, key: &str) -> usize {
        self.lines.lock().get(key).map_or(0, |line| usize::from(line.first.is_some()) + line.behind.len())
    }

    /// The lease has ended. What is parked on it goes along with its release, or else asks for itself.
    pub(crate) fn end_holder(&self, record: &Arc<LeaseRecord>) -> Option<HandOver> {
        let mut lines = self.lines.lock();
        let line = lines.get_mut(&record.key)?;
        if !line.holder.as_ref().is_some_and(|holder| Arc::ptr_eq(holder, record)) {
            return None;
        }
        line.holder = None;
        let hand_over = line.first.as_mut().and_then(|first| first.hand_over.take());
        if line.first.is_none() {
            lines.remove(&record.key);
        }
        hand_over
    }

    /// Passes a backend's hint on. False if nobody here goes by this owner id: its attempt is over.
    pub(crate) fn hint(&self, key: &str, owner: Option<OwnerId>) -> bool {
        let lines = self.lines.lock();
        let Some(line) = lines.get(key) else { return owner.is_none() };
        if let Some(first) = &line.first
            && (owner.is_none() || first.owner == owner)
        {
            first.ask_again.notify_one();
            return true;
        }
        owner.is_none() || line.holder.as_ref().is_some_and(|holder| Some(holder.owner) == owner)
    }

    /// Makes the first of a line look again.
    pub(crate) fn ask_again(&self, key: &str) {
        self.hint(key, None);
    }

    /// Makes the first of every line look again.
    pub(crate) fn hint_all(&self) {
        let lines = self.lines.lock();
        let mut firsts: Vec<_> = lines.iter().filter_map(|(key, line)| Some((key, line.first.as_ref()?))).collect();
        // In one order, so that a simulation of it repeats.
        firsts.sort_unstable_by_key(|(key, _)| *key);
        for (_, first) in firsts {
            first.ask_again.notify_one();
        }
    }
}

/// A wait for the turn.
///
/// # Cancel safety
/// Dropping it leaves the line. A turn that was on its way goes to the next.
pub(crate) struct WaitForTurn {
    lines: Arc<Lines>,
    key: Arc<str>,
    number: u64,
    turn: oneshot::Receiver<Turn>,
}

impl WaitForTurn {
    pub(crate) async fn turn(mut self) -> Turn {
        match (&mut self.turn).await {
            Ok(turn) => turn,
            // Whoever is first owns the line and serves it before going: a line cannot lose its senders.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for WaitForTurn {
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
    pub(crate) position: Option<QueuePosition>,
    /// Notified when it is worth asking again.
    pub(crate) ask_again: Arc<Notify>,
    /// The request that is parked or carried for the place is of the one whose turn it is, not of somebody who has left.
    pub(crate) has_asked: bool,
    over: bool,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("key", &self.key).field("place", &self.position).finish_non_exhaustive()
    }
}

impl Turn {
    /// The place, made by `owner` if there is none yet.
    pub(crate) fn position(&mut self, owner: impl FnOnce() -> OwnerId) -> &mut QueuePosition {
        let position = self.position.take().unwrap_or_else(|| {
            let position = QueuePosition::new(owner());
            self.announce(position.owner);
            position
        });
        self.position.insert(position)
    }

    /// Leaves the request for the local holder's release to take along. False if the holder has gone meanwhile.
    pub(crate) fn offer_hand_over(&mut self, holder: &Arc<LeaseRecord>, request: Acquire) -> bool {
        let mut lines = self.lines.lines.lock();
        let Some(line) = lines.get_mut(&self.key) else { return false };
        if !line.holder.as_ref().is_some_and(|record| Arc::ptr_eq(record, holder)) {
            return false;
        }
        let (Some(first), Some(position)) = (line.first.as_mut(), self.position.as_mut()) else { return false };
        let (reply, handed_over) = oneshot::channel();
        position.floor.get_or_insert(request.floor);
        first.hand_over = Some(HandOver { request, reply });
        position.handed_over = Some(handed_over);
        true
    }

    /// The place has become a lease: the next in line starts afresh.
    pub(crate) fn granted(mut self) {
        self.position = None;
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
        let mut position = self.position.take();
        loop {
            let next = {
                let mut lines = self.lines.lines.lock();
                let Some(line) = lines.get_mut(&self.key) else { break };
                let next = line.next(position.take());
                if next.is_err() && line.holder.is_none() {
                    lines.remove(&self.key);
                }
                next
            };
            let next = match next {
                Ok(next) => next,
                Err(nobodys) => {
                    position = nobodys;
                    break;
                }
            };
            let turn = Turn {
                lines: self.lines.clone(),
                key: self.key.clone(),
                position: next.position,
                ask_again: next.ask_again,
                has_asked: next.has_asked,
                over: false,
            };
            match next.turn.send(turn) {
                Ok(()) => return,
                Err(mut refused) => {
                    // Its waiter has just left. Take the place back and try the next one.
                    refused.over = true;
                    position = refused.position.take();
                }
            }
        }
        if let Some(position) = position {
            (self.lines.withdraw)(self.key.clone(), position);
        }
    }
}

/// Whose turn it is next, and with what.
struct NextTurn {
    turn: oneshot::Sender<Turn>,
    position: Option<QueuePosition>,
    ask_again: Arc<Notify>,
    has_asked: bool,
}

impl Line {
    fn new(known: Arc<LineStatus>) -> Self {
        Self { holder: None, first: None, behind: BTreeMap::new(), arrivals: 0, known }
    }

    /// Makes the next waiter the first; it inherits the place. Gives the place back when nobody waits.
    fn next(&mut self, inherited: Option<QueuePosition>) -> Result<NextTurn, Option<QueuePosition>> {
        let Some((_, QueuedCaller { turn, mut request })) = self.behind.pop_first() else {
            self.first = None;
            self.known.forget_trouble();
            return Err(inherited);
        };
        let ask_again = Arc::new(Notify::new());
        let (mut position, mut hand_over) = (inherited, None);
        if let (None, Some(holder)) = (&position, &self.holder) {
            // Also if that one is ending: whatever ends it looks for what is parked.
            request.floor = request.floor.max(holder.token);
            let (reply, handed_over) = oneshot::channel();
            position = Some(QueuePosition {
                handed_over: Some(handed_over),
                floor: Some(request.floor),
                ..QueuePosition::new(request.owner)
            });
            hand_over = Some(HandOver { request, reply });
        }
        let has_asked = hand_over.is_some();
        let owner = position.as_ref().map(|position| position.owner);
        self.first = Some(FirstInLine { ask_again: ask_again.clone(), owner, hand_over });
        Ok(NextTurn { turn, position, ask_again, has_asked })
    }
}
