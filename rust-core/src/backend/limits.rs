//! Bounds that the backends share.

/// How many requests may wait in the outbox of one client.
pub(super) const LONGEST_OUTBOX: usize = 4_096;

/// How many locks `list` returns.
pub(super) const LISTED_LOCKS: usize = 10_000;
