//! Colours, for people at a terminal only.

use std::io::{IsTerminal, stdout};

/// What a word says at a glance.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Colour {
    Green,
    Yellow,
    Red,
}

impl Colour {
    /// The word for stdout, coloured where somebody may see it.
    pub(crate) fn paint(self, word: &str) -> String {
        let number = match self {
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
        };
        if wanted() { format!("\x1b[{number}m{word}\x1b[0m") } else { word.to_owned() }
    }
}

/// As <https://no-color.org> has it: any value but the empty one switches colours off.
fn wanted() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    stdout().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}
