//! What a seed stands for: machines, callers, options, weather and disasters, drawn before anything happens.

use std::time::Duration;

use dlock::{LockOptions, Retry};

use crate::clock::TRUE_RATE;
use crate::faults::{Disaster, Weather, draw_disasters};
use crate::random::Random;
use crate::world::{MS, Nanos, SECOND};

/// The rate error that the promise allows, in millionths.
pub(crate) const PROMISED_ERROR: u64 = 10_000;

/// The number of the key that holders take besides their own.
pub(crate) const NESTED: usize = 9;

/// How the server bounds requests that are executed late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// Nothing is executed later than so long after it was made.
    Window(Nanos),
    /// Whatever an owner asked for before it left, or gave the key back, is refused after that.
    Guard,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) machines: Vec<MachinePlan>,
    pub(crate) keys: usize,
    pub(crate) weather: Weather,
    pub(crate) disasters: Vec<(Nanos, Disaster)>,
    /// When faults end.
    pub(crate) storm: Nanos,
    pub(crate) bound: Bound,
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) margin: Duration,
    /// The most of a TTL, in thousandths, that begins before its request.
    pub(crate) age: u64,
    pub(crate) batch: usize,
    pub(crate) op_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) longest_ttl: Nanos,
    /// For the network.
    pub(crate) random: Random,
}

#[derive(Clone, Debug)]
pub(crate) struct MachinePlan {
    pub(crate) rate: u64,
    pub(crate) origin: Nanos,
    /// Whether callers live on a runtime of their own, as they do in a program.
    pub(crate) callers_apart: bool,
    pub(crate) callers: Vec<Vec<Step>>,
}

/// One acquire of one caller, and what it does with the lease.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) idle: Nanos,
    pub(crate) key: usize,
    pub(crate) options: LockOptions,
    pub(crate) call: Call,
    pub(crate) cancel: Option<Cancel>,
    pub(crate) body: Vec<Act>,
    pub(crate) end: End,
}

/// The call that asks for the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Acquire,
    /// [`dlock::Lock::acquire_then`], as bindings do.
    Then,
    Try,
    /// [`dlock::Lock::with`]: the whole of it may be cancelled, and the way the lease ends is its own.
    With,
}

/// When a call is dropped before it has come to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cancel {
    /// After so many polls, at the await where it then stands.
    Polls(u32),
    /// Instead of the poll after so many: what woke it is never seen.
    Wakes(u32),
    After(Nanos),
}

/// What a holder does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Work(Nanos),
    Extend {
        ttl: Nanos,
        cancel: Option<Cancel>,
    },
    AutoRenew(bool),
    Heartbeat,
    /// Takes the key [`NESTED`] as well, waiting for so long, and holds both.
    Nest {
        wait: Nanos,
        hold: Nanos,
    },
}

/// How a holder ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Release(Option<Cancel>),
    ReleaseThen,
    /// The last handle is dropped.
    Forget,
    /// When the lease is lost; by `release` if it does not end by itself.
    Loss,
}

impl Plan {
    /// Draws a plan for clocks that are wrong by at most `error` millionths.
    pub(crate) fn draw(seed: u64, error: u64) -> Self {
        let mut random = Random::new(seed);
        let ttl = random.pick(&[100 * MS, 300 * MS, SECOND, 3 * SECOND, 10 * SECOND, 30 * SECOND]);
        let keys = if random.chance(700) { 1 } else { 2 };
        let clients = 1 + usize::try_from(random.below(4)).unwrap_or(0);
        let op_timeout = random.pick(&[30 * MS, 100 * MS, 300 * MS, SECOND]);
        let bound = match random.below(3) {
            0 => Bound::Guard,
            _ => Bound::Window(op_timeout * random.pick(&[1, 2])),
        };
        let weather = Weather::draw(&mut random);
        let storm = random.between(ttl, 6 * ttl);
        let disasters = if random.chance(250) { Vec::new() } else { draw_disasters(&mut random, clients, keys, ttl, storm) };
        let machines = (0..clients).map(|_| MachinePlan::draw(&mut random, ttl, keys, error)).collect();
        Self {
            machines,
            keys,
            weather,
            disasters,
            storm,
            bound,
            heartbeat: random.chance(400).then(|| Duration::from_nanos(random.pick(&[200 * MS, SECOND, 3 * SECOND]))),
            margin: Duration::from_millis(if bound == Bound::Guard && ttl >= 10 * SECOND { 50 } else { 2 }),
            age: if bound == Bound::Guard { random.pick(&[0, 50]) } else { 0 },
            batch: random.pick(&[1, 3, 1000]),
            op_timeout: Duration::from_nanos(op_timeout),
            connect_timeout: Duration::from_nanos(random.pick(&[op_timeout, SECOND, 5 * SECOND])),
            longest_ttl: 4 * ttl,
            random: random.fork(),
        }
    }
}

