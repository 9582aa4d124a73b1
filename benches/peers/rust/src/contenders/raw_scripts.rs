//! What Redis allows with dlock's own script: the calls that one acquire and one release make, one after the other on a connection of the
//! task's own. Keys and arguments are as `rust-core/src/backend/redis/request.rs` writes them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::redis_line::{self, RedisLine};
use crate::work::{Contender, Lock};

const BATCH: &str = include_str!("../../../../../rust-core/src/backend/redis/scripts/batch.lua");
const QUEUE: &str = include_str!("../../../../../rust-core/src/backend/redis/scripts/queue.lua");
/// Stands in the script where the code of the queue is pasted in.
const QUEUE_MARK: &str = "-- @queue\n";

/// As long as the id of a session.
const SESSION: &str = "d6c2b8a1f3e94705b1a2c3d4e5f60718";

pub struct RawScripts {
    address: String,
    hash: String,
}

impl RawScripts {
    pub async fn connect(url: &str) -> Result<Self> {
        let address = redis_line::address(url)?.to_owned();
        let load = redis_line::command(&["SCRIPT", "LOAD", &BATCH.replace(QUEUE_MARK, QUEUE)])?;
        let mut line = RedisLine::connect(&address).await?;
        let hash = line.ask(&load).await?.lines().nth(1).context("SCRIPT LOAD gave no hash")?.to_owned();
        Ok(Self { address, hash })
    }
}

pub struct ScriptLock {
    line: RedisLine,
    hash: String,
    names: Names,
    note: String,
    ttl: String,
    not_after: String,
    attempts: u64,
    owner: String,
    /// The last token, which the next one must be above.
    floor: String,
}

struct Names {
    lock: String,
    token: String,
    queue: String,
    heartbeats: String,
}

impl Names {
    fn of(key: &str) -> Self {
        let lock = format!("dlock/{key}");
        let tag = tag(&lock);
        Self {
            token: format!("dlock:t:{{{tag}}}"),
            queue: format!("dlock:q:{{{tag}}}:{lock}"),
            heartbeats: format!("dlock:w:{{{tag}}}:{lock}"),
            lock,
        }
    }
}

impl Contender for RawScripts {
    type Lock = ScriptLock;

    async fn lock(&self, key: &str, ttl: Duration) -> Result<ScriptLock> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        // Far away, so that the server's clock need not be known. The script compares it all the same.
        let not_after = now + Duration::from_secs(24 * 60 * 60);
        Ok(ScriptLock {
            line: RedisLine::connect(&self.address).await?,
            hash: self.hash.clone(),
            names: Names::of(key),
            note: format!(r#"{{"host":"benchmark","pid":{},"since":{}}}"#, process::id(), now.as_millis()),
            ttl: ttl.as_millis().to_string(),
            not_after: not_after.as_micros().to_string(),
            attempts: 0,
            owner: String::new(),
            floor: "0".to_owned(),
        })
    }
}

impl Lock for ScriptLock {
    async fn acquire(&mut self) -> Result<()> {
        let Self { hash, names: Names { lock, token, queue, heartbeats }, note, ttl, not_after, floor, .. } = self;
        self.attempts += 1;
        self.owner = format!("{SESSION}:{}", self.attempts);
        let names = ["EVALSHA", hash, "4", lock, token, queue, heartbeats];
        let arguments = ["1", floor, "afe", &self.owner, note, ttl, not_after];
        let answer = self.line.ask(&redis_line::command(&[&names[..], &arguments].concat())?).await?;
        // The server's time, then the token; a list in its place says who holds the key.
        match answer.split_terminator("\r\n").collect::<Vec<_>>()[..] {
            ["*2", _, token] if token.len() > 2 => floor.replace_range(.., &token[1..]),
            _ => bail!("an acquire was answered with {answer:?}"),
        }
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        let Names { lock, queue, heartbeats, .. } = &self.names;
        let release = ["EVALSHA", &self.hash, "3", lock, queue, heartbeats, "0", "0", "r", &self.owner];
        match self.line.ask(&redis_line::command(&release)?).await? {
            "*2\r\n:0\r\n:1\r\n" => Ok(()),
            answer => bail!("a release was answered with {answer:?}"),
        }
    }
}

/// Three digits for a key, as many as dlock's tags have mostly; whether they hash to the key's slot matters only to a cluster.
fn tag(lock: &str) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut hasher = DefaultHasher::new();
    lock.hash(&mut hasher);
    hasher.finish().to_le_bytes()[..3].iter().map(|byte| char::from(DIGITS[usize::from(*byte) % 36])).collect()
}
