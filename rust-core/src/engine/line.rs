//! Who waits for which key in this session: a local line for each key, first come, first served.
//!
//! Only the first in a line talks to the backend. It has the [`Turn`]: the right to ask, and with it the session's one queue
//! position in the backend. A caller that leaves passes on the turn and the position, so the session keeps its position while any
//! local caller waits.
//!
//! While the session itself holds the key, the first in line asks nobody. It leaves a *hand-over request* for the local release,
//! which takes it along: then one round trip both releases and acquires. A turn that is passed on with a grant leaves its request
//! at once, so that even a release that follows immediately finds it.

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

/// The backend's answer to a hand-over request, and when the release that took it along was sent.
#[derive(Debug)]
pub(crate) struct HandoverAnswer {
    pub(crate) sent: Instant,
    pub(crate) answer: Result<Acquired, BackendError>,
}

/// A position in the backend's queue, and what is known of the requests made for it.
#[derive(Debug)]
pub(crate) struct QueuePosition {
    pub(crate) owner: OwnerId,
    /// When the last request for it was sent; `None` if none ever was.
    pub(crate) sent: Option<Instant>,
    /// When the last unanswered request was sent: it may still be executed, whatever later requests were answered.
    pub(crate) unanswered: Option<Instant>,
    /// A release has taken the hand-over request along and answers here.
    pub(crate) handed_over: Option<oneshot::Receiver<HandoverAnswer>>,
    /// The highest token that the session had seen at the first request: whatever is granted for the position is above it.
    pub(crate) floor: Option<Token>,
}

impl QueuePosition {
    pub(crate) fn new(owner: OwnerId) -> Self {
        Self { owner, sent: None, unanswered: None, handed_over: None, floor: None }
    }
}

/// A hand-over request: it waits for the local release to take it along.
pub(crate) struct HandoverRequest {
    pub(crate) request: Acquire,
    pub(crate) reply: oneshot::Sender<HandoverAnswer>,
}

/// Withdraws a queue position that no local caller wants any more.
pub(crate) type OnWithdraw = dyn Fn(Arc<str>, QueuePosition) + Send + Sync;

/// All lines of a session.
pub(crate) struct Lines {
    lines: Mutex<HashMap<Arc<str>, Line>>,
    withdraw: Box<OnWithdraw>,
}

struct Line {
    /// This session's own lease of the key, while it is held.
    holder: Option<Arc<LeaseRecord>>,
    /// The caller whose turn it is.
    first: Option<FirstInLine>,
    /// The callers behind it, by arrival.
    behind: BTreeMap<u64, QueuedCaller>,
    arrivals: u64,
    status: Arc<LineStatus>,
}

struct QueuedCaller {
    turn: oneshot::Sender<Turn>,
    /// The hand-over request that it would leave.
    request: Acquire,
}

struct FirstInLine {
    ask_again: Arc<Notify>,
    owner: Option<OwnerId>,
    hand_over: Option<HandoverRequest>,
}

/// What a caller gets that joins a line.
pub(crate) enum Joined {
    /// The turn: the line was empty.
    First(Turn),
    /// A wait for the turn: others are ahead.
    Behind(WaitForTurn),
}

impl Lines {
    pub(crate) fn new(withdraw: Box<OnWithdraw>) -> Arc<Self> {
        Arc::new(Self { lines: Mutex::default(), withdraw })
    }

