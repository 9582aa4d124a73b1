//! The Lua scripts, and how one is called.

use std::fmt::Display;
use std::io::Write;
use std::sync::LazyLock;

use redis::{Cmd, RedisWrite, Script, ToRedisArgs};

/// Where a script wants the code of the waiting order.
const QUEUE_MARK: &str = "-- @queue\n";
const QUEUE: &str = include_str!("scripts/queue.lua");

pub(super) static BATCH: Source = Source::new(|| load(include_str!("scripts/batch.lua")));
pub(super) static RENEW: Source = Source::new(|| load(include_str!("scripts/renew.lua")));
pub(super) static KEEP_PLACES: Source = Source::new(|| load(include_str!("scripts/keep_places.lua")));
pub(super) static FORCE_RELEASE: Source = Source::new(|| load(include_str!("scripts/force_release.lua")));
pub(super) static PROBE: Source = Source::new(|| load(include_str!("scripts/probe.lua")));
pub(super) static INSPECT: Source = Source::new(|| load(include_str!("scripts/inspect.lua")));

/// A script that is put together at its first use.
pub(super) type Source = LazyLock<Loaded>;

/// A script's text and its hash.
pub(super) struct Loaded {
    text: String,
    hash: String,
}

fn load(source: &str) -> Loaded {
    let text = source.replace(QUEUE_MARK, QUEUE);
    let hash = Script::new(&text).get_hash().to_owned();
    Loaded { text, hash }
}

/// One call of a script: its keys and arguments.
pub(super) struct Call {
    script: &'static Source,
    keys: usize,
    arguments: Arguments,
}

/// All of them in one piece of memory.
struct Arguments {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl RedisWrite for Arguments {
    fn write_arg(&mut self, argument: &[u8]) {
        self.bytes.extend_from_slice(argument);
        self.ends.push(self.bytes.len());
    }

    fn writer_for_next_arg(&mut self) -> impl Write + '_ {
        Next(self)
    }
}

/// Ends its argument when it is dropped.
struct Next<'a>(&'a mut Arguments);

impl Write for Next<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Next<'_> {
    fn drop(&mut self) {
        self.0.ends.push(self.0.bytes.len());
    }
}

impl Call {
    pub(super) fn new(script: &'static Source) -> Self {
        Self::with_capacity(script, 12, 256)
    }

    pub(super) fn with_capacity(script: &'static Source, arguments: usize, bytes: usize) -> Self {
        Self { script, keys: 0, arguments: Arguments { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(arguments) } }
    }

    /// Adds a key; all keys come before all arguments.
    pub(super) fn key(mut self, key: impl ToRedisArgs) -> Self {
        key.write_redis_args(&mut self.arguments);
        self.keys = self.arguments.ends.len();
        self
    }

    /// Adds an argument.
    pub(super) fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        argument.write_redis_args(&mut self.arguments);
        self
    }

    /// Adds an argument as it is displayed: written to its place, where a text of its own would be moved again and again as it grows.
    pub(super) fn text(mut self, argument: impl Display) -> Self {
        let _ = write!(self.arguments.writer_for_next_arg(), "{argument}");
        self
    }

    /// The script's hash.
    pub(super) fn hash(&self) -> &'static str {
        &self.script.hash
    }

    /// The command that counts on the server knowing the script.
    pub(super) fn by_hash(&self) -> Cmd {
        self.command("EVALSHA", &self.script.hash)
    }

    /// The command that brings the script along.
    pub(super) fn by_text(&self) -> Cmd {
        self.command("EVAL", &self.script.text)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let Arguments { bytes, ends } = &self.arguments;
        let mut command = Cmd::with_capacity(3 + ends.len(), name.len() + script.len() + 8 + bytes.len());
        command.arg(name).arg(script).arg(self.keys);
        let mut start = 0;
        for &end in ends {
            command.arg(&bytes[start..end]);
            start = end;
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_open_with_their_argument_list_and_hold_no_mark() {
        for script in [&BATCH, &RENEW, &KEEP_PLACES, &FORCE_RELEASE, &PROBE, &INSPECT] {
            assert!(script.text.starts_with("-- "));
            assert!(script.text.contains("\n-- KEYS ") && script.text.contains("\n-- ARGV "));
            assert!(!script.text.contains(QUEUE_MARK));
        }
        assert!(BATCH.text.contains("local function hand_over"));
    }

    #[test]
    fn a_call_puts_keys_before_arguments() {
        let call = Call::new(&INSPECT).key("a").key("b").arg(7);
        let packed = String::from_utf8(call.by_hash().get_packed_command()).unwrap();
        assert!(packed.ends_with("$1\r\n2\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\n7\r\n"), "{packed}");
    }
}
