//! The Rust worker: takes keys, holds them, touches the fenced register, releases them, and logs what it was told. It judges
//! nothing.
//!
//! Its one argument is a JSON object, see `crew.py`. It goes on until stdin ends or says `finish`; then it ends what is under way. Times
//! are milliseconds of `CLOCK_MONOTONIC`, which all processes of the machine share. A line is in the log before the next step is taken.

#![forbid(unsafe_code)]

mod log;
mod random;
mod register;

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::io::Read as _;
use std::rc::Rc;
use std::time::Duration;

use dlock::{Client, ClientOptions, Lease, LockOptions};
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::json;
use tokio::task::LocalSet;

use crate::log::{Log, now};
use crate::random::Random;
use crate::register::Register;

/// Of the holds: long ones live by renewal.
const LONG_SHARE: f64 = 0.02;

#[derive(Deserialize)]
struct Plan {
    url: String,
    namespace: String,
    /// In milliseconds, as all times.
    ttl: f64,
    op_timeout: f64,
    think: f64,
    seed: u64,
    tasks: usize,
    /// The share of attempts that go to the hot keys.
    heat: f64,
    hot: Vec<String>,
    cold: Vec<String>,
    log: String,
    register: (String, u16),
}

struct Worker {
    client: Client,
    log: Rc<Log>,
    random: RefCell<Random>,
    register: Register,
    attempts: Cell<u64>,
    finishing: Cell<bool>,
    plan: Plan,
}

fn main() -> Result<(), Box<dyn Error>> {
    // A panic, on whatever thread, ends the process: the exit code tells.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::exit(101);
    }));
    let plan: Plan = serde_json::from_str(&std::env::args().nth(1).ok_or("a plan is missing")?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = LocalSet::new().block_on(&runtime, run(plan));
    dlock::shutdown(Duration::from_secs(2));
    result
}

async fn run(plan: Plan) -> Result<(), Box<dyn Error>> {
    let options =
        ClientOptions { namespace: plan.namespace.clone(), op_timeout: millis(plan.op_timeout), ..ClientOptions::default() };
    let worker = Rc::new(Worker {
        client: Client::with_options(&plan.url, options)?,
        log: Rc::new(Log::open(&plan.log)?),
        random: RefCell::new(Random::new(plan.seed)),
        register: Register::new(plan.register.clone()),
        attempts: Cell::new(0),
        finishing: Cell::new(false),
        plan,
    });
    worker.log.write("start", json!({"pid": std::process::id(), "language": "rust"}));
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        let _ = tell.send(());
    });
    let listener = worker.clone();
    tokio::task::spawn_local(async move {
        let _ = told.await;
        listener.finishing.set(true);
    });
    join_all((0..worker.plan.tasks).map(|_| worker.cycle())).await;
    worker.client.close(Duration::ZERO).await?;
    worker.log.write("end", json!({}));
    Ok(())
}

impl Worker {
    async fn cycle(&self) {
        while !self.finishing.get() {
            self.attempt().await;
            let pause = -(1.0 - self.draw()).ln() * self.plan.think;
            tokio::time::sleep(millis(pause)).await;
        }
    }

    async fn attempt(&self) {
        let number = self.attempts.get() + 1;
        self.attempts.set(number);
        let keys = if self.draw() < self.plan.heat { &self.plan.hot } else { &self.plan.cold };
        let key = self.random.borrow_mut().pick(keys).clone();
        let mode =
            *self.random.borrow_mut().pick(&["wait", "wait", "wait", "wait", "wait", "wait", "wait", "unfair", "cancel", "try"]);
        let options = LockOptions { ttl: millis(self.plan.ttl), fair: mode != "unfair", ..LockOptions::default() };
        let lock = self.client.lock_with(&key, options);
        self.log.write("ask", json!({"n": number, "k": key, "m": mode}));
        let answer = match mode {
            "try" => lock.try_acquire().await,
            "cancel" => {
                let patience = millis(self.draw() * 300.0);
                let Ok(answer) = tokio::time::timeout(patience, lock.acquire()).await else {
                    self.log.write("cancelled", json!({"n": number}));
                    return;
                };
                answer.map(Some)
            }
            _ => lock.acquire().await.map(Some),
        };
        match answer {
            Ok(Some(lease)) => self.hold(number, &key, &lease).await,
            Ok(None) => self.log.write("failed", json!({"n": number, "code": "LOCK_BUSY"})),
            Err(error) => self.log.write("failed", json!({"n": number, "code": error.code()})),
        }
    }

    async fn hold(&self, number: u64, key: &str, lease: &Lease) {
        let at = now();
        let until = at + in_millis(lease.remaining());
        self.log.write("grant", json!({"n": number, "at": at, "until": until, "token": lease.token(), "owner": lease.owner()}));
        let losing = tokio::task::spawn_local(tell_loss(self.log.clone(), number, lease.clone()));
        let seen = self.register.read(key, lease.token()).await;
        let end = now() + self.how_long();
        loop {
            let left = end - now();
            if left <= 0.0 {
                break;
            }
            tokio::time::sleep(millis(left.min(self.plan.ttl / 6.0))).await;
            let (at, remaining) = (now(), in_millis(lease.remaining()));
            if remaining > 0.0 {
                self.log.write("held", json!({"n": number, "at": at, "until": at + remaining}));
            }
        }
        self.register.write(key, lease.token(), seen).await;
        self.log.write("releasing", json!({"n": number}));
        losing.abort();
        // Only a forked child gets an error here.
        let ok = lease.release().await.unwrap_or(false);
        self.log.write("released", json!({"n": number, "ok": ok, "status": lease.status().as_str()}));
    }

    fn how_long(&self) -> f64 {
        let draw = self.draw();
        if draw < LONG_SHARE {
            return (1.0 + 1.5 * self.draw()) * self.plan.ttl;
        }
        if draw < 0.1 { 0.15 * self.draw() * self.plan.ttl } else { self.draw() * 10.0 }
    }

    fn draw(&self) -> f64 {
        self.random.borrow_mut().share()
    }
}

async fn tell_loss(log: Rc<Log>, number: u64, lease: Lease) {
    let why = lease.lost().await;
    log.write("lost", json!({"n": number, "why": why.as_str()}));
}

fn millis(value: f64) -> Duration {
    Duration::from_secs_f64(value.max(0.0) / 1000.0)
}

fn in_millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
