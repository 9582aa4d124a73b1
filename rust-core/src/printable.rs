//! Text that is safe to print. Others may have written it: it is cut, and a terminal finds nothing in it to obey.

/// The most characters printed of a text that others wrote.
pub(crate) const LONGEST: usize = 200;
/// The most characters printed of a server's message.
pub const LONGEST_ANSWER: usize = 500;
/// The longest key.
const LONGEST_KEY: usize = 512;

/// A text that others wrote, safe to be printed.
pub fn shown(text: &str) -> String {
    cut(text, LONGEST)
}

/// A name or key in quotes, as in all messages. Quotes inside are not escaped: people read this, and programs have the fields.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", cut(text, LONGEST_KEY))
}

/// At most so many characters, with an ellipsis where some are missing, and control characters written as `\n` or `\u{1b}`.
pub fn cut(text: &str, most: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(most));
    for (count, character) in text.chars().enumerate() {
        if count == most {
            shown.push('…');
            break;
        }
        if is_obeyed(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// True if the text can be printed unchanged.
pub(crate) fn is_harmless(text: &str, most: usize) -> bool {
    text.len() <= most && !text.chars().any(is_obeyed)
}

/// Cuts a text for programs; the rest of it is unchanged.
pub(crate) fn bound(text: &mut String, most: usize) {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
        text.push('…');
    }
}

/// Control characters, and characters that change the direction of text or begin another line.
fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_cut_and_harmless() {
        assert_eq!(shown("a \"job\" at 'web', \\ and ü"), "a \"job\" at 'web', \\ and ü");
        assert_eq!(shown("\u{1b}[31m\n\t\u{202e}\u{9b}"), "\\u{1b}[31m\\n\\t\\u{202e}\\u{9b}");
        let long = shown(&"ä".repeat(1_000_000));
        assert_eq!((long.chars().count(), long.ends_with("ä…")), (LONGEST + 1, true));
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(quoted("a \"b\""), "\"a \"b\"\"");
        let mut text = "ü\n".repeat(500);
        bound(&mut text, 4);
        assert_eq!(text, "ü\nü\n…");
    }
}
