//! The names of etcd keys, and the values in them.
//!
//! Each holder and each waiter of a lock has one etcd key, its *queue key*: the root, the lock's name, a zero byte, the session, and the
//! key number. The root is `path/namespace/`, with the path of the URL. No lock's name contains a zero byte, so the queue keys of `order`
//! and those of `order/1` never lie in one range.
//!
//! A key number tells the attempts of one session for one lock apart. Later attempts use it again, because etcd remembers every key that
//! ever was until it is compacted, and walks over all those of a lock when it reads the queue (ADR 7). The value tells who owns the key:
//! the owner id and the owner's note.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, GetResponse, KeyValue};

use crate::owner::{OwnerId, SessionId};

const END_OF_NAME: u8 = 0;

const END_OF_OWNER: char = '|';

/// All queue keys of one lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LockQueue {
    /// Every queue key of the lock begins with this.
    pub(super) prefix: Vec<u8>,
}

impl LockQueue {
    pub(super) fn of(root: &str, key: &str) -> Self {
        let mut prefix = lock(root, key);
        prefix.push(END_OF_NAME);
        Self { prefix }
    }

    /// The queue key of one holder or waiter.
    pub(super) fn queue_key(&self, session: SessionId, key_number: u32) -> Vec<u8> {
        let mut queue_key = self.prefix.clone();
        queue_key.extend_from_slice(format!("{session}:{key_number}").as_bytes());
        queue_key
    }

    /// The end of the range, which lies behind the last queue key of this lock.
    pub(super) fn end(&self) -> Vec<u8> {
        end(&self.prefix)
    }
}

/// The key of a session's guard, and the revision that its requests require.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GuardRevision {
    pub(super) key: Arc<[u8]>,
    pub(super) revision: i64,
}

impl GuardRevision {
    /// Holds while the guard has not moved on.
    pub(super) fn compare(&self) -> Compare {
        Compare::mod_revision(&*self.key, CompareOp::Equal, self.revision)
    }

    /// True if a read of the guard found this revision.
    pub(super) fn was_read(&self, read: &GetResponse) -> bool {
        read.kvs().first().map(KeyValue::mod_revision) == Some(self.revision)
    }
}

/// The value of a queue key.
pub(super) fn value(owner: OwnerId, note: &str) -> String {
    format!("{owner}{END_OF_OWNER}{note}")
}

/// The owner, in its text form, and the note that [`value`] was made of.
pub(super) fn owner_and_note(value: &[u8]) -> (String, &str) {
    let value = std::str::from_utf8(value).unwrap_or_default();
    let (owner, note) = value.split_once(END_OF_OWNER).unwrap_or((value, ""));
    (owner.to_owned(), note)
}

/// The key of a session's guard. It lies where the queue of a lock without a name would lie, and no lock is without a name.
pub(super) fn guard(root: &str, session: SessionId) -> Vec<u8> {
    let mut key = lock(root, "");
    key.push(END_OF_NAME);
    key.extend_from_slice(session.to_string().as_bytes());
    key
}

/// The beginning of every key in a namespace.
pub(super) fn root(path: &str, namespace: &str) -> String {
    if namespace.is_empty() { path.to_owned() } else { [path, namespace, "/"].concat() }
}

/// The beginning of the keys of all locks whose names begin with `prefix`.
pub(super) fn lock(root: &str, prefix: &str) -> Vec<u8> {
    [root, prefix].concat().into_bytes()
}

/// The end of the range of all keys that begin with `prefix`; without a prefix, the end of all keys.
pub(super) fn end(prefix: &[u8]) -> Vec<u8> {
    // UTF-8 never ends in 0xff, so the addition cannot overflow.
    match prefix.split_last() {
        Some((last, rest)) => [rest, &[last.saturating_add(1)]].concat(),
        None => vec![0],
    }
}

/// The name of the lock that a queue key belongs to; `None` for any other key.
pub(super) fn parse(root: &str, queue_key: &[u8]) -> Option<Arc<str>> {
    let queue_key = std::str::from_utf8(queue_key).ok()?.strip_prefix(root)?;
    let (lock, attempt) = queue_key.split_once(char::from(END_OF_NAME))?;
    if lock.is_empty() {
        return None;
    }
    // `session:number` has the form of an owner id.
    attempt.parse::<OwnerId>().ok()?;
    Some(lock.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId::from_u128(7);

    #[test]
    fn a_lock_and_one_below_it_do_not_see_each_other() {
        let (order, below) = (LockQueue::of("dlock/", "order"), LockQueue::of("dlock/", "order/1"));
        assert!(!below.queue_key(SESSION, 0).starts_with(&order.prefix));
        assert!(below.queue_key(SESSION, 0) > order.end());
        assert!(order.queue_key(SESSION, 0) < order.end());
    }

    #[test]
    fn a_queue_key_reads_back_as_its_lock() {
        for root in ["dlock/", "team/dlock/", ""] {
            assert_eq!(parse(root, &LockQueue::of(root, "order/1").queue_key(SESSION, 12)), Some("order/1".into()));
        }
        assert_eq!(parse("other/", &LockQueue::of("dlock/", "k").queue_key(SESSION, 0)), None);
        assert_eq!(parse("dlock/", b"dlock/k\0something"), None);
    }

    #[test]
    fn a_value_reads_back_as_owner_and_note() {
        let owner = OwnerId { session: SESSION, sequence: 9 };
        assert_eq!(owner_and_note(value(owner, "job | 7").as_bytes()), (owner.to_string(), "job | 7"));
        assert_eq!(owner_and_note(b"something"), ("something".to_owned(), ""));
    }

    #[test]
    fn the_guard_is_no_lock() {
        assert_eq!(parse("dlock/", &guard("dlock/", SESSION)), None);
        assert_eq!(parse("", &guard("", SESSION)), None);
    }

    #[test]
    fn namespace_and_path_make_the_root() {
        assert_eq!(
            (root("", ""), root("", "dlock"), root("team/", "dlock")),
            (String::new(), "dlock/".into(), "team/dlock/".into())
        );
        assert!(lock("dlock/", "order:9") < end(&lock("dlock/", "order:")));
        assert_eq!(end(&[]), [0]);
    }
}
