//! The names of etcd keys.
//!
//! Everybody who holds or waits for a lock has a key of their own under it: `namespace/lock`, a zero byte, the owner id. No lock name
//! has a zero byte in it, so the keys of `order` and those of `order/1` never lie in one range.

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
    pub(super) fn of(namespace: &str, key: &str) -> Self {
        let mut prefix = lock(namespace, key);
        prefix.push(END_OF_NAME);
        Self { prefix }
    }

    /// The key of one who holds or waits.
    pub(super) fn place(&self, owner: OwnerId) -> Vec<u8> {
        let mut place = self.prefix.clone();
        place.extend_from_slice(owner.to_string().as_bytes());
        place
    }

    /// The key of an owner given by its text form.
    pub(super) fn place_of(&self, owner: &str) -> Vec<u8> {
        [&self.prefix, owner.as_bytes()].concat()
    }

    /// Behind the last key that begins with the prefix.
    pub(super) fn end(&self) -> Vec<u8> {
        let mut end = self.prefix.clone();
        if let Some(last) = end.last_mut() {
            *last = END_OF_NAME + 1;
        }
        end
    }

    /// The owner that a key of this lock belongs to, in its text form.
    pub(super) fn owner(&self, place: &[u8]) -> String {
        String::from_utf8_lossy(place.strip_prefix(&*self.prefix).unwrap_or(place)).into_owned()
    }
}

/// The key whose revision the requests of a session are bound to. It is where the queue of a lock without a name would be, and there is
/// no such lock.
pub(super) fn guard(namespace: &str, session: SessionId) -> Vec<u8> {
    let mut key = lock(namespace, "");
    key.push(END_OF_NAME);
    key.extend_from_slice(session.to_string().as_bytes());
    key
}

/// What the keys of all locks with this prefix begin with.
pub(super) fn lock(namespace: &str, prefix: &str) -> Vec<u8> {
    if namespace.is_empty() { prefix.as_bytes().to_vec() } else { [namespace, "/", prefix].concat().into_bytes() }
}

/// The lock's name and the owner that a key belongs to; `None` if it is no key of this namespace's locks.
pub(super) fn parse(namespace: &str, place: &[u8]) -> Option<(Arc<str>, String)> {
    let place = std::str::from_utf8(place).ok()?;
    let place = if namespace.is_empty() { place } else { place.strip_prefix(namespace)?.strip_prefix('/')? };
    let (key, owner) = place.split_once(char::from(END_OF_NAME))?;
    (!key.is_empty()).then(|| (key.into(), owner.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: OwnerId = OwnerId { session: SessionId::from_u128(7), sequence: 9 };

    #[test]
    fn a_lock_and_one_below_it_do_not_see_each_other() {
        let (order, below) = (Queue::of("dlock", "order"), Queue::of("dlock", "order/1"));
        assert!(!below.place(OWNER).starts_with(&order.prefix));
        assert!(below.place(OWNER) > order.end());
        assert!(order.place(OWNER) < order.end());
    }

    #[test]
    fn a_place_reads_back_as_lock_and_owner() {
        for namespace in ["dlock", ""] {
            let queue = Queue::of(namespace, "order/1");
            let place = queue.place(OWNER);
            assert_eq!(parse(namespace, &place), Some(("order/1".into(), OWNER.to_string())));
            assert_eq!(queue.owner(&place), OWNER.to_string());
            assert_eq!(queue.place_of(&OWNER.to_string()), place);
        }
        assert_eq!(parse("other", &Queue::of("dlock", "k").place(OWNER)), None);
    }

    #[test]
    fn the_guard_is_no_lock() {
        assert_eq!(parse("dlock", &guard("dlock", OWNER.session)), None);
        assert_eq!(parse("", &guard("", OWNER.session)), None);
    }
}
