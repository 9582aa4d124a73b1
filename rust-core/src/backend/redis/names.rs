//! The names of Redis keys: a lock's own key and the side keys beside it.

use std::sync::{Arc, OnceLock};

/// The prefix of side keys and channels. No lock key may begin with it.
pub(super) const SIDE: &str = "dlock:";

const SLOTS: u16 = 16_384;

/// The keys of one lock, all in one hash slot.
///
/// Every request needs them, so they share one allocation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    text: String,
    lock: usize,
    token: usize,
    queue: usize,
}

impl Names {
    /// The tag cannot be the lock key itself, which may contain braces. It is a short text from a table that hashes to the lock key's slot.
    pub(super) fn of(namespace: &str, key: &str) -> Self {
        let mut text = String::with_capacity(3 * (namespace.len() + 1 + key.len() + SIDE.len() + LONGEST_TAG + 5));
        push_lock(&mut text, namespace, key);
        let lock = text.len();
        let tag = tag(slot(text.as_bytes()));
        let mut push_side = |kind: &str, with_lock: bool| {
            for part in [SIDE, kind, ":{", tag.as_str(), "}"] {
                text.push_str(part);
            }
            if with_lock {
                text.push(':');
                text.extend_from_within(..lock);
            }
            text.len()
        };
        let token = push_side("t", false);
        let queue = push_side("q", true);
        push_side("w", true);
        Self { text, lock, token, queue }
    }

    /// The key of the lock itself.
    pub(super) fn lock(&self) -> &str {
        &self.text[..self.lock]
    }

    /// The key of the slot's last token.
    pub(super) fn token(&self) -> &str {
        &self.text[self.lock..self.token]
    }

    /// The key of the queue: the owners of waiters, by arrival.
    pub(super) fn queue(&self) -> &str {
        &self.text[self.token..self.queue]
    }

    /// The key of the waiters' heartbeats.
    pub(super) fn heartbeats(&self) -> &str {
        &self.text[self.queue..]
    }
}

/// The keys of a lock that nobody asks for, by which a probe finds out what a session may do in its namespace.
pub(super) fn of_probe(namespace: &str, session: impl std::fmt::Display) -> Names {
    Names::of(namespace, &format!("{SIDE}probe:{session}"))
}

/// The Redis key of a lock.
pub(super) fn lock(namespace: &str, key: &str) -> String {
    let mut lock = String::with_capacity(namespace.len() + 1 + key.len());
    push_lock(&mut lock, namespace, key);
    lock
}

fn push_lock(text: &mut String, namespace: &str, key: &str) {
    if !namespace.is_empty() {
        text.push_str(namespace);
        text.push('/');
    }
    text.push_str(key);
}

/// A lock's key without its namespace; `None` if it belongs to another namespace.
pub(super) fn without_namespace(namespace: &str, lock: &str) -> Option<Arc<str>> {
    if namespace.is_empty() {
        return Some(lock.into());
    }
    Some(lock.strip_prefix(namespace)?.strip_prefix('/')?.into())
}

/// The channel on which a session gets its hints.
pub(super) fn channel(session: impl std::fmt::Display) -> String {
    format!("{SIDE}s:{session}")
}

/// A short text that hashes to `slot`.
fn tag(slot: u16) -> Tag {
    static TAGS: OnceLock<Vec<u32>> = OnceLock::new();
    let tags = TAGS.get_or_init(|| {
        let mut tags = vec![u32::MAX; usize::from(SLOTS)];
        let mut missing = tags.len();
        // Every slot has a tag after some 170,000 steps of a few nanoseconds each.
        for number in 0..u32::MAX {
            let slot = &mut tags[usize::from(slot_of_tag(Tag::of(number).as_str().as_bytes()))];
            if *slot == u32::MAX {
                *slot = number;
                missing -= 1;
                if missing == 0 {
                    break;
                }
            }
        }
        tags
    });
    Tag::of(tags[usize::from(slot)])
}

/// The digits of the largest number in base 36.
const LONGEST_TAG: usize = 7;

/// A number in base 36, its lowest digit first.
struct Tag {
    digits: [u8; LONGEST_TAG],
    length: usize,
}

impl Tag {
    fn of(mut number: u32) -> Self {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let mut tag = Self { digits: [0; LONGEST_TAG], length: 0 };
        loop {
            tag.digits[tag.length] = DIGITS[(number % 36) as usize];
            tag.length += 1;
            number /= 36;
            if number == 0 {
                return tag;
            }
        }
    }

    fn as_str(&self) -> &str {
        // All digits are ASCII.
        std::str::from_utf8(&self.digits[..self.length]).unwrap_or_default()
    }
}

/// The Cluster hash slot of a key.
fn slot(key: &[u8]) -> u16 {
    slot_of_tag(hash_tag(key).unwrap_or(key))
}

/// The text between the first `{` and the first `}` after it, unless that is empty.
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let start = key.iter().position(|&byte| byte == b'{')? + 1;
    let length = key[start..].iter().position(|&byte| byte == b'}')?;
    (length > 0).then(|| &key[start..start + length])
}

fn slot_of_tag(tag: &[u8]) -> u16 {
    crc16(tag) % SLOTS
}

/// CRC-16/XMODEM, as Redis Cluster hashes.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = {
        let mut table = [0; 256];
        let mut byte: u16 = 0;
        while byte < 256 {
            let mut crc = byte << 8;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
                bit += 1;
            }
            table[byte as usize] = crc;
            byte += 1;
        }
        table
    };
    bytes.iter().fold(0, |crc, &byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) ^ u16::from(byte)) & 0xff])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{}{bar}"), slot_of_tag(b"foo{}{bar}"));
    }

    #[test]
    fn every_slot_has_a_tag() {
        for number in 0..SLOTS {
            assert_eq!(slot_of_tag(tag(number).as_str().as_bytes()), number);
        }
    }

    #[test]
    fn side_keys_share_the_slot_of_odd_names() {
        for key in ["plain", "{user1}:lock", "a}b", "{}x", "}{", "{", "{a", "x{y}z{w}", "ключ"] {
            for namespace in ["", "dlock", "{team}"] {
                let names = Names::of(namespace, key);
                let slots = [names.lock(), names.queue(), names.heartbeats(), names.token()].map(|name| slot(name.as_bytes()));
                assert!(slots.iter().all(|&each| each == slots[0]), "{names:?}");
            }
        }
    }

    #[test]
    fn a_namespace_comes_off_again() {
        assert_eq!(without_namespace("ns", &lock("ns", "a/b")).as_deref(), Some("a/b"));
        assert_eq!(without_namespace("", "a").as_deref(), Some("a"));
        assert_eq!(without_namespace("ns", "nsx/a"), None);
    }
}
