//! A machine: one client in a process of its own, which runs only when the world lets it.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use dlock::backend::{Backend, Capabilities, Context, Hint};
use dlock::environment::Environment;
use dlock::owner::SessionId;
use dlock::{Client, ClientOptions};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc::unbounded_channel;

use crate::clock::MachineClock;
use crate::history::History;
use crate::judge::Judge;
use crate::network::Network;
use crate::plan::Plan;
use crate::server::Server;
use crate::wire::Wire;
use crate::world::Nanos;

/// A runtime that runs until nothing in it can go on.
pub(crate) struct Pump {
    runtime: Runtime,
    idle: Arc<Idle>,
}

#[derive(Default)]
struct Idle {
    reached: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Pump {
    pub(crate) fn new() -> std::io::Result<Self> {
        let idle = Arc::<Idle>::default();
        let parking = idle.clone();
        let parked = move || {
            parking.reached.store(true, Ordering::Relaxed);
            if let Some(waker) = parking.waker.lock().take() {
                waker.wake();
            }
        };
        Ok(Self { runtime: Builder::new_current_thread().on_thread_park(parked).build()?, idle })
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    fn has_work(&self) -> bool {
        self.handle().metrics().global_queue_depth() > 0
    }

    fn tasks(&self) -> usize {
        self.handle().metrics().num_alive_tasks()
    }

    fn run_until_idle(&self) {
        self.idle.reached.store(false, Ordering::Relaxed);
        self.runtime.block_on(poll_fn(|context| {
            if self.idle.reached.load(Ordering::Relaxed) {
                return Poll::Ready(());
            }
            *self.idle.waker.lock() = Some(context.waker().clone());
            Poll::Pending
        }));
    }
}

/// What all machines share.
pub(crate) struct Surroundings {
    pub(crate) server: Arc<Server>,
    pub(crate) network: Arc<Network>,
    pub(crate) history: Arc<History>,
    pub(crate) judge: Arc<Judge>,
}

pub(crate) struct Machine {
    engine: Pump,
    callers: Option<Pump>,
    client: Option<Client>,
    /// Stands still until then.
    pub(crate) paused_until: Nanos,
    pub(crate) crashed: bool,
}

/// Who the client of a machine is.
pub(crate) fn session_of(client: usize) -> SessionId {
    SessionId::from_u128(client as u128 + 1)
}

impl Machine {
    pub(crate) fn start(
        client: usize,
        plan: &Plan,
        clock: &Arc<MachineClock>,
        around: &Surroundings,
        capabilities: &Capabilities,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let engine = Pump::new()?;
        let callers = plan.machines[client].callers_apart.then(Pump::new).transpose()?;
        let options =
            ClientOptions { op_timeout: plan.op_timeout, connect_timeout: plan.connect_timeout, ..ClientOptions::default() };
        let wire = {
            let (server, network) = (around.server.clone(), around.network.clone());
            let (history, judge) = (around.history.clone(), around.judge.clone());
            let (clock, capabilities, bound) = (clock.clone(), capabilities.clone(), plan.bound);
            move |context: Context| -> Arc<dyn Backend> {
                take_hints(client, &network, &context);
                Arc::new(Wire {
                    client,
                    server: server.clone(),
                    network: network.clone(),
                    history: history.clone(),
                    judge: judge.clone(),
                    clock: clock.clone(),
                    bound,
                    capabilities: capabilities.clone(),
                    name: "simulated".into(),
                    closed: AtomicBool::new(false),
                })
            }
        };
        let environment = Environment {
            backend: Arc::new(dlock::backend::Plan::new(capabilities.clone(), "simulated".into(), wire)),
            clock: clock.clone(),
            engine: Some(engine.handle().clone()),
            session: Some(session_of(client)),
        };
        let client = Client::in_environment(options, environment)?;
        Ok(Self { engine, callers, client: Some(client), paused_until: 0, crashed: false })
    }

    /// Where its callers live.
    pub(crate) fn callers(&self) -> &Handle {
        self.callers.as_ref().unwrap_or(&self.engine).handle()
    }

    pub(crate) fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    pub(crate) fn forget_client(&mut self) {
        self.client = None;
    }

    pub(crate) fn wants_to_run(&self, now: Nanos) -> bool {
        !self.crashed && self.paused_until <= now && (self.engine.has_work() || self.callers.as_ref().is_some_and(Pump::has_work))
    }

    pub(crate) fn run(&self) {
        loop {
            if self.engine.has_work() {
                self.engine.run_until_idle();
            } else if let Some(callers) = self.callers.as_ref().filter(|callers| callers.has_work()) {
                callers.run_until_idle();
            } else {
                return;
            }
        }
    }

    /// What still lives in it.
    pub(crate) fn tasks(&self) -> usize {
        self.engine.tasks() + self.callers.as_ref().map_or(0, Pump::tasks)
    }
}

/// Hints are taken by the machine itself, when it runs.
fn take_hints(client: usize, network: &Network, context: &Context) {
    let (mailbox, mut hints) = unbounded_channel::<Hint>();
    network.connect(client, mailbox);
    let on_hint = context.on_hint.clone();
    if let Ok(engine) = Handle::try_current() {
        engine.spawn(async move {
            while let Some(hint) = hints.recv().await {
                on_hint(hint);
            }
        });
    }
}
