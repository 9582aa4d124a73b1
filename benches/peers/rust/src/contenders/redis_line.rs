//! A connection to a Redis on which one request at a time is answered: nothing stands between a task and the server.

use std::io::Write;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The requests of a task, and their answers.
pub struct RedisLine {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl RedisLine {
    pub async fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("no Redis at {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, answer: Vec::with_capacity(1024) })
    }

    /// Sends a request and waits for its whole answer.
    pub async fn ask(&mut self, request: &[u8]) -> Result<&str> {
        self.stream.write_all(request).await?;
        self.answer.clear();
        while length(&self.answer).is_none_or(|length| self.answer.len() < length) {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                bail!("the server has hung up");
            }
        }
        let answer = str::from_utf8(&self.answer)?;
        if answer.starts_with('-') {
            bail!("{}", answer.trim_end());
        }
        Ok(answer)
    }
}

/// The host and port of `redis://host:port`.
pub fn address(url: &str) -> Result<&str> {
    let address = url.strip_prefix("redis://").with_context(|| format!("{url} is not redis://host:port"))?;
    Ok(address.trim_end_matches('/'))
}

/// A command as it is sent.
pub fn command(words: &[&str]) -> Result<Vec<u8>> {
    let mut command = Vec::with_capacity(512);
    write!(command, "*{}\r\n", words.len())?;
    for word in words {
        write!(command, "${}\r\n{word}\r\n", word.len())?;
    }
    Ok(command)
}

/// How long an answer is that begins so; `None` while that is open. Knows what the commands here are answered with.
fn length(answer: &[u8]) -> Option<usize> {
    let line = answer.windows(2).position(|two| two == b"\r\n")? + 2;
    let count = || str::from_utf8(&answer[1..line - 2]).ok()?.parse::<usize>().ok();
    match answer[0] {
        // Negative for nothing.
        b'$' => Some(count().map_or(line, |bytes| line + bytes + 2)),
        b'*' => (0..count().unwrap_or(0)).try_fold(line, |end, _| Some(end + length(answer.get(end..)?)?)),
        _ => Some(line),
    }
}
