//! What goes in a batch, and the two shapes that a batch has.
//!
//! **Nested**, each step is a transaction inside the batch's, with compares and an answer of its own: that serves whatever the steps find.
//!
//! **Flat**, the batch's own compares say that each step finds what it hopes for: nobody has or wants the lock that it asks for, the key
//! that it deletes is there, the guard has not moved. Then the steps are bare puts and deletions, which costs the server a quarter
//! less. If one of them finds something else nothing at all is done, and the batch goes again, nested. So what has reason to doubt is
//! nested in the flat batch of the others, and a session whose flat batches fail makes fewer of them: see [`Confidence`].

use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse};

use super::request::{Answer, Ask, Guarded, Said, unexpected};
use crate::error::BackendError;

/// A part of a batch, or a request of its own.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Ask(Ask),
    /// Deletes the key that was made at `created`, and no later one: executed once more it does nothing. Succeeds as a transaction if the
    /// key was there.
    Delete {
        place: Vec<u8>,
        created: i64,
    },
    Other {
        txn: Txn,
        /// What the keys and values in it take at most.
        bytes: usize,
    },
}

impl Step {
    /// A transaction that does it, whatever it finds.
    pub(super) fn txn(&self) -> Txn {
        match self {
            Self::Ask(ask) => ask.txn(),
            Self::Delete { place, created } => {
                Txn::new().when(vec![made_at(place, *created)]).and_then(vec![TxnOp::delete(place.clone(), None)])
            }
            Self::Other { txn, .. } => txn.clone(),
        }
    }

    /// The queue it makes a place in, if it makes one.
    pub(super) fn place_in(&self) -> Option<&[u8]> {
        match self {
            Self::Ask(ask) => Some(&ask.queue.prefix),
            _ => None,
        }
    }

    /// What the keys and values in it take at most.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Ask(ask) => ask.bytes(),
            Self::Delete { place, .. } => 2 * place.len(),
            Self::Other { bytes, .. } => *bytes,
        }
    }

    /// True if nothing is known that would be in its way.
    fn is_hopeful(&self) -> bool {
        match self {
            Self::Ask(ask) => ask.hopeful,
            Self::Delete { .. } => true,
            Self::Other { .. } => false,
        }
    }

    /// What it hopes for and what it then does, as a part of a flat batch that compares `guard`; `None` if it is to be nested there.
    fn flat(&self, guard: Option<&Guarded>) -> Option<(Compare, TxnOp)> {
        match self {
            Self::Ask(ask) if ask.hopeful && guard == Some(&ask.guard) => Some((ask.nobody_there(), ask.put())),
            Self::Delete { place, created } => Some((made_at(place, *created), TxnOp::delete(place.clone(), None))),
            _ => None,
        }
    }
}

fn made_at(place: &[u8], created: i64) -> Compare {
    Compare::create_revision(place, CompareOp::Equal, created)
}

/// One transaction that executes all, each by its own compares.
pub(super) fn nested<'a>(steps: impl Iterator<Item = &'a Step>) -> Txn {
    let all: Vec<_> = steps.map(|step| TxnOp::txn(step.txn())).collect();
    Txn::new().and_then(all)
}

/// True if a flat batch of these is worth a try: most have no doubts.
pub(super) fn are_hopeful<'a>(steps: impl Iterator<Item = &'a Step>) -> bool {
    let (mut hopeful, mut count) = (0, 0);
    for step in steps {
        hopeful += usize::from(step.is_hopeful());
        count += 1;
    }
    2 * hopeful > count
}

/// One transaction that executes all if those that are hopeful find what they hope for.
pub(super) fn flat<'a>(steps: impl Iterator<Item = &'a Step> + Clone) -> Txn {
    // The others have the same one, unless it has just moved.
    let guard = steps.clone().find_map(|step| match step {
        Step::Ask(ask) if ask.hopeful => Some(&ask.guard),
        _ => None,
    });
    let mut hopes: Vec<_> = guard.map(Guarded::compare).into_iter().collect();
    let mut all = Vec::new();
    for step in steps {
        if let Some((hope, deed)) = step.flat(guard) {
            hopes.push(hope);
            all.push(deed);
        } else {
            all.push(TxnOp::txn(step.txn()));
        }
    }
    Txn::new().when(hopes).and_then(all)
}

/// What became of each step of a batch that was executed.
pub(super) fn each(answer: &Answer, count: usize, reads: bool) -> Result<Vec<Answer>, BackendError> {
    let (revision, ghosts) = (answer.revision, answer.ghosts);
    let unseen = if reads { revision + 1 } else { revision };
    let answers = answer.op_responses().into_iter().map(|response| match response {
        TxnOpResponse::Txn(txn) => Ok(Answer { said: Said::Txn(txn), revision, unseen, ghosts }),
        TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) => Ok(Answer { said: Said::Done, revision, unseen, ghosts }),
        TxnOpResponse::Get(_) => Err(unexpected()),
    });
    let answers: Vec<_> = answers.collect::<Result<_, _>>()?;
    if answers.len() == count { Ok(answers) } else { Err(unexpected()) }
}

/// Whether the next batch is worth a try as a flat one. A failure costs a request for nothing, a success saves a quarter of one.
#[derive(Debug, Default)]
pub(super) struct Confidence {
    /// How many batches stay nested after the next failure, twice that.
    caution: u32,
    /// How many batches stay nested from now on.
    nested: u32,
}

/// How many batches stay nested at most before another one is tried flat.
const MOST_CAUTION: u32 = 512;

impl Confidence {
    /// True if the next batch may be flat.
    pub(super) fn next(&mut self) -> bool {
        let ready = self.nested == 0;
        self.nested = self.nested.saturating_sub(1);
        ready
    }

    /// Takes note of what became of a flat batch.
    pub(super) fn note(&mut self, succeeded: bool) {
        if succeeded {
            self.caution = self.caution.saturating_sub(1);
        } else {
            self.caution = (self.caution * 2).clamp(1, MOST_CAUTION);
            self.nested = self.caution;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_doubts_is_nested_in_the_flat_batch_of_the_others() {
        let (mut doubtful, mut moved) = (Ask::sample("doubtful"), Ask::sample("moved"));
        doubtful.hopeful = false;
        moved.guard.revision = 2;
        let delete = Step::Delete { place: b"place".to_vec(), created: 7 };
        let steps = [Step::Ask(doubtful), delete, Step::Ask(Ask::sample("a")), Step::Ask(moved)];
        let guard = Ask::sample("a").guard;
        let shape = steps.each_ref().map(|step| step.flat(Some(&guard)).is_some());
        assert_eq!(shape, [false, true, true, false]);
        assert!(are_hopeful(steps.iter()));
        assert!(!are_hopeful(steps[..2].iter()), "one of two has doubts");
    }

    #[test]
    fn those_whose_flat_batches_fail_make_fewer() {
        let mut confidence = Confidence::default();
        let tried = (0..10_000).filter(|_| confidence.next()).count();
        assert_eq!(tried, 10_000, "nothing has failed");
        let mut tried = 0;
        for _ in 0..10_000 {
            if confidence.next() {
                tried += 1;
                confidence.note(false);
            }
        }
        assert!((10..40).contains(&tried), "{tried}");
        // One failure in a while does not matter.
        let mut confidence = Confidence::default();
        let mut tried = 0;
        for _ in 0..10_000 {
            if confidence.next() {
                tried += 1;
                confidence.note(tried % 20 != 0);
            }
        }
        assert!(tried > 9_000, "{tried}");
    }
}
