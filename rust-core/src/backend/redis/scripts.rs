//! The Lua scripts, and a call of one.

use std::fmt::Display;
use std::io::Write;
use std::sync::LazyLock;

use redis::{Cmd, RedisWrite, Script, ToRedisArgs};

/// Stands in a script where the code of the queue is pasted in.
const QUEUE_MARK: &str = "-- @queue\n";
const QUEUE: &str = include_str!("scripts/queue.lua");

pub(super) static BATCH: LazyScript = LazyScript::new(|| load(include_str!("scripts/batch.lua")));
pub(super) static RENEW: LazyScript = LazyScript::new(|| load(include_str!("scripts/renew.lua")));
pub(super) static KEEP_WAITING: LazyScript = LazyScript::new(|| load(include_str!("scripts/keep_waiting.lua")));
pub(super) static FORCE_RELEASE: LazyScript = LazyScript::new(|| load(include_str!("scripts/force_release.lua")));
pub(super) static PROBE: LazyScript = LazyScript::new(|| load(include_str!("scripts/probe.lua")));
pub(super) static INSPECT: LazyScript = LazyScript::new(|| load(include_str!("scripts/inspect.lua")));

/// A script that is assembled at its first use.
pub(super) type LazyScript = LazyLock<LoadedScript>;

/// A script's text and its hash.
pub(super) struct LoadedScript {
    text: String,
    hash: String,
}

fn load(source: &str) -> LoadedScript {
    let text = source.replace(QUEUE_MARK, QUEUE);
    let hash = Script::new(&text).get_hash().to_owned();
    LoadedScript { text, hash }
}

/// One call of a script, with its keys and arguments.
pub(super) struct ScriptCall {
    script: &'static LazyScript,
    keys: usize,
    arguments: Arguments,
}

/// All keys and arguments in one allocation.
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
        ArgumentWriter(self)
    }
}

/// Writes one argument, which ends when this is dropped.
struct ArgumentWriter<'a>(&'a mut Arguments);

impl Write for ArgumentWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for ArgumentWriter<'_> {
    fn drop(&mut self) {
        self.0.ends.push(self.0.bytes.len());
    }
}

impl ScriptCall {
    pub(super) fn new(script: &'static LazyScript) -> Self {
        Self::with_capacity(script, 12, 256)
    }

    pub(super) fn with_capacity(script: &'static LazyScript, arguments: usize, bytes: usize) -> Self {
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

    /// Adds an argument by its `Display`, written straight into the buffer without a string in between.
    pub(super) fn text(mut self, argument: impl Display) -> Self {
        let _ = write!(self.arguments.writer_for_next_arg(), "{argument}");
        self
    }

    /// The script's hash.
    pub(super) fn hash(&self) -> &'static str {
        &self.script.hash
    }

    /// The command for a server that knows the script.
    pub(super) fn by_hash(&self) -> Cmd {
        self.command("EVALSHA", &self.script.hash)
    }

    /// The command that carries the script's text.
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
        for script in [&BATCH, &RENEW, &KEEP_WAITING, &FORCE_RELEASE, &PROBE, &INSPECT] {
            assert!(script.text.starts_with("-- "));
            assert!(script.text.contains("\n-- KEYS ") && script.text.contains("\n-- ARGV "));
            assert!(!script.text.contains(QUEUE_MARK));
        }
        assert!(BATCH.text.contains("local function hand_over"));
    }

    #[test]
    fn a_call_puts_keys_before_arguments() {
        let call = ScriptCall::new(&INSPECT).key("a").key("b").arg(7);
        let packed = String::from_utf8(call.by_hash().get_packed_command()).unwrap();
        assert!(packed.ends_with("$1\r\n2\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\n7\r\n"), "{packed}");
    }
}
