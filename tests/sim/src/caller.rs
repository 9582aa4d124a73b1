//! A caller: asks for keys as its plan says, holds them, and releases them or does not.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use dlock::clock::{Clock, Instant};
use dlock::{Client, Error, Lease, Lock, LockOptions, LossReason, Status};
use parking_lot::Mutex;

use crate::clock::{MachineClock, sleep};
use crate::faults::{Fault, Tally};
use crate::history::{History, Remaining};
use crate::judge::Judge;
use crate::ledger::Ledger;
use crate::plan::{Act, Call, Cancel, End, NESTED, Step};
use crate::world::{Nanos, SECOND, World};

pub(crate) struct Caller {
    pub(crate) client: usize,
    pub(crate) name: String,
    pub(crate) world: Arc<World>,
    pub(crate) clock: Arc<MachineClock>,
    pub(crate) history: Arc<History>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) judge: Arc<Judge>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) busy: Arc<AtomicUsize>,
}

impl Caller {
    pub(crate) async fn run(self, client: Client, steps: Vec<Step>) {
        for step in steps {
            sleep(&self.clock, step.idle).await;
            self.take(&client, &step).await;
        }
        drop(client);
        self.world.trace(|| format!("{} is done", self.name));
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }

    async fn take(&self, client: &Client, step: &Step) {
        let lock = client.lock_with(&key(step.key), step.options.clone());
        let waits = step.call != Call::Try && step.options.retry.is_none() && step.options.wait != Some(Duration::ZERO);
        let place = waits.then(|| self.history.enter(self.client, lock.key(), step.options.fair));
        let (ttl, fair) = (step.options.ttl, step.options.fair);
        self.world.trace(|| {
            let (name, call, key, cancel) = (&self.name, step.call, lock.key(), step.cancel);
            format!("{name} asks for {key} by {call:?}, ttl {ttl:?}, fair {fair}, wait {:?}, cancel {cancel:?}", step.options.wait)
        });
        let refuses = self.judge.refuses(self.client);
        if step.call == Call::With {
            return self.scoped(&lock, step, place, refuses).await;
        }
        let joined = self.world.now();
        let answer = self.ask(&lock, step).await;
        if let (Some(_), Some(Err(error))) = (place, &answer) {
            self.judge.outages.told(self.client, lock.key(), joined, error);
        }
        let granted = matches!(&answer, Some(Ok(_)));
        if granted {
            self.judge.admitted_outsider(self.client, refuses);
        }
        self.answered(&lock, place, granted);
        match answer {
            Some(Ok(lease)) => self.hold(lock, lease, step).await,
            Some(Err(error)) => self.world.trace(|| format!("{} gets {error}", self.name)),
            None => self.world.trace(|| format!("{} has been cancelled", self.name)),
        }
    }

    /// It waits no longer.
    fn answered(&self, lock: &Lock, place: Option<u64>, granted: bool) {
        let Some(place) = place else { return };
        match self.history.leave(self.client, lock.key(), place, granted) {
            Remaining::Nobody => {
                self.ledger.unwanted(lock.key(), self.client);
                self.judge.outages.nobody_waits(self.client, lock.key());
            }
            Remaining::Newcomers => self.judge.outages.may_begin_anew(self.client, lock.key()),
            Remaining::Others => {}
        }
    }

    async fn scoped(&self, lock: &Lock, step: &Step, place: Option<u64>, refuses: bool) {
        let (told, joined) = (Mutex::new(None), self.world.now());
        let work = lock.with(|lease| {
            self.answered(lock, place, true);
            self.judge.admitted_outsider(self.client, refuses);
            let number = self.told(&lease, step);
            *told.lock() = Some(number);
            async move {
                for act in &step.body {
                    match *act {
                        Act::Work(nanos) => sleep(&self.clock, nanos).await,
                        act => self.act(lock, &lease, number, step, act).await,
                    }
                }
                self.history.releasing(number);
            }
        });
        let outcome = self.until(step.cancel, work).await;
        let told = *told.lock();
        match (outcome, told) {
            (Some(Ok(())), _) => {}
            (Some(Err(Error::LockLost { reason, .. })), Some(number)) => self.judge.loss(number, reason, 0),
            (None, Some(number)) => self.history.releasing(number),
            (outcome, _) => {
                if let Some(Err(Error::LockLost { reason, .. })) = &outcome
                    && *reason != LossReason::Closed
                {
                    self.world.violate(|| format!("told late: {} lost its lease before its body began: {reason}", self.name));
                }
                if let (Some(_), Some(Err(error))) = (place, &outcome) {
                    self.judge.outages.told(self.client, lock.key(), joined, error);
                }
                self.answered(lock, place, false);
                self.world.trace(|| format!("{} got nothing: {outcome:?}", self.name));
            }
        }
    }

    async fn ask(&self, lock: &Lock, step: &Step) -> Option<Result<Lease, Error>> {
        match step.call {
            Call::Acquire | Call::With => self.until(step.cancel, lock.acquire()).await,
            Call::Try => {
                let tried = self.until(step.cancel, lock.try_acquire()).await?;
                tried.transpose()
            }
            Call::Then => {
                let (told, heard) = tokio::sync::oneshot::channel();
                let call = match lock.acquire_then(lock.options().wait, move |lease| drop(told.send(lease))) {
                    Ok(call) => call,
                    Err(error) => return Some(Err(error)),
                };
                let heard = self.until(step.cancel, heard).await;
                if heard.is_none() {
                    call.abort();
                }
                heard?.ok()
            }
        }
    }

    async fn hold(&self, lock: Lock, lease: Lease, step: &Step) {
        let number = self.told(&lease, step);
        for act in &step.body {
            match *act {
                Act::Work(nanos) => {
                    if self.loses(&lease, number, nanos).await {
                        return;
                    }
                }
                act => self.act(&lock, &lease, number, step, act).await,
            }
        }
        self.end(lock, lease, number, step).await;
    }

