//! What a holder writes into its lock file, so that others can read who holds it without touching the lock.

use serde::{Deserialize, Serialize};

use super::process::Process;
use crate::clock::Instant;
use crate::fencing::Token;
use crate::holder::{Holder, Note};

/// The beginning of every record; the number is the version of the format.
const MAGIC: &str = "dlock 1 ";

/// How many bytes the deadline has. Each renewal rewrites it in place, so its width never changes.
const DEADLINE_WIDTH: usize = 20;

/// Where the deadline begins in the file.
pub(super) const DEADLINE_OFFSET: u64 = MAGIC.len() as u64;

/// Where the digit of `passed` is in the file.
pub(super) const PASSED_OFFSET: u64 = (MAGIC.len() + DEADLINE_WIDTH + "\n".len() + "{\"passed\":".len()) as u64;

/// Who holds a lock file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HolderRecord {
    /// 1 once the open file was passed on to another process, which then holds the key too. It is the first field, so that it can be
    /// rewritten in place.
    #[serde(default)]
    pub(super) passed: u8,
    /// 1 if the holder has the second lock, which others can query. Earlier versions took none.
    #[serde(default)]
    pub(super) shown: u8,
    pub(super) owner: String,
    pub(super) token: Token,
    pub(super) pid: u32,
    /// When that process started. Without it a later process with the same number would be taken for it.
    pub(super) started: u64,
    /// The scope of `pid` and `started`: see [`Process`].
    #[serde(default)]
    pub(super) boot: u64,
    #[serde(default)]
    pub(super) pid_namespace: u64,
    #[serde(default)]
    pub(super) time_namespace: u64,
    pub(super) namespace: Box<str>,
    /// The whole key; the name of the file may contain only a hash of it.
    pub(super) key: Box<str>,
    pub(super) note: Box<str>,
    /// When the lease ends unless it is renewed. For display only, since a kernel lock does not expire.
    #[serde(skip)]
    pub(super) deadline: Instant,
}

impl HolderRecord {
    /// The bytes of the file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{MAGIC}{}\n{json}\n", encode_deadline(self.deadline)).into_bytes()
    }

    /// Reads what a holder wrote; `None` while it is half written, or if dlock did not write it.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (deadline, rest) = text.strip_prefix(MAGIC)?.split_once('\n')?;
        // The closing line break is written last: without it the record may be incomplete.
        let (json, _) = rest.split_once('\n')?;
        let record: Self = serde_json::from_str(json).ok()?;
        Some(Self { deadline: Instant::from_nanos(deadline.parse().ok()?), ..record })
    }

    pub(super) fn process(&self) -> Process {
        let Self { pid, started, boot, pid_namespace, time_namespace, .. } = *self;
        Process { pid, started, boot, pid_namespace, time_namespace }
    }

    /// The holder as others see it at `now`.
    pub(super) fn holder(&self, now: Instant) -> Holder {
        Holder {
            owner: self.owner.clone(),
            token: Some(self.token),
            remaining: Some(self.deadline.since(now)),
            note: Note::decode(&self.note),
        }
    }
}

/// A deadline in the width that it has in the file.
pub(super) fn encode_deadline(deadline: Instant) -> String {
    format!("{:0width$}", deadline.as_nanos(), width = DEADLINE_WIDTH)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record() -> HolderRecord {
        HolderRecord {
            owner: "s:1".into(),
            token: 7,
            pid: 42,
            started: 1,
            namespace: "dlock".into(),
            key: "line\nbreak \"quoted\"".into(),
            note: "{}".into(),
            deadline: Instant::from_nanos(5_000_000_000),
            ..HolderRecord::default()
        }
    }

    #[test]
    fn a_record_reads_back_what_it_wrote() {
        assert_eq!(HolderRecord::decode(&record().encode()), Some(record()));
        assert_eq!(record().holder(Instant::from_nanos(2_000_000_000)).remaining, Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_half_written_record_is_no_record() {
        let whole = record().encode();
        for cut in 0..whole.len() {
            assert_eq!(HolderRecord::decode(&whole[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn what_an_earlier_holder_left_behind_the_record_is_ignored() {
        let mut bytes = record().encode();
        bytes.extend_from_slice(b"\"}\nrest of a longer record\n");
        assert_eq!(HolderRecord::decode(&bytes), Some(record()));
    }

    #[test]
    fn passing_on_is_written_in_place() {
        let mut bytes = record().encode();
        bytes[usize::try_from(PASSED_OFFSET).unwrap()] = b'1';
        assert_eq!(HolderRecord::decode(&bytes), Some(HolderRecord { passed: 1, ..record() }));
    }

    #[test]
    fn a_record_of_an_older_version_is_read() {
        let json = r#"{"owner":"s:1","token":7,"pid":42,"started":1,"namespace":"dlock","key":"k","note":"{}"}"#;
        let read = HolderRecord::decode(format!("dlock 1 00000000000000000009\n{json}\n").as_bytes()).unwrap();
        assert_eq!((read.shown, read.passed, read.pid_namespace), (0, 0, 0));
    }

    #[test]
    fn a_deadline_is_rewritten_in_place() {
        let mut bytes = record().encode();
        let later = encode_deadline(Instant::from_nanos(u64::MAX));
        let at = usize::try_from(DEADLINE_OFFSET).unwrap();
        bytes[at..at + later.len()].copy_from_slice(later.as_bytes());
        assert_eq!(HolderRecord::decode(&bytes).unwrap().deadline, Instant::from_nanos(u64::MAX));
    }
}
