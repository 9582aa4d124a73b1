//! How transactions are sent: together, in one of the two shapes in `shape`, or each in a request of its own.
//!
//! `outbox` decides which transactions make a batch, and when it goes. A lease that has ended makes the server reject a whole batch; then each
//! of its transactions is sent alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use etcd_client::{Client, ResponseHeader, Txn, TxnResponse};
use futures_util::FutureExt;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::Instant as Timer;

use super::answer::{AnswerBody, TxnAnswer, error_that_may_run};
use super::leases::remaining;
use super::outbox::{LARGE, PendingAnswer, QueuedStep, TxnOutbox, TxnResult};
use super::request::Step;
use super::servers::endpoints::{Endpoints, ServerAnswer};
use super::shape::{self, OptimisticBackoff};
use crate::driver;
use crate::error::Failure;

/// Sends the transactions of a session.
pub(super) struct Batches {
    endpoints: Arc<Endpoints>,
    outbox: Arc<TxnOutbox>,
    backoff: Mutex<OptimisticBackoff>,
    /// None of the transactions writes: a batch then costs no entry in the log, and each answer reflects all of its own revision.
    only_reads: bool,
}

impl Batches {
    pub(super) fn new(endpoints: Arc<Endpoints>) -> Self {
        Self { endpoints, outbox: Arc::default(), backoff: Mutex::default(), only_reads: false }
    }

    /// Batches of transactions that only read.
    pub(super) fn of_reads(endpoints: Arc<Endpoints>) -> Self {
        Self { only_reads: true, ..Self::new(endpoints) }
    }

    /// Puts steps in the outbox, which go in this order and if possible in one request. They are sent whether or not anybody waits for their
    /// answers.
    pub(super) fn submit<const N: usize>(self: &Arc<Self>, steps: [Step; N], deadline: Timer) -> [PendingAnswer; N] {
        let (pending, is_worth_a_call) = self.outbox.submit(steps, deadline);
        if is_worth_a_call {
            tokio::spawn(self.clone().call());
        }
        pending
    }

    /// Whether a step would be a lone one now.
    pub(super) fn is_free_for_lone(&self) -> bool {
        self.outbox.is_free_for_lone()
    }

    /// Sends one step: by itself and at once if its caller polls it and nothing else is under way, else as [`Self::submit`] does.
    pub(super) fn ask(self: &Arc<Self>, step: Step, deadline: Timer) -> impl Future<Output = TxnResult> + Send + use<> {
        let is_lone = driver::reader().is_some() && self.outbox.begin_lone();
        if !is_lone {
            let [pending] = self.submit([step], deadline);
            return pending.wait().left_future();
        }
        let lone = LoneCall { batches: self.clone(), runtime: Handle::current() };
        let asked = async move {
            let batches = &lone.batches;
            batches.endpoints.run_lone(remaining(deadline), |client| send_txn(client, step.txn())).await.map(read)
        };
        asked.right_future()
    }

    /// Sends batches until the outbox is empty, or the rest is left to another call.
    async fn call(self: Arc<Self>) {
        loop {
            let Some(batch) = self.outbox.next() else { return };
            let size = batch.len();
            self.send(batch).await;
            self.outbox.answered(size);
            if size >= LARGE && !self.only_reads {
                self.outbox.wait_for_callers(size).await;
            }
        }
    }

    async fn send(&self, batch: Vec<QueuedStep>) {
        let Some(deadline) = batch.iter().map(|queued| queued.deadline).max() else { return };
        if let [_] = &*batch {
            return self.send_alone(batch, false).await;
        }
        let (answered, may_run_again) = self.send_together(&batch, deadline).await;
        let answers = answered.and_then(|answer| answer.that_may_run_again(may_run_again).split(batch.len(), self.only_reads));
        match answers {
            Ok(answers) => {
                for (queued, answer) in batch.into_iter().zip(answers) {
                    let _ = queued.answer.send(Ok(answer));
                }
            }
            // One of the transactions is to blame, and the others are not.
            Err(error) if error.failure == Failure::Refused => self.send_alone(batch, may_run_again).await,
            Err(error) => {
                let error = error_that_may_run(error, may_run_again);
                for queued in batch {
                    let _ = queued.answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// The answer to a batch, and whether a failed optimistic form of it may still be executed.
    async fn send_together(&self, batch: &[QueuedStep], deadline: Timer) -> (TxnResult, bool) {
        let steps = batch.iter().map(|queued| &queued.step);
        let mut may_run_again = false;
        if shape::are_optimistic(steps.clone()) && self.backoff.lock().next() {
            match self.execute(|| shape::optimistic(steps.clone()), deadline).await {
                Ok(answer) => {
                    self.backoff.lock().note(answer.succeeded());
                    if answer.succeeded() {
                        return (Ok(answer), false);
                    }
                    // This server executed nothing. A server that was asked before it may still execute the batch.
                    may_run_again = answer.may_run_again;
                }
                // Nothing was executed: a lease has ended, or the server allows fewer compares.
                Err(error) if error.failure == Failure::Refused => self.backoff.lock().note(false),
                Err(error) => return (Err(error), false),
            }
        }
        (self.execute(|| shape::nested(steps.clone()), deadline).await, may_run_again)
    }

    async fn send_alone(&self, batch: Vec<QueuedStep>, may_run_again: bool) {
        let sent = batch.into_iter().map(|queued| async move {
            let answered = self.execute(|| queued.step.txn(), queued.deadline).await;
            let answered = answered.map(|answer| answer.that_may_run_again(may_run_again));
            let _ = queued.answer.send(answered.map_err(|error| error_that_may_run(error, may_run_again)));
        });
        join_all(sent).await;
    }

    /// Sends a transaction in a request of its own. `txn` is called for each server that is asked.
    pub(super) async fn execute(&self, txn: impl Fn() -> Txn, deadline: Timer) -> TxnResult {
        self.endpoints.run(remaining(deadline), |client| send_txn(client, txn())).await.map(read)
    }
}

async fn send_txn(mut client: Client, txn: Txn) -> Result<TxnResponse, etcd_client::Error> {
    client.txn(txn).await
}

fn read(answer: ServerAnswer<TxnResponse>) -> TxnAnswer {
    let revision = answer.value.header().map_or(0, ResponseHeader::revision);
    let body = AnswerBody::Txn(answer.value);
    TxnAnswer { body, revision, first_unseen: revision + 1, may_run_again: answer.may_run_again }
}

/// Starts a task while something is dropped, perhaps by a panic. If the engine's thread has ended, whoever asks it next finds out.
pub(super) fn spawn_from_drop(runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
    let _ = catch_unwind(AssertUnwindSafe(|| runtime.spawn(task)));
}

/// The call of a lone step. Those that were queued meanwhile go when it ends.
struct LoneCall {
    batches: Arc<Batches>,
    runtime: Handle,
}

impl Drop for LoneCall {
    fn drop(&mut self) {
        if self.batches.outbox.end_lone() {
            spawn_from_drop(&self.runtime, self.batches.clone().call());
        }
    }
}