    fn told(&self, lease: &Lease, step: &Step) -> usize {
        let options = &step.options;
        let bounded = options.max_hold.is_some() || options.max_stall.is_some();
        let renewed_after = options.renew.then(|| renewed_after(options, options.ttl));
        self.world.trace(|| format!("{} holds {} with token {} as {}", self.name, lease.key(), lease.token(), lease.owner()));
        self.history.told(self.client, lease, renewed_after, bounded)
    }

    async fn act(&self, lock: &Lock, lease: &Lease, number: usize, step: &Step, act: Act) {
        match act {
            Act::Work(_) => {}
            Act::Extend { ttl, cancel } => {
                let ttl = Duration::from_nanos(ttl);
                self.history.set_renewed_after(number, |before| Some(before?.max(renewed_after(&step.options, ttl))));
                self.world.trace(|| format!("{} extends its lease to {ttl:?}", self.name));
                let _ = self.until(cancel, lease.extend(ttl)).await;
            }
            Act::AutoRenew(renew) => {
                self.history.set_renewed_after(number, |_| None);
                lease.auto_renew(renew);
            }
            Act::Heartbeat => drop(lease.heartbeat()),
            Act::Nest { wait, hold } => self.nest(lock.client(), lease, step, wait, hold).await,
        }
    }

    /// Takes a second key and holds both: who holds a lease may, also while its client drains.
    async fn nest(&self, client: &Client, outer: &Lease, step: &Step, wait: Nanos, hold: Nanos) {
        let ttl = step.options.ttl;
        let lock = client.lock(&key(NESTED)).ttl(ttl).wait(Duration::from_nanos(wait));
        match lock.acquire().await {
            Ok(lease) => {
                self.world.trace(|| format!("{} holds {} as well, as {}", self.name, lease.key(), lease.owner()));
                let number = self.history.told(self.client, &lease, Some(renewed_after(lock.options(), ttl)), false);
                if !self.loses(&lease, number, hold).await {
                    self.history.releasing(number);
                    let _ = lease.release().await;
                }
            }
            Err(error) => {
                self.world.trace(|| format!("{} gets {error} besides its lease", self.name));
                if let Error::ClientClosed { .. } = error {
                    self.judge.refused_holder(self.client, outer);
                }
            }
        }
    }

    async fn end(&self, lock: Lock, lease: Lease, number: usize, step: &Step) {
        if let End::Loss = step.end {
            let patience = u64::try_from(step.options.ttl.as_nanos()).unwrap_or(0) * 4;
            if self.loses(&lease, number, patience).await {
                return;
            }
        }
        if self.loses(&lease, number, 0).await {
            return;
        }
        self.history.releasing(number);
        let vouched_until = self.clock.now() + lease.remaining();
        match step.end {
            End::Release(cancel) => {
                let _ = self.until(cancel, lease.release()).await;
                self.released(&lease, number, vouched_until);
            }
            End::ReleaseThen => drop(lease.release_then(drop)),
            End::Loss => {
                let _ = lease.release().await;
                self.released(&lease, number, vouched_until);
            }
            End::Forget => {
                drop(lock);
                drop(lease);
            }
        }
    }

    /// A call waits for `op_timeout` and the engine goes on: what came of it is looked at once more, just before the lease would have ended.
    fn released(&self, lease: &Lease, number: usize, vouched_until: Instant) {
        self.judge.released(number, lease, self.clock.now() < vouched_until);
        if lease.status() == Status::Releasing {
            let (judge, clock, lease) = (self.judge.clone(), self.clock.clone(), lease.clone());
            let left = self.clock.true_time(vouched_until).saturating_sub(self.world.now() + 1);
            // Sooner than tasks are counted: the handle keeps the session.
            self.world.after(left.min(60 * SECOND), move || judge.released(number, &lease, clock.now() < vouched_until));
        }
    }

    /// Works for so long; true if the lease is lost meanwhile.
    async fn loses(&self, lease: &Lease, number: usize, nanos: Nanos) -> bool {
        let since = self.world.now();
        let reason = tokio::select! {
            biased;
            reason = lease.lost() => reason,
            () = sleep(&self.clock, nanos) => {
                self.judge.heard_nothing(number, since);
                return false;
            }
        };
        self.judge.loss(number, reason, since);
        true
    }

    /// The outcome of a call, or `None` if it was dropped before.
    async fn until<T>(&self, cancel: Option<Cancel>, call: impl Future<Output = T>) -> Option<T> {
        let outcome = match cancel {
            None => Some(call.await),
            Some(Cancel::Polls(polls)) => polled(call, polls, false).await,
            Some(Cancel::Wakes(polls)) => polled(call, polls, true).await,
            Some(Cancel::After(nanos)) => tokio::select! {
                biased;
                () = sleep(&self.clock, nanos) => None,
                outcome = call => Some(outcome),
            },
        };
        if outcome.is_none() {
            self.tally.count(Fault::Cancel);
        }
        outcome
    }
}

/// How long after its beginning a life is renewed.
fn renewed_after(options: &LockOptions, ttl: Duration) -> Duration {
    ttl.mul_f64(1.0 - options.renewal_threshold)
}

/// The name of a key.
pub(crate) fn key(number: usize) -> Arc<str> {
    format!("key-{number}").into()
}

/// Polls a call so many times at most; with `woken`, it is dropped only when it would be polled once more.
async fn polled<T>(call: impl Future<Output = T>, polls: u32, woken: bool) -> Option<T> {
    let mut call = pin!(call);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match call.as_mut().poll(context) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending if left == 0 && !woken => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
