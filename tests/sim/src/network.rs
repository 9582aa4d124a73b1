//! The network between the machines and the server: it delays, drops, repeats and cuts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dlock::backend::Hint;
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;

use crate::faults::{Cut, Fault, Tally, Weather};
use crate::ledger::Ledger;
use crate::random::Random;
use crate::world::{MS, Nanos, World};

/// What is in store for one request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fate {
    /// The request never leaves, and its sender knows after this long.
    pub(crate) not_sent: Option<Nanos>,
    /// When the server executes it; not at all if it is lost.
    pub(crate) executed: Option<Nanos>,
    /// When the server executes it once more, counted from then.
    pub(crate) again: Option<Nanos>,
    /// How long the answer takes; `None` if it is lost.
    pub(crate) answered: Option<Nanos>,
    /// When its sender sees the connection break, counted from the sending.
    pub(crate) broken: Option<Nanos>,
}

/// Where a machine takes its hints.
pub(crate) type Mailbox = UnboundedSender<Hint>;

#[derive(Default)]
struct Wire {
    mailbox: Option<Mailbox>,
    cut: Option<(Cut, Nanos)>,
    dead: bool,
}

pub(crate) struct Network {
    pub(crate) world: Arc<World>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) tally: Arc<Tally>,
    requests: AtomicU64,
    state: Mutex<State>,
}

struct State {
    weather: Weather,
    random: Random,
    wires: Vec<Wire>,
    /// The longest that a slow message takes.
    slowest: Nanos,
}

impl Network {
    pub(crate) fn new(ledger: &Arc<Ledger>, world: &Arc<World>, tally: &Arc<Tally>, setup: Setup) -> Arc<Self> {
        let wires = (0..setup.clients).map(|_| Wire::default()).collect();
        let state = State { weather: setup.weather, random: setup.random, wires, slowest: setup.slowest };
        let (world, ledger, tally) = (world.clone(), ledger.clone(), tally.clone());
        Arc::new(Self { world, ledger, tally, requests: AtomicU64::new(0), state: Mutex::new(state) })
    }

    /// Draws what becomes of a request.
    pub(crate) fn fate(&self, client: usize) -> Fate {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let now = self.world.now();
        let (fate, faults) = self.state.lock().draw(client, now);
        for fault in faults.into_iter().flatten() {
            self.tally.count(fault);
        }
        if fate.is_troubled() {
            self.ledger.trouble(client, fate.lasts());
        }
        fate
    }

    /// A machine has had trouble with a request that was none of the network's doing.
    pub(crate) fn trouble(&self, client: usize) {
        self.ledger.trouble(client, 0);
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn connect(&self, client: usize, mailbox: Mailbox) {
        if let Some(wire) = self.state.lock().wires.get_mut(client) {
            wire.mailbox = Some(mailbox);
        }
    }

    /// The machine is gone, or wants nothing more.
    pub(crate) fn disconnect(&self, client: usize, dead: bool) {
        if let Some(wire) = self.state.lock().wires.get_mut(client) {
            wire.mailbox = None;
            wire.dead |= dead;
        }
    }

    pub(crate) fn cut(self: &Arc<Self>, client: usize, cut: Cut, lasts: Nanos) {
        let until = self.world.now() + lasts;
        if let Some(wire) = self.state.lock().wires.get_mut(client) {
            wire.cut = Some((cut, until));
        }
        self.ledger.trouble(client, lasts);
        let network = self.clone();
        // Who connects anew may have missed hints.
        self.world.after(lasts, move || network.hint(client, Hint::All));
    }

    /// Everything works from now on.
    pub(crate) fn clear_up(&self) {
        let mut state = self.state.lock();
        state.weather = state.weather.calm();
        for wire in &mut state.wires {
            wire.cut = None;
        }
    }

    /// Whether a machine that would run has to wait, and how long.
    pub(crate) fn stutter(&self) -> Option<Nanos> {
        let mut state = self.state.lock();
        let stutter = state.weather.stutter;
        (stutter > 0 && state.random.chance(stutter)).then(|| state.random.between(MS / 10, 20 * MS))
    }

    /// Sends a hint to a machine.
    pub(crate) fn hint(self: &Arc<Self>, client: usize, hint: Hint) {
        let now = self.world.now();
        let mut state = self.state.lock();
        let (weather, random) = (state.weather.clone(), &mut state.random);
        let lost = random.chance(weather.hint_lost);
        let invented = random.chance(weather.hint_invented);
        let way = random.between(0, weather.way);
        let cut = state.wires.get(client).is_some_and(|wire| wire.cut(now).is_some());
        drop(state);
        if lost || cut {
            self.tally.count(Fault::HintLost);
            self.ledger.trouble(client, 0);
            return;
        }
        self.deliver(client, hint, way);
        if invented {
            self.deliver(client, Hint::All, 3 * way);
        }
    }

    fn deliver(self: &Arc<Self>, client: usize, hint: Hint, way: Nanos) {
        let network = self.clone();
        self.world.after(way, move || {
            let state = network.state.lock();
            if let Some(mailbox) = state.wires.get(client).and_then(|wire| wire.mailbox.clone()) {
                drop(state);
                let _ = mailbox.send(hint);
            }
        });
    }
}

/// What a network begins with.
pub(crate) struct Setup {
    pub(crate) clients: usize,
    pub(crate) weather: Weather,
    pub(crate) random: Random,
    pub(crate) slowest: Nanos,
}

impl Wire {
    fn cut(&self, now: Nanos) -> Option<Cut> {
        self.cut.filter(|(_, until)| now < *until).map(|(cut, _)| cut)
    }
}

impl Fate {
    fn is_troubled(&self) -> bool {
        self.not_sent.is_some() || self.answered.is_none() || self.lasts() > 20 * MS || self.again.is_some()
    }

