//! The names of etcd keys.
//!
//! Everybody who holds or waits for a lock has a key under it: the root, the lock's name, a zero byte, the session, and the number of the
//! chair that the attempt has among those of its session. The root is `path/namespace/`, with the path of the URL. No name has a zero byte
//! in it, so the keys of `order` and those of `order/1` never lie in one range.
//!
//! A chair is used again by later attempts, because etcd remembers each key that ever was until it is compacted, and walks over all those
//! of a lock when it reads the queue. Whose the key is says its value: the owner id, and what the owner tells about itself.

use std::sync::Arc;

use crate::owner::{OwnerId, SessionId};

const END_OF_NAME: u8 = 0;

const END_OF_OWNER: char = '|';

/// The keys of one lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    /// What the keys of all who hold or wait for it begin with.
    pub(super) prefix: Vec<u8>,
}

impl Queue {
    pub(super) fn of(root: &str, key: &str) -> Self {
        let mut prefix = lock(root, key);
        prefix.push(END_OF_NAME);
        Self { prefix }
    }

    /// The key of one who holds or waits.
    pub(super) fn place(&self, session: SessionId, chair: u32) -> Vec<u8> {
        let mut place = self.prefix.clone();
        place.extend_from_slice(format!("{session}:{chair}").as_bytes());
        place
    }

    /// Behind the last key of this lock.
    pub(super) fn end(&self) -> Vec<u8> {
        end(&self.prefix)
    }
}

/// What the key of one who holds or waits says.
pub(super) fn value(owner: OwnerId, note: &str) -> String {
    format!("{owner}{END_OF_OWNER}{note}")
}

/// The owner that a key belongs to, in its text form, and its note: what [`value`] was made of.
pub(super) fn owner_and_note(value: &[u8]) -> (String, &str) {
    let value = std::str::from_utf8(value).unwrap_or_default();
    let (owner, note) = value.split_once(END_OF_OWNER).unwrap_or((value, ""));
    (owner.to_owned(), note)
}

/// The key whose revision the requests of a session are bound to. It is where the queue of a lock without a name would be, and there is
/// no such lock.
pub(super) fn guard(root: &str, session: SessionId) -> Vec<u8> {
    let mut key = lock(root, "");
    key.push(END_OF_NAME);
    key.extend_from_slice(session.to_string().as_bytes());
    key
}

/// What every key of a namespace begins with.
pub(super) fn root(path: &str, namespace: &str) -> String {
    if namespace.is_empty() { path.to_owned() } else { [path, namespace, "/"].concat() }
}

/// What the keys of all locks with this prefix begin with.
pub(super) fn lock(root: &str, prefix: &str) -> Vec<u8> {
    [root, prefix].concat().into_bytes()
}

/// Behind the last key that begins with `prefix`; with none, behind the last key.
pub(super) fn end(prefix: &[u8]) -> Vec<u8> {
    // No text ends in 0xff.
    match prefix.split_last() {
        Some((last, rest)) => [rest, &[last.saturating_add(1)]].concat(),
        None => vec![0],
    }
}

/// The name of the lock that a key belongs to; `None` if it is no lock's.
pub(super) fn parse(root: &str, place: &[u8]) -> Option<Arc<str>> {
    let place = std::str::from_utf8(place).ok()?.strip_prefix(root)?;
    let (key, chair) = place.split_once(char::from(END_OF_NAME))?;
    if key.is_empty() {
        return None;
    }
    // Written as an owner is, with the number of the chair.
    chair.parse::<OwnerId>().ok()?;
    Some(key.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId::from_u128(7);

    #[test]
    fn a_lock_and_one_below_it_do_not_see_each_other() {
        let (order, below) = (Queue::of("dlock/", "order"), Queue::of("dlock/", "order/1"));
        assert!(!below.place(SESSION, 0).starts_with(&order.prefix));
        assert!(below.place(SESSION, 0) > order.end());
        assert!(order.place(SESSION, 0) < order.end());
    }

    #[test]
    fn a_place_reads_back_as_its_lock() {
        for root in ["dlock/", "team/dlock/", ""] {
            assert_eq!(parse(root, &Queue::of(root, "order/1").place(SESSION, 12)), Some("order/1".into()));
        }
        assert_eq!(parse("other/", &Queue::of("dlock/", "k").place(SESSION, 0)), None);
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
