//! Leaves a master that is one no longer, and does not know it.
//!
//! A master that is cut off from its sentinels and replicas goes on to grant keys, or says with NOREPLICAS that it cannot, while they have
//! made another one. So as long as a connection lasts its sentinels are asked where the master is: at once when it is made, every other
//! second, and soon after each answer that refuses something. Each time all are asked, over connections that stay: one that was cut off
//! with the old master does not know better than that one.

use crate::observe::logs::target;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::connect::Link;
use super::dial::Wire;
use super::sentinel::{Named, Sentinel, Service, plainly};

/// The shortest pause between two rounds, however much is refused.
const SHORTEST: Duration = Duration::from_millis(250);
/// What is added while nothing is refused.
const CALM: Duration = Duration::from_millis(1_750);
/// How long a sentinel may take to answer, and a new master.
const PATIENCE: Duration = Duration::from_secs(1);

/// Looks out as long as it is kept.
pub(super) struct Lookout {
    trouble: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Lookout {
    /// Has the link retired when the sentinels name another master than the one it leads to.
    pub(super) fn of(service: Arc<Service>, link: Weak<Link>, master: Named) -> Self {
        let trouble = Arc::new(Notify::new());
        let noticed = trouble.clone();
        let task = tokio::spawn(async move {
            let other = service.other_master(&master, &noticed).await;
            if let Some(link) = link.upgrade() {
                let (from, to) = (format!("{}:{}", master.host, master.port), format!("{}:{}", other.host, other.port));
                tracing::warn!(target: target::REDIS_LOOKOUT, service = %service.name, %from, %to, "the sentinels name another master: connecting to that one");
                link.retire();
            }
        });
        Self { trouble, _task: AbortOnDropHandle::new(task) }
    }

    /// The server has refused something: its sentinels may know why.
    pub(super) fn note_refusal(&self) {
        self.trouble.notify_one();
    }
}

impl Service {
    /// Resolves once there is another master.
    async fn other_master(&self, master: &Named, trouble: &Notify) -> Named {
        let mut wires: Vec<Option<Wire>> = self.sentinels.iter().map(|_| None).collect();
        loop {
            let asked = self.sentinels.iter().zip(&mut wires).map(|(sentinel, wire)| self.look(sentinel, wire));
            let answers = join_all(asked).await;
            if let Some((number, other)) = successor(&answers, master)
                && let Ok(Ok(_)) = timeout(PATIENCE, self.dial_master(other, &plainly())).await
            {
                self.prefer(number);
                return other.clone();
            }
            sleep(SHORTEST).await;
            let _ = timeout(CALM, trouble.notified()).await;
        }
    }

    /// What a sentinel says; `None` if it does not.
    async fn look(&self, sentinel: &Sentinel, wire: &mut Option<Wire>) -> Option<Named> {
        let asked = timeout(PATIENCE, async {
            let known = match wire.take() {
                Some(known) => known,
                None => sentinel.target.dial(&plainly()).await?,
            };
            let answer = self.ask_over(&known).await;
            // Kept where it was answered.
            answer.map(|named| (known, named))
        });
        let (known, named) = asked.await.ok()?.ok()?;
        *wire = Some(known);
        Some(named)
    }
}

/// Who is the master instead of this one, and which sentinel says so. The later epoch is believed, and an earlier one where most sentinels say
/// so: then they were set up anew. While one of those that are believed names this master, it stays.
fn successor<'a>(answers: &'a [Option<Named>], master: &Named) -> Option<(usize, &'a Named)> {
    let said = || answers.iter().enumerate().filter_map(|(number, named)| Some((number, named.as_ref()?)));
    let (number, latest) = said().max_by_key(|(_, named)| named.epoch)?;
    let is_confirmed = said().any(|(_, named)| named.epoch == latest.epoch && named.is_at(master));
    let are_most = 2 * said().count() > answers.len();
    (!is_confirmed && (latest.epoch >= master.epoch || are_most)).then_some((number, latest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT: (u16, u64) = (0, 0);

    /// The port of the new master, by ports and epochs: what the sentinels say, and what is believed so far.
    fn found<const N: usize>(answers: [(u16, u64); N], master: (u16, u64)) -> Option<u16> {
        let named = |(port, epoch)| Named { host: "h".into(), port, epoch };
        let answers = answers.map(|answer| (answer != SILENT).then(|| named(answer)));
        successor(&answers, &named(master)).map(|(_, named)| named.port)
    }

    #[test]
    fn the_master_of_the_latest_epoch_is_the_master() {
        assert_eq!(found([(1, 0), (1, 0)], (1, 0)), None);
        assert_eq!(found([(1, 0), (2, 1)], (1, 0)), Some(2), "one sentinel that knows is enough");
        assert_eq!(found([(1, 0), (2, 1)], (2, 1)), None, "one that was cut off is not believed");
        assert_eq!(found([(1, 0), SILENT, SILENT], (2, 1)), None, "even where it is the only one that answers");
        assert_eq!(found([SILENT; 3], (1, 0)), None);
    }

    #[test]
    fn sentinels_that_were_set_up_anew_are_believed_where_they_are_most() {
        assert_eq!(found([(2, 0), (2, 0), SILENT], (1, 7)), Some(2));
        assert_eq!(found([(2, 0), SILENT, SILENT], (1, 7)), None);
        assert_eq!(found([(2, 0)], (1, 0)), Some(2));
        assert_eq!(found([(2, 0), (1, 0)], (1, 0)), None, "while one of them names ours it stays");
    }
}