    fn lasts(&self) -> Nanos {
        self.executed.unwrap_or(0).max(self.broken.unwrap_or(0)) + self.answered.unwrap_or(0) + self.not_sent.unwrap_or(0)
    }
}

impl State {
    fn draw(&mut self, client: usize, now: Nanos) -> (Fate, [Option<Fault>; 4]) {
        let Self { weather, random, wires, slowest } = self;
        let Some(wire) = wires.get(client) else { return (Fate::default(), [None; 4]) };
        if wire.dead {
            return (Fate::default(), [None; 4]);
        }
        let way = |random: &mut Random| random.between(weather.way / 10, weather.way);
        let breaks = |random: &mut Random| random.chance(500).then(|| random.between(0, *slowest));
        match wire.cut(now) {
            Some(Cut::Both) if random.chance(500) => {
                return (Fate { not_sent: Some(way(random)), ..Fate::default() }, [Some(Fault::NotSent), None, None, None]);
            }
            Some(Cut::Both) => {
                return (Fate { broken: breaks(random), ..Fate::default() }, [Some(Fault::RequestLost), None, None, None]);
            }
            Some(Cut::Answers) => {
                let fate = Fate { executed: Some(way(random)), broken: breaks(random), ..Fate::default() };
                return (fate, [Some(Fault::AnswerLost), None, None, None]);
            }
            None => {}
        }
        if random.chance(weather.not_sent) {
            return (Fate { not_sent: Some(way(random)), ..Fate::default() }, [Some(Fault::NotSent), None, None, None]);
        }
        if random.chance(weather.request_lost) {
            return (Fate { broken: breaks(random), ..Fate::default() }, [Some(Fault::RequestLost), None, None, None]);
        }
        let mut fate = Fate { executed: Some(way(random)), answered: Some(way(random)), ..Fate::default() };
        let mut faults = [None; 4];
        if random.chance(weather.slow) {
            faults[0] = Some(Fault::Slow);
            // Either way, or both.
            let side = random.below(3);
            if side != 1 {
                fate.executed = Some(random.between(0, *slowest));
            }
            if side != 0 {
                fate.answered = Some(random.between(0, *slowest));
            }
        }
        if random.chance(weather.answer_lost) {
            faults[1] = Some(Fault::AnswerLost);
            (fate.answered, fate.broken) = (None, breaks(random));
        }
        if random.chance(weather.duplicate) {
            faults[2] = Some(Fault::Duplicate);
            // Nothing is executed again once its answer has arrived.
            fate.again = Some(random.between(0, fate.answered.unwrap_or(*slowest)));
        }
        (fate, faults)
    }
}
