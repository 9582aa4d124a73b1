//! Which texts may be keys.

use crate::backend::Capabilities;
use crate::error::{Error, Result};
use crate::printable::quoted;

/// The longest key, in bytes.
pub const LONGEST_KEY: usize = 512;

/// Checks a key: 1 to 512 bytes, no control characters, none that belongs to the backend, and no text that an object was converted
/// to by accident.
///
/// # Errors
/// [`Error::InvalidOptions`].
pub fn check_key(key: &str, capabilities: &Capabilities) -> Result<()> {
    let allowed = || format!("1 to {LONGEST_KEY} bytes without control characters");
    if key.is_empty() {
        return Err(Error::invalid("key", "\"\"", allowed()));
    }
    if key.len() > LONGEST_KEY {
        return Err(Error::invalid("key", format!("{} bytes", key.len()), allowed()));
    }
    if key.chars().any(char::is_control) {
        return Err(Error::invalid("key", quoted(key), allowed()));
    }
    if let Some(instead) = no_name(key) {
        return Err(Error::invalid("key", quoted(key), instead));
    }
    match capabilities.reserved {
        Some(reserved) if key.starts_with(reserved) => {
            let allowed =
                format!("without a namespace, a key that does not begin with {} on {}:", quoted(reserved), capabilities.scheme);
            Err(Error::invalid("key", quoted(key), allowed))
        }
        _ => Ok(()),
    }
}

/// How Python converts an object without a text of its own: `<Order object at 0x7f3a5c>`.
const ADDRESS: &str = " at 0x";
/// How JavaScript converts one: `[object Object]`, `[object Promise]`.
const TAG: &str = "[object ";

/// What to write instead of a text that an object was converted to by accident. Such a key excludes nobody, since the address
/// differs in each process, or everybody, since all objects share the text.
///
/// Only the whole form counts: `meet at 0xCAFE` is a name, and so is `<Order: 7>`.
fn no_name(key: &str) -> Option<&'static str> {
    let starts_with_hex = |text: &str| text.starts_with(|c: char| c.is_ascii_hexdigit());
    let has_address = key.find('<').is_some_and(|at| key[at..].split(ADDRESS).skip(1).any(starts_with_hex));
    if has_address {
        return Some(
            "a text that is the same in every process, not one with an object's address: write {order.id} instead of {order}, say",
        );
    }
    // The names of classes begin with a capital.
    let is_tag = |text: &str| text.starts_with(|c: char| c.is_ascii_uppercase()) && text.contains(']');
    key.split(TAG)
        .skip(1)
        .any(is_tag)
        .then_some("a text that tells objects apart, not what each of them turns into: write ${order.id} instead of ${order}, say")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::{capabilities, message};

    #[test]
    fn r15_keys_are_checked() {
        check_key("order:42", &capabilities()).unwrap();
        check_key(&"x".repeat(512), &capabilities()).unwrap();
        for key in ["", &"x".repeat(513), "a\nb", "a\0"] {
            assert_eq!(check_key(key, &capabilities()).unwrap_err().code(), "INVALID_OPTIONS");
        }
        let own = Capabilities { reserved: Some("dlock:"), ..capabilities() };
        assert!(message(check_key("dlock:q:x", &own)).starts_with("key: \"dlock:q:x\" is not valid"));
    }

    #[test]
    fn r15_what_an_object_turns_into_by_itself_is_no_key() {
        let shown = [
            "<X object at 0x7f>",
            "order:<shop.Order object at 0x7f3a5c0d1e50>",
            "<function <lambda> at 0x7F3A5C0D1E50>",
            "<bound method Order.ship of <Order object at 0x000001B2C3D4>>:7",
            "<weakref at 0x7f3a5c; to 'Order' at 0x7f3a5d>",
            "a at 0x? <Order object at 0x7f",
        ];
        for key in shown {
            assert!(message(check_key(key, &capabilities())).contains("{order.id} instead of {order}"), "{key}");
        }
        for key in ["[object Object]", "order:[object Object]:ship", "[object Array Iterator]", "x[object [object Promise]"] {
            assert!(message(check_key(key, &capabilities())).contains("${order.id} instead of ${order}"), "{key}");
        }
    }

    #[test]
    fn r15_texts_that_only_look_alike_are_keys() {
        let names = [
            "meet at 0xCAFE",
            "<b> at noon",
            "a > b at 0x10 <",
            "<Order: Order object (7)>",
            "<at 0x7f>",
            "< at 0x>",
            "[object store]",
            "[object Store",
            "[object ]",
            "[Object Object]",
        ];
        for key in names {
            check_key(key, &capabilities()).unwrap();
        }
    }
}
