//! From a key to the name of its lock file.

/// The longest file name that every file system takes, in bytes.
const LONGEST_NAME: usize = 255;

/// How many bytes of a long key stay readable in its file name.
const READABLE: usize = 200;

/// The prefixes of the names of lock files.
const SHORT: &str = "lock,";
const LONG: &str = "long,";

/// The name of a key's lock file.
///
/// Different keys have different names, also on file systems that ignore case: every byte that is not a small letter, a digit or one of
/// `._-` is written as `%` and two hexadecimal digits. A key that is too long for that gets a name with a 128-bit hash. If two such keys
/// ever share a name, they exclude each other, which is safe.
pub(super) fn file_name(namespace: &str, key: &str) -> String {
    let mut name = String::with_capacity(SHORT.len() + namespace.len() + key.len() + 16);
    name.push_str(SHORT);
    escape(namespace, &mut name);
    name.push(',');
    escape(key, &mut name);
    if name.len() <= LONGEST_NAME {
        return name;
    }
    format!("{LONG}{:032x},{}", hash(namespace, key), &name[SHORT.len()..READABLE])
}

/// Whether a directory entry is a lock file.
pub(super) fn is_lock_file(name: &str) -> bool {
    name.starts_with(SHORT) || name.starts_with(LONG)
}

/// The number of the token slot that the key shares with others.
pub(super) fn slot(namespace: &str, key: &str) -> u8 {
    // The low byte of FNV depends only on the low bits of its input, so all bytes are folded into one.
    hash(namespace, key).to_le_bytes().into_iter().fold(0, |folded, byte| folded ^ byte)
}

fn escape(text: &str, into: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for byte in text.bytes() {
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-') {
            into.push(char::from(byte));
        } else {
            into.push('%');
            into.push(char::from(HEX[usize::from(byte >> 4)]));
            into.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// 128-bit FNV-1a. It is written out because file names must never change, while std's hasher may change with the compiler.
fn hash(namespace: &str, key: &str) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    // 0xff never occurs in UTF-8, so it separates the two parts.
    let bytes = namespace.bytes().chain([0xff]).chain(key.bytes());
    bytes.fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn plain_keys_stay_readable() {
        assert_eq!(file_name("dlock", "order-123"), "lock,dlock,order-123");
        assert_eq!(file_name("", "a/B c"), "lock,,a%2f%42%20c");
    }

    #[test]
    fn different_keys_have_different_names_whatever_the_case() {
        let long_a = "x".repeat(512);
        let long_b = format!("{}y", "x".repeat(511));
        let upper = "X".repeat(512);
        let pairs = [
            ("a", "b"),
            ("a", ",b"),
            ("a,", "b"),
            ("", "a,b"),
            ("", "A"),
            ("", "a"),
            ("", "%61"),
            ("", "%41"),
            ("", "."),
            ("", ".."),
            ("", "é"),
            ("n", &long_a),
            ("m", &long_a),
            ("n", &long_b),
            ("n", &upper),
        ];
        let names: HashSet<_> = pairs.iter().map(|(namespace, key)| file_name(namespace, key).to_lowercase()).collect();
        assert_eq!(names.len(), pairs.len());
    }

    #[test]
    fn names_fit_and_are_known_as_lock_files() {
        for key in ["k", &"x".repeat(243), &"x".repeat(512), &"É".repeat(256)] {
            let name = file_name("dlock", key);
            assert!(name.len() <= LONGEST_NAME && !name.contains('/'), "{name}");
            assert!(is_lock_file(&name));
        }
        assert!(!is_lock_file("slot-00"));
    }

    #[test]
    fn names_and_slots_never_change_between_versions() {
        assert_eq!(hash("dlock", "k"), 0x8e49_6aec_b44f_f78d_9ce8_f408_8646_083e);
        assert_eq!(slot("dlock", "k"), 190);
        let slots: HashSet<_> = (0..4096).map(|n| slot("dlock", &format!("order-{n}"))).collect();
        assert!(slots.len() > 250, "keys must spread over the slots: {}", slots.len());
    }
}
