//! What Redis allows: the two requests of the simplest lock there is, one after the other on a connection of the task's own.

use std::time::Duration;

use anyhow::{Result, bail};

use super::redis_line::{self, RedisLine};
use crate::work::{Contender, Lock};

/// As long as what lock libraries draw.
const VALUE: &str = "d6c2b8a1f3e94705b1a2c3d4e5f60718";

pub struct Raw {
    address: String,
}

impl Raw {
    pub async fn connect(url: &str) -> Result<Self> {
        let address = redis_line::address(url)?.to_owned();
        RedisLine::connect(&address).await?.ask(&redis_line::command(&["PING"])?).await?;
        Ok(Self { address })
    }
}

pub struct RawLock {
    line: RedisLine,
    set: Vec<u8>,
    delete: Vec<u8>,
}

impl Contender for Raw {
    type Lock = RawLock;

    async fn lock(&self, key: &str, ttl: Duration) -> Result<RawLock> {
        let set = redis_line::command(&["SET", key, VALUE, "NX", "PX", &ttl.as_millis().to_string()])?;
        let delete = redis_line::command(&["DEL", key])?;
        Ok(RawLock { line: RedisLine::connect(&self.address).await?, set, delete })
    }
}

impl Lock for RawLock {
    async fn acquire(&mut self) -> Result<()> {
        match self.line.ask(&self.set).await? {
            "+OK\r\n" => Ok(()),
            answer => bail!("SET was answered with {answer:?}"),
        }
    }

    async fn release(&mut self) -> Result<()> {
        match self.line.ask(&self.delete).await? {
            ":1\r\n" => Ok(()),
            answer => bail!("DEL was answered with {answer:?}"),
        }
    }
}
