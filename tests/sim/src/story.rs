//! One seed, one history: sets the world up, lets it run, has it judged, and looks at what is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dlock::backend::{Acquire, Acquired, Capabilities, Hint, Release};
use dlock::owner::OwnerId;

use crate::caller::{Caller, key};
use crate::clock::MachineClock;
use crate::faults::{Cut, Disaster, Fault, Tally};
use crate::history::History;
use crate::judge::{Judge, Sums};
use crate::ledger::{Ledger, Troubles};
use crate::machine::{Machine, Surroundings, session_of};
use crate::network::{Network, Setup};
use crate::plan::{Act, Bound, NESTED, Plan};
use crate::server::{Post, Server};
use crate::world::{MS, Nanos, SECOND, World};

/// A history has fewer events than this, or something runs in circles.
const EVENTS: u64 = 400_000;

/// For so long after its last trouble a machine may be busy with it: it tries again, or withdraws what could still be executed late.
const AFTERMATH: Nanos = 4 * SECOND;

/// What came of a seed.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    pub(crate) sums: Sums,
    pub(crate) requests: u64,
    pub(crate) digest: u64,
    pub(crate) trace: String,
}

struct Story {
    plan: Plan,
    world: Arc<World>,
    around: Surroundings,
    ledger: Arc<Ledger>,
    clocks: Vec<Arc<MachineClock>>,
    machines: Vec<Machine>,
    post: Arc<Post>,
    tally: Arc<Tally>,
    /// Callers that are not done, of each machine.
    busy: Vec<Arc<AtomicUsize>>,
    /// Disasters, the last one first.
    coming: Vec<(Nanos, Disaster)>,
    events: u64,
    /// A machine left without saying goodbye, or in such trouble that it may have been unable to.
    deserted: Arc<AtomicBool>,
    /// For how long each machine was cut off.
    cut_off: Vec<Nanos>,
}

/// Runs one seed, with clocks that are wrong by at most `error` millionths.
pub(crate) fn run(seed: u64, error: u64, tracing: bool, tally: &Arc<Tally>) -> Outcome {
    let plan = Plan::draw(seed, error);
    let world = World::new(tracing);
    let result = Story::begin(plan, &world, tally).map(|mut story| {
        story.play();
        let outcome = story.end();
        world.end();
        story.around.history.end();
        outcome
    });
    let (sums, requests) = result.unwrap_or_else(|error| {
        world.violate(|| format!("the story could not begin: {error}"));
        (Sums::default(), 0)
    });
    world.end();
    Outcome { violations: world.violations(), sums, requests, digest: world.digest(), trace: world.take_trace() }
}

impl Story {
    fn begin(plan: Plan, world: &Arc<World>, tally: &Arc<Tally>) -> Result<Self, Box<dyn std::error::Error>> {
        let clients = plan.machines.len();
        let clocks: Vec<_> = plan.machines.iter().map(|machine| MachineClock::new(world, machine.origin, machine.rate)).collect();
        let ledger = Ledger::new(world, &Troubles::new(clients));
        // One session more, for ourselves at the end.
        let sessions = (0..=clients).map(session_of).collect();
        let server = Server::new(world, &ledger, plan.bound, plan.age, sessions);
        let op_timeout = u64::try_from(plan.op_timeout.as_nanos()).unwrap_or(0);
        let slowest = match plan.bound {
            Bound::Window(window) => window.max(op_timeout) * 3 / 2,
            Bound::Guard => op_timeout * 4,
        };
        let setup = Setup { clients, weather: plan.weather.clone(), random: plan.random.clone(), slowest };
        let network = Network::new(&ledger, world, tally, setup);
        let posted = network.clone();
        let post: Arc<Post> = Arc::new(move |client, hint: Hint| posted.hint(client, hint));
        server.start(&post);
        let history = History::new(world, clocks.clone());
        let judge = Judge::new(world, &history, &ledger, &plan);
        let around = Surroundings { server, network, history, judge };
        let capabilities = capabilities(&plan);
        let machines = (0..clients)
            .map(|client| Machine::start(client, &plan, &clocks[client], &around, &capabilities))
            .collect::<Result<_, _>>()?;
        let mut coming = plan.disasters.clone();
        coming.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        let busy = (0..clients).map(|_| Arc::default()).collect();
        let (world, tally) = (world.clone(), tally.clone());
        Ok(Self {
            plan,
            world,
            around,
            ledger,
            clocks,
            machines,
            post,
            tally,
            busy,
            coming,
            events: 0,
            deserted: Arc::default(),
            cut_off: vec![0; clients],
        })
    }

    fn play(&mut self) {
        self.world.trace(|| format!("{:#?}", self.plan));
        for (client, machine) in self.plan.machines.iter().enumerate() {
            for (number, steps) in machine.callers.iter().enumerate() {
                let Some(handle) = self.machines[client].client().cloned() else { continue };
                let caller = self.caller(client, number);
                self.busy[client].fetch_add(1, Ordering::Relaxed);
                self.machines[client].callers().spawn(caller.run(handle, steps.clone()));
            }
        }
        self.run_until(self.plan.storm, false);
        self.clear_up();
        self.world.trace(|| "the storm is over".to_owned());
        self.run_until(self.world.now() + self.longest_day(), true);
        let busy = self.busy();
        if busy > 0 && self.events < EVENTS {
            self.world.violate(|| format!("starved: {busy} callers never came to their end"));
        }
    }