    /// Joins the line for a key and shares what that knows. `request` makes the hand-over request, if others are ahead.
    pub(crate) fn enter(
        self: &Arc<Self>,
        key: &Arc<str>,
        line_status: &mut Arc<LineStatus>,
        request: impl FnOnce() -> Acquire,
    ) -> Joined {
        let mut lines = self.lines.lock();
        let line = lines.entry(key.clone()).or_insert_with(|| Line::new(line_status.clone()));
        line_status.clone_from(&line.status);
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

    /// Notes that this session holds the key from now on.
    pub(crate) fn set_holder(&self, record: Arc<LeaseRecord>) {
        let mut lines = self.lines.lock();
        let line = lines.entry(record.key.clone()).or_insert_with(|| Line::new(Arc::default()));
        record.stands_before(&line.status);
        line.holder = Some(record);
    }

    /// How many callers stand in the line for a key.
    pub(crate) fn waiting(&self, key: &str) -> usize {
        self.lines.lock().get(key).map_or(0, |line| usize::from(line.first.is_some()) + line.behind.len())
    }

    /// Notes that the lease has ended. Its release takes the hand-over request along, if there is one; without a release, the first
    /// in line asks for itself.
    pub(crate) fn end_holder(&self, record: &Arc<LeaseRecord>) -> Option<HandoverRequest> {
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

    /// Passes a backend's hint on. False if no local caller has this owner id: its attempt is over.
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

    /// Makes the first in a line ask again.
    pub(crate) fn ask_again(&self, key: &str) {
        self.hint(key, None);
    }

    /// Makes the first in every line ask again.
    pub(crate) fn hint_all(&self) {
        let lines = self.lines.lock();
        let mut firsts: Vec<_> = lines.iter().filter_map(|(key, line)| Some((key, line.first.as_ref()?))).collect();
        // In one order, so that a simulation repeats it.
        firsts.sort_unstable_by_key(|(key, _)| *key);
        for (_, first) in firsts {
            first.ask_again.notify_one();
        }
    }
}

/// A wait for the turn.
///
/// # Cancel safety
///
/// Dropping it leaves the line. A turn that was on its way goes to the next caller.
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
            // The first in line owns the line and passes the turn on before it leaves, so no sender is ever lost.
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
/// Dropping it passes it on with its queue position; the last caller in line withdraws the position.
pub(crate) struct Turn {
    lines: Arc<Lines>,
    pub(crate) key: Arc<str>,
    pub(crate) position: Option<QueuePosition>,
    /// Notified when it is worth asking again.
    pub(crate) ask_again: Arc<Notify>,
    /// True if this caller made the hand-over request; false if it inherited the request from a caller who has left.
    pub(crate) has_asked: bool,
    over: bool,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("key", &self.key).field("position", &self.position).finish_non_exhaustive()
    }
}

impl Turn {
    /// The queue position, made for `owner` if there is none yet.
    pub(crate) fn position(&mut self, owner: impl FnOnce() -> OwnerId) -> &mut QueuePosition {
        let position = self.position.take().unwrap_or_else(|| {
            let position = QueuePosition::new(owner());
            self.announce(position.owner);
            position
        });
        self.position.insert(position)
    }

    /// Leaves a hand-over request for the local release. Does nothing if the holder has gone meanwhile.
    pub(crate) fn offer_hand_over(&mut self, holder: &Arc<LeaseRecord>, request: Acquire) {
        let mut lines = self.lines.lines.lock();
        let Some(line) = lines.get_mut(&self.key) else { return };
        if !line.holder.as_ref().is_some_and(|record| Arc::ptr_eq(record, holder)) {
            return;
        }
        let (Some(first), Some(position)) = (line.first.as_mut(), self.position.as_mut()) else { return };
        let (reply, handed_over) = oneshot::channel();
        position.floor.get_or_insert(request.floor);
        first.hand_over = Some(HandoverRequest { request, reply });
        position.handed_over = Some(handed_over);
    }

    /// The position has become a lease: the next caller in line starts without one.
    pub(crate) fn granted(mut self) {
        self.position = None;
    }

    /// From now on hints for this owner reach this turn.
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
                    // That caller has just left. Take the position back and try the next one.
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

/// The next turn, and what it comes with.
struct NextTurn {
    turn: oneshot::Sender<Turn>,
    position: Option<QueuePosition>,
    ask_again: Arc<Notify>,
    has_asked: bool,
}

impl Line {
    fn new(status: Arc<LineStatus>) -> Self {
        Self { holder: None, first: None, behind: BTreeMap::new(), arrivals: 0, status }
    }

    /// Makes the next caller the first; it inherits the position. Returns the position if nobody waits.
    fn next(&mut self, inherited: Option<QueuePosition>) -> Result<NextTurn, Option<QueuePosition>> {
        let Some((_, QueuedCaller { turn, mut request })) = self.behind.pop_first() else {
            self.first = None;
            self.status.forget_trouble();
            return Err(inherited);
        };
        let ask_again = Arc::new(Notify::new());
        let (mut position, mut hand_over) = (inherited, None);
        if let (None, Some(holder)) = (&position, &self.holder) {
            // Also while that lease is ending: whatever ends it looks for a hand-over request.
            request.floor = request.floor.max(holder.token);
            let (reply, handed_over) = oneshot::channel();
            position = Some(QueuePosition {
                handed_over: Some(handed_over),
                floor: Some(request.floor),
                ..QueuePosition::new(request.owner)
            });
            hand_over = Some(HandoverRequest { request, reply });
        }
        let has_asked = hand_over.is_some();
        let owner = position.as_ref().map(|position| position.owner);
        self.first = Some(FirstInLine { ask_again: ask_again.clone(), owner, hand_over });
        Ok(NextTurn { turn, position, ask_again, has_asked })
    }
}