impl MachinePlan {
    fn draw(random: &mut Random, ttl: Nanos, keys: usize, error: u64) -> Self {
        let rate = match random.below(4) {
            0 => TRUE_RATE,
            1 => TRUE_RATE - error,
            2 => TRUE_RATE + error,
            _ => random.between(TRUE_RATE - error, TRUE_RATE + error),
        };
        let callers = 1 + random.below(3);
        let mut callers: Vec<_> =
            (0..callers).map(|_| (0..=random.below(4)).map(|_| Step::draw(random, ttl, keys)).collect()).collect();
        if random.chance(150) {
            // A crowd waits for one key, for an outage to find it.
            callers.extend((0..3 + random.below(8)).map(|_| vec![Step::of_crowd(random, ttl)]));
        }
        Self { rate, origin: random.between(SECOND, 1_000_000 * SECOND), callers_apart: random.chance(300), callers }
    }
}

impl Step {
    fn draw(random: &mut Random, ttl: Nanos, keys: usize) -> Self {
        let call = random.pick(&[Call::Acquire, Call::Acquire, Call::Acquire, Call::With, Call::Then, Call::Try]);
        let key = usize::try_from(random.below(keys as u64)).unwrap_or(0);
        let own = (ttl * random.pick(&[100, 100, 100, 60, 200]) / 100).max(100 * MS);
        let cancel = random.chance(300).then(|| {
            let polls = 1 + u32::try_from(random.below(8)).unwrap_or(0);
            let after = random.between(0, 2 * ttl);
            random.pick(&[Cancel::Polls(polls), Cancel::Wakes(polls), Cancel::After(after)])
        });
        let end = match random.below(10) {
            0..=5 => End::Release(early(random)),
            6 => End::ReleaseThen,
            7 | 8 => End::Forget,
            _ => End::Loss,
        };
        let idle = if random.chance(500) { 0 } else { random.between(0, ttl) };
        let options = draw_options(random, call, own);
        Self { idle, key, call, cancel, body: draw_body(random, own), end, options }
    }

    /// Waits for the first key, most of them for as long as it takes.
    fn of_crowd(random: &mut Random, ttl: Nanos) -> Self {
        let mut options = LockOptions { ttl: Duration::from_nanos(ttl), fair: !random.chance(100), ..LockOptions::default() };
        if random.chance(400) {
            options.wait = Some(Duration::from_nanos(random.between(MS, 3 * ttl)));
        }
        let cancel = random.chance(100).then(|| Cancel::After(random.between(0, 2 * ttl)));
        let body = vec![Act::Work(random.between(0, ttl / 4))];
        let call = random.pick(&[Call::Acquire, Call::Acquire, Call::Then, Call::With]);
        Self { idle: random.between(0, ttl), key: 0, options, call, cancel, body, end: End::Release(None) }
    }
}

/// Dropped at the first or the second await; the first poll always happens.
fn early(random: &mut Random) -> Option<Cancel> {
    random.chance(250).then(|| random.pick(&[Cancel::Polls(1), Cancel::Wakes(1), Cancel::Polls(2)]))
}

fn draw_options(random: &mut Random, call: Call, ttl: Nanos) -> LockOptions {
    let duration = Duration::from_nanos;
    let mut options = LockOptions { ttl: duration(ttl), ..LockOptions::default() };
    options.renew = !random.chance(150);
    options.fair = !random.chance(150);
    if random.chance(250) {
        options.wait = Some(duration(random.between(MS, 3 * ttl)));
    }
    if random.chance(100) {
        // Without jitter: that would be drawn elsewhere.
        let retry = Retry { max_retries: 5, delay: duration(ttl / 10), backoff: 1.5, jitter: 0.0 };
        options.retry = Some(retry);
    }
    if random.chance(100) {
        options.max_hold = Some(duration(random.between(ttl / 2, 4 * ttl)));
    }
    if random.chance(50) {
        options.max_stall = Some(duration(random.between(100 * MS, 2 * ttl)));
    }
    if random.chance(200) {
        options.renewal_threshold = random.pick(&[0.5, 0.9]);
    }
    if call == Call::Try {
        options.retry = None;
    }
    options
}

fn draw_body(random: &mut Random, ttl: Nanos) -> Vec<Act> {
    if random.chance(200) {
        return Vec::new();
    }
    let work = |random: &mut Random| {
        let longest = random.pick(&[5 * MS, ttl / 4, ttl, 3 * ttl]);
        Act::Work(random.between(0, longest))
    };
    let mut body = vec![work(random)];
    for _ in 0..random.below(3) {
        body.push(match random.below(8) {
            0 | 1 => Act::Extend { ttl: (ttl * random.pick(&[50, 100, 200]) / 100).max(100 * MS), cancel: early(random) },
            2 => Act::AutoRenew(random.chance(500)),
            // Bounded: who holds it may wait for the key that we hold.
            3 | 4 => Act::Nest { wait: random.between(MS, 3 * ttl), hold: random.between(0, ttl) },
            _ => Act::Heartbeat,
        });
        body.push(work(random));
    }
    body
}