    fn caller(&self, client: usize, number: usize) -> Caller {
        Caller {
            client,
            name: format!("caller {client}.{number}"),
            world: self.world.clone(),
            clock: self.clocks[client].clone(),
            history: self.around.history.clone(),
            ledger: self.ledger.clone(),
            judge: self.around.judge.clone(),
            tally: self.tally.clone(),
            busy: self.busy[client].clone(),
        }
    }

    /// Callers that are not done; those of a machine that crashed never will be.
    fn busy(&self) -> usize {
        let alive = self.machines.iter().zip(&self.busy).filter(|(machine, _)| !machine.crashed);
        alive.map(|(_, busy)| busy.load(Ordering::Relaxed)).sum()
    }

    /// More than all callers together need when each waits for all others.
    fn longest_day(&self) -> Nanos {
        let steps = self.plan.machines.iter().flat_map(|machine| &machine.callers).flatten();
        let of_step = |step: &crate::plan::Step| {
            let work = step.body.iter().map(lasts).sum::<Nanos>();
            step.idle + work + 12 * u64::try_from(step.options.ttl.as_nanos()).unwrap_or(0)
        };
        steps.map(of_step).sum::<Nanos>() + 120 * SECOND
    }

    /// Runs whoever can run, and moves time on when nobody can; up to `end`, or until all callers are done.
    fn run_until(&mut self, end: Nanos, until_done: bool) {
        loop {
            self.run_machines();
            if until_done && self.busy() == 0 {
                return;
            }
            self.events += 1;
            if self.events >= EVENTS {
                if self.events == EVENTS {
                    self.world.violate(|| "in circles: too many events".to_owned());
                }
                return;
            }
            let next = self.coming.last().map_or(Nanos::MAX, |(at, _)| *at);
            if self.world.go_on(end.min(next)) {
                continue;
            }
            self.world.skip_to(end.min(next));
            if next > end {
                return;
            }
            if let Some((_, disaster)) = self.coming.pop() {
                self.strike(disaster);
            }
        }
    }

    fn run_machines(&mut self) {
        let now = self.world.now();
        for client in 0..self.machines.len() {
            if !self.machines[client].wants_to_run(now) {
                continue;
            }
            if let Some(lasts) = self.around.network.stutter() {
                self.tally.count(Fault::Stutter);
                self.pause(client, lasts);
                continue;
            }
            self.machines[client].run();
            self.around.history.sample(client);
        }
    }

    /// Everything works from now on.
    fn clear_up(&mut self) {
        self.around.network.clear_up();
        for machine in &mut self.machines {
            machine.paused_until = 0;
        }
    }

    fn pause(&mut self, client: usize, lasts: Nanos) {
        self.around.judge.sleeps(client, lasts);
        let machine = &mut self.machines[client];
        machine.paused_until = machine.paused_until.max(self.world.now() + lasts);
        self.world.after(lasts, || {});
    }

    fn strike(&mut self, disaster: Disaster) {
        self.world.trace(|| format!("{disaster:?}"));
        let fault = match disaster {
            Disaster::Pause { client, lasts } => {
                self.pause(client, lasts);
                Fault::Pause
            }
            Disaster::Partition { client, cut, lasts } => {
                self.cut(client, cut, lasts);
                Fault::Partition
            }
            Disaster::Outage { lasts } => {
                for client in 0..self.machines.len() {
                    self.cut(client, Cut::Both, lasts);
                }
                Fault::Outage
            }
            Disaster::Crash { client } => {
                self.crash(client);
                Fault::Crash
            }
            Disaster::Close { client, timeout } => {
                self.close(client, timeout);
                Fault::Close
            }
            Disaster::WallStep { client, millis } => {
                self.clocks[client].step_wall(millis);
                Fault::WallStep
            }
            Disaster::Amnesia => {
                self.around.server.forget_all(&self.post);
                for client in 0..self.machines.len() {
                    self.around.network.hint(client, Hint::All);
                }
                Fault::Amnesia
            }
            Disaster::LoseLease { key: number } => {
                if !self.around.server.lose_lease(&key(number)) {
                    return;
                }
                Fault::LeaseLost
            }
        };
        self.tally.count(fault);
    }

    fn cut(&mut self, client: usize, cut: Cut, lasts: Nanos) {
        // What a machine could not give up for a minute is left to the next who asks.
        self.cut_off[client] += lasts;
        self.deserted.fetch_or(self.cut_off[client] > 50 * SECOND, Ordering::Relaxed);
        self.around.network.cut(client, cut, lasts);
    }

