//! What others may read about the holder of a key.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::fencing::{Token, micros};
use crate::printable::{bound, shown};

/// Who holds a key, as far as the backend can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// The owner id in its text form, or the raw value that a foreign library wrote.
    pub owner: String,
    /// The fencing token of the holder's grant.
    pub token: Option<Token>,
    /// How long the lease will last as the backend sees it; `None` if it has no end.
    pub remaining: Option<Duration>,
    /// What the holder wrote about itself; `None` for a foreign holder.
    pub note: Option<Note>,
}

/// The most characters of a holder's text that programs get. This library writes less; a foreign value may have any size.
const LONGEST_TEXT: usize = 4096;
/// The most characters of an owner id or a host name that programs get.
const LONGEST_NAME: usize = 1024;

impl Holder {
    /// Cuts what others wrote to a length that errors and programs can carry.
    pub(crate) fn bound(&mut self) {
        bound(&mut self.owner, LONGEST_NAME);
        if let Some(note) = &mut self.note {
            bound(&mut note.host, LONGEST_NAME);
            if let Some(metadata) = &mut note.metadata {
                bound(metadata, LONGEST_TEXT);
            }
        }
    }
}

/// What a holder writes beside its lock. One text form in every backend: a line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The holder's host name.
    pub host: String,
    /// The holder's process id.
    pub pid: u32,
    /// When the holder began its attempt, in milliseconds since 1970.
    pub since: u64,
    /// The `metadata` option of the lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
}

impl Note {
    /// The note of this process, now.
    pub fn of_this_process(wall: SystemTime, metadata: Option<String>) -> Self {
        Self { host: host_name().to_owned(), pid: std::process::id(), since: micros(wall) / 1000, metadata }
    }

    /// Whether this process wrote it, through any client.
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.pid == std::process::id() && self.host == host_name()
    }

    /// The line of JSON that backends store.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a stored line; `None` if this library did not write it.
    pub fn decode(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// The notes of one process. The part that never changes is encoded once, because every attempt writes a note.
#[derive(Debug)]
pub(crate) struct Notes {
    /// A line up to the number of `since`.
    beginning: String,
}

impl Notes {
    /// The notes of this process.
    pub(crate) fn of_this_process() -> Self {
        let host = serde_json::to_string(host_name()).unwrap_or_default();
        Self { beginning: format!(r#"{{"host":{host},"pid":{},"since":"#, std::process::id()) }
    }

    /// The line of [`Note::of_this_process`], encoded.
    pub(crate) fn line(&self, wall: SystemTime, metadata: Option<&str>) -> Arc<str> {
        let since = micros(wall) / 1000;
        let beginning = &self.beginning;
        match metadata.map(serde_json::to_string) {
            Some(Ok(metadata)) => format!(r#"{beginning}{since},"metadata":{metadata}}}"#).into(),
            _ => format!("{beginning}{since}}}").into(),
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.note {
            Some(note) => write!(f, "pid {} on {}", note.pid, shown(&note.host))?,
            None => write!(f, "{}", shown(&self.owner))?,
        }
        match self.token {
            Some(token) => write!(f, " (token {token})"),
            None => Ok(()),
        }
    }
}

fn host_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_back_what_it_wrote() {
        let note = Note::of_this_process(SystemTime::now(), Some("job | 7".into()));
        assert_eq!(Note::decode(&note.encode()), Some(note));
        assert_eq!(Note::decode("redis-py's uuid"), None);
    }

    #[test]
    fn notes_write_what_a_note_encodes_to() {
        let (wall, notes) = (SystemTime::now(), Notes::of_this_process());
        for metadata in [None, Some("a \"job\" | 7")] {
            let note = Note::of_this_process(wall, metadata.map(str::to_owned));
            assert_eq!(&*notes.line(wall, metadata), note.encode());
        }
    }

    #[test]
    fn a_holder_is_named_by_process_or_by_its_raw_value() {
        let mut holder = Holder { owner: "abc".into(), token: Some(9), ..Holder::default() };
        assert_eq!(holder.to_string(), "abc (token 9)");
        holder.note = Some(Note { host: "web-1".into(), pid: 4, since: 0, metadata: None });
        assert_eq!(holder.to_string(), "pid 4 on web-1 (token 9)");
    }
}
