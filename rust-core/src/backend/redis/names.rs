//! The names of Redis keys: where a lock is and where its side keys are.

use std::sync::{Arc, OnceLock};

/// What the names of side keys and channels begin with. No lock key may.
pub(super) const SIDE: &str = "dlock:";

const SLOTS: u16 = 16_384;

/// The keys of one lock, all in one hash slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// The lock itself.
    pub(super) lock: String,
    /// The waiting order: owners by arrival.
    pub(super) queue: String,
    /// The waiters' heartbeats.
    pub(super) beats: String,
    /// The last token of the slot.
    pub(super) token: String,
}

impl Names {
    pub(super) fn of(namespace: &str, key: &str) -> Self {
        Self::of_lock(lock(namespace, key))
    }

    /// `{lock}` as the tag would not do: a lock key may itself hold braces. So the tag is a short text from a table, chosen to hash to
    /// the lock key's slot.
    fn of_lock(lock: String) -> Self {
        let tag = tag(slot(lock.as_bytes()));
        // By hand: every request needs them, and formatting would take longer than the rest of it.
        Self {
            queue: joined(&[SIDE, "q:{", &tag, "}:", &lock]),
            beats: joined(&[SIDE, "w:{", &tag, "}:", &lock]),
            token: joined(&[SIDE, "t:{", &tag, "}"]),
            lock,
        }
    }
}

/// The Redis key of a lock.
pub(super) fn lock(namespace: &str, key: &str) -> String {
    if namespace.is_empty() { key.to_owned() } else { joined(&[namespace, "/", key]) }
}

/// In one piece of memory of the right size.
fn joined(parts: &[&str]) -> String {
    parts.concat()
}

/// The lock's key without its namespace, `None` if it is of another one.
pub(super) fn without_namespace(namespace: &str, lock: &str) -> Option<Arc<str>> {
    if namespace.is_empty() {
        return Some(lock.into());
    }
    Some(lock.strip_prefix(namespace)?.strip_prefix('/')?.into())
}

/// The channel on which a session is told to look at a key.
pub(super) fn channel(session: impl std::fmt::Display) -> String {
    format!("{SIDE}s:{session}")
}

/// A short text that hashes to `slot`.
fn tag(slot: u16) -> String {
    static TAGS: OnceLock<Vec<u32>> = OnceLock::new();
    let tags = TAGS.get_or_init(|| {
        let mut tags = vec![u32::MAX; usize::from(SLOTS)];
        let mut missing = tags.len();
        // Some 170,000 steps of a few nanoseconds each; every slot is met long before the numbers run out.
        for number in 0..u32::MAX {
            let slot = &mut tags[usize::from(slot_of_tag(spell(number).as_bytes()))];
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
    spell(tags[usize::from(slot)])
}

/// A number in base 36.
fn spell(mut number: u32) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut text = String::with_capacity(4);
    loop {
        text.push(char::from(DIGITS[(number % 36) as usize]));
        number /= 36;
        if number == 0 {
            return text;
        }
    }
}

/// The Cluster hash slot of a key.
fn slot(key: &[u8]) -> u16 {
    slot_of_tag(hash_tag(key).unwrap_or(key))
}

/// What is between the first `{` and the first `}` after it, unless that is nothing.
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
            assert_eq!(slot_of_tag(tag(number).as_bytes()), number);
        }
    }

    #[test]
    fn side_keys_share_the_slot_of_odd_names() {
        for key in ["plain", "{user1}:lock", "a}b", "{}x", "}{", "{", "{a", "x{y}z{w}", "ключ"] {
            for namespace in ["", "dlock", "{team}"] {
                let names = Names::of(namespace, key);
                let slots = [&names.lock, &names.queue, &names.beats, &names.token].map(|name| slot(name.as_bytes()));
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