    fn crash(&mut self, client: usize) {
        let alive = self.machines.iter().filter(|machine| !machine.crashed).count();
        if alive < 2 || self.machines[client].crashed {
            return;
        }
        self.machines[client].crashed = true;
        self.deserted.store(true, Ordering::Relaxed);
        self.around.network.disconnect(client, true);
        self.around.judge.sleeps(client, Nanos::MAX / 2);
    }

    fn close(&mut self, client: usize, timeout: Nanos) {
        let machine = &self.machines[client];
        let Some(handle) = machine.client().cloned().filter(|_| !machine.crashed) else { return };
        let judge = self.around.judge.clone();
        judge.closing(client, self.world.now() + timeout * 97 / 100);
        let (world, ledger, deserted) = (self.world.clone(), self.ledger.clone(), self.deserted.clone());
        machine.callers().spawn(async move {
            let began = world.now();
            let _ = handle.close(Duration::from_nanos(timeout)).await;
            world.trace(|| format!("client {client} is closed"));
            // What a client in trouble cannot release in time is left to expire.
            let trouble = ledger.troubles.last(client);
            deserted.fetch_or(trouble > 0 && trouble + AFTERMATH >= began, Ordering::Relaxed);
            judge.closed(client, began, timeout);
        });
    }

    /// Nothing may be left: no lease, no place, no task.
    fn end(&mut self) -> (Sums, u64) {
        let sums = self.around.judge.compare();
        let window = 2 * u64::try_from(self.plan.op_timeout.as_nanos()).unwrap_or(0);
        // Whoever is being closed is closed by then.
        self.run_until(self.world.now() + window.max(SECOND) + 4 * SECOND, false);
        if self.deserted.load(Ordering::Relaxed) {
            // What a dead machine had runs out; what it had queued for is passed by.
            self.run_until(self.world.now() + 8 * self.plan.longest_ttl, false);
            self.probe();
        }
        for number in (0..self.plan.keys).chain([NESTED]) {
            self.look_at(&key(number));
        }
        for client in 0..self.machines.len() {
            self.close(client, 0);
        }
        self.run_until(self.world.now() + 70 * SECOND, false);
        self.count_tasks();
        (sums, self.around.network.requests())
    }

    fn look_at(&self, key: &Arc<str>) {
        let Ok(left) = self.around.server.inspect(self.machines.len(), key) else { return };
        if let Some(holder) = &left.holder {
            self.world.violate(|| format!("left behind: {key} is held by {}, for {:?} more", holder.owner, holder.remaining));
        }
        if !left.queue.is_empty() {
            self.world.violate(|| format!("left behind: {:?} wait for {key}", left.queue));
        }
    }

    /// Takes every key once, as a newcomer would: it must be had within a claim for each dead waiter.
    fn probe(&mut self) {
        let us = self.machines.len();
        for number in (0..self.plan.keys).chain([NESTED]) {
            let (key, owner) = (key(number), OwnerId { session: session_of(us), sequence: number as u64 + 1 });
            let ttl = Duration::from_secs(1);
            let request = || Acquire {
                key: key.clone(),
                owner,
                ttl,
                fair: true,
                enqueue: true,
                note: "{}".into(),
                renew: true,
                floor: 0,
                timeout: ttl,
            };
            let granted = (0..40).any(|_| {
                let answer = self.around.server.acquire(us, self.world.now(), &request());
                let granted = matches!(answer, Ok(Acquired::Granted(_)));
                if !granted {
                    self.run_until(self.world.now() + 600 * MS, false);
                }
                granted
            });
            if !granted {
                self.world.violate(|| format!("left behind: nobody can have {key}"));
            }
            let _ = self.around.server.release(us, self.world.now(), Release { key: key.clone(), owner, next: None, timeout: ttl });
        }
    }

    fn count_tasks(&mut self) {
        for (client, machine) in self.machines.iter_mut().enumerate().filter(|(_, machine)| !machine.crashed) {
            machine.forget_client();
            self.around.network.disconnect(client, false);
        }
        self.run_machines();
        for (client, machine) in self.machines.iter().enumerate().filter(|(_, machine)| !machine.crashed) {
            let tasks = machine.tasks();
            if tasks > 0 && self.events < EVENTS && self.busy() == 0 {
                self.world.violate(|| format!("left behind: {tasks} tasks of client {client}"));
            }
        }
    }
}

/// How long a holder is busy with it.
fn lasts(act: &Act) -> Nanos {
    match act {
        Act::Work(nanos) => *nanos,
        Act::Nest { wait, hold } => wait + hold,
        _ => 0,
    }
}

fn capabilities(plan: &Plan) -> Capabilities {
    let late_window = match plan.bound {
        Bound::Window(window) => Duration::from_nanos(window),
        Bound::Guard => Duration::ZERO,
    };
    Capabilities {
        scheme: "simulated",
        fair: true,
        crash_release: false,
        ttl_floor: Duration::from_millis(100),
        margin: plan.margin,
        heartbeat: plan.heartbeat,
        late_window,
        batch: plan.batch,
        reserved: None,
        counts_tokens: false,
    }
}
