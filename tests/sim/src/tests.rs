//! The simulation itself: it repeats, and it sees what is wrong.

use std::sync::Arc;

use crate::plan::PROMISED_ERROR;
use crate::story::{self, Outcome};

fn run(seed: u64, error: u64, tracing: bool) -> Outcome {
    story::run(seed, error, tracing, &Arc::default())
}

#[test]
fn a_seed_is_one_history() {
    for seed in 1..150 {
        let (once, again) = (run(seed, PROMISED_ERROR, false), run(seed, PROMISED_ERROR, true));
        assert_eq!(once.digest, again.digest, "seed {seed}");
        assert!(!again.trace.is_empty());
    }
}

#[test]
fn r01_clocks_that_are_wrong_by_a_hundredth_are_allowed_for() {
    for seed in 1..400 {
        let outcome = run(seed, PROMISED_ERROR, false);
        assert!(outcome.violations.is_empty(), "seed {seed}: {:?}", outcome.violations);
    }
}

/// Or else the judge sees nothing.
#[test]
fn r01_clocks_that_are_wrong_by_a_tenth_are_caught() {
    let overlaps = |seed| run(seed, 10 * PROMISED_ERROR, false).violations.iter().any(|violation| violation.contains("overlap"));
    assert!((1..5_000).any(overlaps), "no two leases were valid at once in any history");
}
