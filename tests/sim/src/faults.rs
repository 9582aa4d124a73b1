//! What goes wrong: the weather that every request goes through, and the disasters of one seed.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::random::Random;
use crate::world::{MS, Nanos, SECOND};

/// A kind of fault, for the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    RequestLost,
    AnswerLost,
    NotSent,
    Duplicate,
    Slow,
    Ghost,
    HintLost,
    Stutter,
    Pause,
    Partition,
    Outage,
    Amnesia,
    LeaseLost,
    WallStep,
    Crash,
    Close,
    Cancel,
}

const NAMES: [&str; 17] = [
    "requests lost",
    "answers lost",
    "not sent",
    "duplicates",
    "late",
    "ghosts",
    "hints lost",
    "stutters",
    "pauses",
    "partitions",
    "outages",
    "amnesias",
    "leases lost",
    "wall steps",
    "crashes",
    "closes",
    "cancellations",
];

/// How often each kind of fault was met, over all seeds of this run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: [AtomicU64; NAMES.len()],
}

impl Tally {
    pub(crate) fn count(&self, fault: Fault) {
        self.counts[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.into_iter().zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

/// How the network behaves, in thousandths of all requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) request_lost: u32,
    pub(crate) answer_lost: u32,
    pub(crate) not_sent: u32,
    pub(crate) duplicate: u32,
    pub(crate) slow: u32,
    pub(crate) hint_lost: u32,
    pub(crate) hint_invented: u32,
    /// Of all times a machine would run: the kernel runs somebody else.
    pub(crate) stutter: u32,
    /// The longest way of a request or an answer that is not slow.
    pub(crate) way: Nanos,
}

impl Weather {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let way = random.pick(&[0, 200_000, 2 * MS, 10 * MS]);
        if random.chance(250) {
            return Self { way, ..Self::default() };
        }
        let mut rate = |rates: &[u32]| if random.chance(500) { random.pick(rates) } else { 0 };
        Self {
            request_lost: rate(&[5, 20, 100, 250]),
            answer_lost: rate(&[5, 20, 100, 250]),
            not_sent: rate(&[5, 20, 100]),
            duplicate: rate(&[20, 100, 300]),
            slow: rate(&[5, 20, 100, 250]),
            hint_lost: rate(&[20, 100, 500]),
            hint_invented: rate(&[20, 100]),
            stutter: rate(&[5, 20, 100]),
            way,
        }
    }

    /// The same place on a fine day.
    pub(crate) fn calm(&self) -> Self {
        Self { way: self.way, ..Self::default() }
    }
}

/// Which way a partition cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Both,
    /// Requests arrive and are executed; nothing comes back.
    Answers,
}

/// Something that happens to one machine or to the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disaster {
    Pause {
        client: usize,
        lasts: Nanos,
    },
    Partition {
        client: usize,
        cut: Cut,
        lasts: Nanos,
    },
    /// No machine reaches the server.
    Outage {
        lasts: Nanos,
    },
    Crash {
        client: usize,
    },
    Close {
        client: usize,
        timeout: Nanos,
    },
    WallStep {
        client: usize,
        millis: i64,
    },
    /// The server restarts and has forgotten everything.
    Amnesia,
    /// The server drops one lease, as an eviction would.
    LoseLease {
        key: usize,
    },
}

/// Draws what happens in a storm of this length.
pub(crate) fn draw_disasters(random: &mut Random, clients: usize, keys: usize, ttl: Nanos, storm: Nanos) -> Vec<(Nanos, Disaster)> {
    let mut disasters = Vec::new();
    let mut several = |random: &mut Random, per_mille: u32, most: u64, draw: &dyn Fn(&mut Random) -> Disaster| {
        if random.chance(per_mille) {
            for _ in 0..=random.below(most) {
                disasters.push((random.between(0, storm), draw(random)));
            }
        }
    };
    let client = |random: &mut Random| usize::try_from(random.below(clients as u64)).unwrap_or(0);
    let key = |random: &mut Random| usize::try_from(random.below(keys as u64)).unwrap_or(0);
    several(random, 350, 4, &|random| {
        let lasts = random.between(ttl / 5, 3 * ttl);
        Disaster::Pause { client: client(random), lasts }
    });
    several(random, 250, 3, &|random| {
        let (cut, lasts) = (random.pick(&[Cut::Both, Cut::Answers]), random.between(10 * MS, 2 * ttl));
        Disaster::Partition { client: client(random), cut, lasts }
    });
    several(random, 200, 2, &|random| Disaster::Outage { lasts: random.between(ttl / 5, 3 * ttl).min(20 * SECOND) });
    several(random, 120, 1, &|random| Disaster::Crash { client: client(random) });
    several(random, 120, 1, &|random| {
        let timeout = random.pick(&[0, ttl / 2, 2 * ttl, 5 * SECOND]);
        Disaster::Close { client: client(random), timeout }
    });
    several(random, 300, 3, &|random| {
        let millis = i64::try_from(random.below(7_200_000)).unwrap_or(0) - 3_600_000;
        Disaster::WallStep { client: client(random), millis }
    });
    several(random, 100, 2, &|_| Disaster::Amnesia);
    several(random, 100, 2, &|random| Disaster::LoseLease { key: key(random) });
    disasters
}
