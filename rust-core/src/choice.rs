//! Which backend a client gets: the URL that it was given, or else the one that the environment names, or else `local:`.

use std::env::{self, VarError};

use crate::error::{Error, Result};
use crate::printable::quoted;

/// Names the backend if no argument does.
pub const URL_VARIABLE: &str = "DLOCK_URL";
/// Refuses the default if neither of them does.
pub const REQUIRE_VARIABLE: &str = "DLOCK_REQUIRE_URL";
/// The backend if nothing names one.
const DEFAULT_URL: &str = "local:";
/// The log message for that case.
pub const DEFAULT_CHOSEN: &str = "no URL was given and DLOCK_URL is not set: using `local:`, which excludes only this user's processes \
     on this machine; DLOCK_REQUIRE_URL=1 refuses this default";

/// What chose a client's backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChosenBy {
    /// A URL that the program was given.
    #[default]
    Argument,
    /// The variable `DLOCK_URL`.
    Variable,
    /// The default: nothing names a backend, so it is `local:`.
    Default,
}

impl ChosenBy {
    /// A word that never changes, the same in every language.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Argument => "argument",
            Self::Variable => "variable",
            Self::Default => "default",
        }
    }
}

/// The variables that choose a backend. An empty variable counts as one that is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables {
    /// `DLOCK_URL`.
    pub url: Option<String>,
    /// `DLOCK_REQUIRE_URL`.
    pub require_url: Option<String>,
}

impl Variables {
    /// The variables of this process.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] for a variable that is not UTF-8.
    pub fn of_process() -> Result<Self> {
        Ok(Self { url: read(URL_VARIABLE)?, require_url: read(REQUIRE_VARIABLE)? })
    }

    /// The URL to use, and what chose it. `require` refuses the default, and so may the environment.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] naming both variables.
    pub fn choose(&self, given: Option<&str>, require: bool) -> Result<(String, ChosenBy)> {
        if let Some(url) = given {
            return Ok((url.to_owned(), ChosenBy::Argument));
        }
        if let Some(url) = self.url.as_deref().filter(|url| !url.is_empty()) {
            return Ok((url.to_owned(), ChosenBy::Variable));
        }
        if self.requires()? || require {
            let allowed = format!(
                "a URL, given or in {URL_VARIABLE}, which is not set: {REQUIRE_VARIABLE}=1, or the option require_url, \
                 refuses the default, {DEFAULT_URL}"
            );
            return Err(Error::invalid("url", "none", allowed));
        }
        Ok((DEFAULT_URL.to_owned(), ChosenBy::Default))
    }

    /// An unknown word is refused: it may be a mistyped yes.
    fn requires(&self) -> Result<bool> {
        let word = self.require_url.as_deref().unwrap_or_default();
        match word.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok(true),
            "" | "0" | "false" | "no" | "off" => Ok(false),
            _ => Err(Error::invalid(REQUIRE_VARIABLE, quoted(word), "1, true, yes or on; 0, false, no, off or nothing")),
        }
    }
}

fn read(variable: &str) -> Result<Option<String>> {
    match env::var(variable) {
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(Error::invalid(variable, "this text", "text in UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(url: &str, require_url: &str) -> Variables {
        Variables { url: Some(url.to_owned()), require_url: Some(require_url.to_owned()) }
    }

    #[test]
    fn an_argument_goes_before_the_variable_and_that_before_the_default() {
        let both = variables("redis://h", "1");
        assert_eq!(both.choose(Some("memory:"), true).unwrap(), ("memory:".to_owned(), ChosenBy::Argument));
        assert_eq!(both.choose(None, true).unwrap(), ("redis://h".to_owned(), ChosenBy::Variable));
        for none in [Variables::default(), variables("", "")] {
            assert_eq!(none.choose(None, false).unwrap(), ("local:".to_owned(), ChosenBy::Default));
        }
        // An empty argument is a mistake of the program, which parsing the URL refuses.
        assert_eq!(both.choose(Some(""), false).unwrap().1, ChosenBy::Argument);
    }

    #[test]
    fn r15_the_default_is_refused_where_a_url_is_required() {
        for word in ["1", "true", "YES", "On"] {
            let said = variables("", word).choose(None, false).unwrap_err().to_string();
            assert!(said.starts_with("url: none") && said.contains("DLOCK_URL") && said.contains("DLOCK_REQUIRE_URL"), "{said}");
            assert!(variables("local:", word).choose(None, true).is_ok(), "on purpose");
        }
        for word in ["", "0", "false", "No", "off"] {
            assert!(variables("", word).choose(None, false).is_ok());
            assert_eq!(variables("", word).choose(None, true).unwrap_err().code(), "INVALID_OPTIONS", "the option alone");
        }
        let mistyped = variables("", "ture").choose(None, false).unwrap_err().to_string();
        assert!(mistyped.starts_with("DLOCK_REQUIRE_URL: \"ture\""), "{mistyped}");
        assert!(variables("memory:", "ture").choose(None, false).is_ok(), "nothing is required of a URL that is there");
    }
}
