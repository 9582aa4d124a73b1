//! Colours for people at a terminal.

use std::io::{IsTerminal, stdout};

/// The colours that are used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Colour {
    Green,
    Yellow,
    Red,
}

impl Colour {
    /// The word for stdout, coloured if stdout is a terminal that shows colours.
    pub(crate) fn paint(self, word: &str) -> String {
        let number = match self {
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
        };
        if wanted() { format!("\x1b[{number}m{word}\x1b[0m") } else { word.to_owned() }
    }
}

/// Whether to use colours. By <https://no-color.org>, any value but the empty one switches them off.
fn wanted() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    stdout().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}
