//! The descendants of this process.
//!
//! This process is the reaper of its descendants: one whose parent dies becomes our child, so that none leaves the tree when its parents die.

use std::collections::HashMap;

use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};

/// From now on orphaned descendants become our children. If the kernel refuses, they become children of init and are out of our reach.
pub(crate) fn adopt_orphans() {
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        tracing::debug!(%error, "orphaned descendants cannot be adopted");
    }
}

/// Sends a signal to every descendant; returns how many got it.
pub(crate) fn signal(signal: Signal) -> usize {
    descendants().into_iter().filter(|pid| kill_process(*pid, signal).is_ok()).count()
}

/// Whether a process is one of our descendants; false if it has ended.
pub(crate) fn contains(pid: Pid) -> bool {
    let mut next = Some(pid);
    // The chain of parents ends at init, or at this process.
    while let Some(pid) = next {
        next = parent(pid);
        if next == Some(getpid()) {
            return true;
        }
    }
    false
}

fn descendants() -> Vec<Pid> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    for pid in processes {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = children.remove(&getpid()).unwrap_or_default();
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        next += 1;
        if let Some(more) = children.remove(pid) {
            found.extend(more);
        }
    }
    found
}

/// The parent of a process, also of an ended one that waits to be reaped.
fn parent(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    parse_parent(&stat)
}

/// Reads `pid (name) state parent ...`. The name may contain anything, spaces and brackets included.
fn parse_parent(stat: &str) -> Option<Pid> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_behind_any_name() {
        assert_eq!(parse_parent("12 (a) b) (c) S 7 12 12 0"), Pid::from_raw(7));
        assert_eq!(parse_parent("1 (init) S 0 1 1 0"), None);
        assert_eq!(parse_parent(""), None);
    }
}
