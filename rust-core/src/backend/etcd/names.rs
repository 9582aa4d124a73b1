//! The names of etcd keys.
//!
//! Everybody who holds or waits for a lock has a key of their own under it: the root, the lock's name, a zero byte, the owner id. The root
//! is `path/namespace/`, with the path of the URL. No name has a zero byte in it, so the keys of `order` and those of `order/1` never lie
//! in one range.

use std::sync::Arc;

use crate::owner::{OwnerId, SessionId};

const END_OF_NAME: u8 = 0;

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
    pub(super) fn place(&self, owner: OwnerId) -> Vec<u8> {
        let mut place = self.prefix.clone();
        place.extend_from_slice(owner.to_string().as_bytes());
        place
    }

    /// Behind the last key of this lock.
    pub(super) fn end(&self) -> Vec<u8> {
        end(&self.prefix)
    }

    /// The owner that a key of this lock belongs to, in its text form.
    pub(super) fn owner(&self, place: &[u8]) -> String {
        String::from_utf8_lossy(place.strip_prefix(&*self.prefix).unwrap_or(place)).into_owned()
    }
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

/// The lock's name and the owner that a key belongs to; `None` if it is no lock's.
pub(super) fn parse(root: &str, place: &[u8]) -> Option<(Arc<str>, OwnerId)> {
    let place = std::str::from_utf8(place).ok()?.strip_prefix(root)?;
    let (key, owner) = place.split_once(char::from(END_OF_NAME))?;
    if key.is_empty() {
        return None;
    }
    Some((key.into(), owner.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: OwnerId = OwnerId { session: SessionId::from_u128(7), sequence: 9 };

    #[test]
    fn a_lock_and_one_below_it_do_not_see_each_other() {
        let (order, below) = (Queue::of("dlock/", "order"), Queue::of("dlock/", "order/1"));
        assert!(!below.place(OWNER).starts_with(&order.prefix));
        assert!(below.place(OWNER) > order.end());
        assert!(order.place(OWNER) < order.end());
    }

    #[test]
    fn a_place_reads_back_as_lock_and_owner() {
        for root in ["dlock/", "team/dlock/", ""] {
            let queue = Queue::of(root, "order/1");
            let place = queue.place(OWNER);
            assert_eq!(parse(root, &place), Some(("order/1".into(), OWNER)));
            assert_eq!(queue.owner(&place), OWNER.to_string());
        }
        assert_eq!(parse("other/", &Queue::of("dlock/", "k").place(OWNER)), None);
    }

    #[test]
    fn the_guard_is_no_lock() {
        assert_eq!(parse("dlock/", &guard("dlock/", OWNER.session)), None);
        assert_eq!(parse("", &guard("", OWNER.session)), None);
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
