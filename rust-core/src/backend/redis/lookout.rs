//! Leaves a master that lost its office and does not know it.
//!
//! A master that is cut off from its sentinels and replicas goes on to grant keys, or refuses with NOREPLICAS, while the sentinels have made
//! another server the master. Therefore, as long as a connection lasts, its sentinels are asked where the master is: at once when the
//! connection is made, every other second, and soon after each answer that refuses something. Every round asks all sentinels, over
//! connections that stay open: a sentinel that was cut off together with the old master knows no better than the old master does.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::dial::Wire;
use super::sentinel::{NamedMaster, Sentinel, Service, unpushed};
use crate::observe::logs::target;

/// The shortest pause between two rounds, however much is refused.
const SHORTEST: Duration = Duration::from_millis(250);
/// What is added to the pause while nothing is refused.
const CALM: Duration = Duration::from_millis(1_750);
/// How long a sentinel, or a new master, may take to answer.
const LONGEST_SENTINEL_ANSWER: Duration = Duration::from_secs(1);

/// Asks the sentinels for as long as it is kept.
pub(super) struct Lookout {
    refusals: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Lookout {
    /// Calls `retire` when the sentinels name another master than this one.
    pub(super) fn start(service: Arc<Service>, master: NamedMaster, retire: impl FnOnce() + Send + 'static) -> Self {
        let refusals = Arc::new(Notify::new());
        let noticed = refusals.clone();
        let task = tokio::spawn(async move {
            let other = service.other_master(&master, &noticed).await;
            let (from, to) = (format!("{}:{}", master.host, master.port), format!("{}:{}", other.host, other.port));
            tracing::warn!(
                target: target::REDIS_LOOKOUT,
                service = %service.name,
                %from,
                %to,
                "the sentinels name another master: connecting to that one"
            );
            retire();
        });
        Self { refusals, _task: AbortOnDropHandle::new(task) }
    }

    /// Notes that the server has refused something. Its sentinels may know why, and are asked soon.
    pub(super) fn note_refusal(&self) {
        self.refusals.notify_one();
    }
}

impl Service {
    /// Resolves once there is another master.
    async fn other_master(&self, master: &NamedMaster, refusals: &Notify) -> NamedMaster {
        let mut wires: Vec<Option<Wire>> = self.sentinels.iter().map(|_| None).collect();
        loop {
            let asked = self.sentinels.iter().zip(&mut wires).map(|(sentinel, wire)| self.ask_again(sentinel, wire));
            let answers = join_all(asked).await;
            if let Some((number, other)) = successor(&answers, master)
                && let Ok(Ok(_)) = timeout(LONGEST_SENTINEL_ANSWER, self.dial_master(other, &unpushed())).await
            {
                self.prefer(number);
                return other.clone();
            }
            sleep(SHORTEST).await;
            let _ = timeout(CALM, refusals.notified()).await;
        }
    }

    /// The master that a sentinel names; `None` if it does not answer. `wire` is the connection to it, kept from round to round.
    async fn ask_again(&self, sentinel: &Sentinel, wire: &mut Option<Wire>) -> Option<NamedMaster> {
        let asked = timeout(LONGEST_SENTINEL_ANSWER, async {
            let open = match wire.take() {
                Some(open) => open,
                None => sentinel.target.dial(&unpushed()).await?,
            };
            let answer = self.ask_over(&open).await;
            // A connection without an answer is not kept.
            answer.map(|named| (open, named))
        });
        let (open, named) = asked.await.ok()?.ok()?;
        *wire = Some(open);
        Some(named)
    }
}

/// The master that replaced this one, and the number of the sentinel that names it.
///
/// The answer with the latest epoch is believed. An earlier epoch than the known one is believed only where most sentinels answer: then the
/// sentinels were set up anew. While any believed answer names this master, it stays.
fn successor<'a>(answers: &'a [Option<NamedMaster>], master: &NamedMaster) -> Option<(usize, &'a NamedMaster)> {
    let named = || answers.iter().enumerate().filter_map(|(number, named)| Some((number, named.as_ref()?)));
    let (number, latest) = named().max_by_key(|(_, named)| named.epoch)?;
    let is_confirmed = named().any(|(_, named)| named.epoch == latest.epoch && named.is_at(master));
    let are_most = 2 * named().count() > answers.len();
    (!is_confirmed && (latest.epoch >= master.epoch || are_most)).then_some((number, latest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT: (u16, u64) = (0, 0);

    /// The port of the new master, by ports and epochs: the answers of the sentinels, and the master so far.
    fn found<const N: usize>(answers: [(u16, u64); N], master: (u16, u64)) -> Option<u16> {
        let named = |(port, epoch)| NamedMaster { host: "h".into(), port, epoch };
        let answers = answers.map(|answer| (answer != SILENT).then(|| named(answer)));
        successor(&answers, &named(master)).map(|(_, named)| named.port)
    }

    #[test]
    fn the_master_of_the_latest_epoch_is_the_master() {
        assert_eq!(found([(1, 0), (1, 0)], (1, 0)), None);
        assert_eq!(found([(1, 0), (2, 1)], (1, 0)), Some(2), "one sentinel that knows is enough");
        assert_eq!(found([(1, 0), (2, 1)], (2, 1)), None, "a sentinel that was cut off is not believed");
        assert_eq!(found([(1, 0), SILENT, SILENT], (2, 1)), None, "not even if it is the only one that answers");
        assert_eq!(found([SILENT; 3], (1, 0)), None);
    }

    #[test]
    fn sentinels_that_were_set_up_anew_are_believed_where_most_answer() {
        assert_eq!(found([(2, 0), (2, 0), SILENT], (1, 7)), Some(2));
        assert_eq!(found([(2, 0), SILENT, SILENT], (1, 7)), None);
        assert_eq!(found([(2, 0)], (1, 0)), Some(2));
        assert_eq!(found([(2, 0), (1, 0)], (1, 0)), None, "while one of them names ours it stays");
    }
}
