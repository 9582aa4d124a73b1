//! fs4: flock(2) on a file for each key. It blocks, so each task is a thread.

use std::fs::File;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use fs4::{FileExt, TryLockError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::work::{Contender, Library, Lock, TryLock};

/// Where the files are.
pub struct Fs4(PathBuf);

impl Fs4 {
    pub fn open(url: &str) -> Result<Self> {
        let folder = url.strip_prefix("local://").with_context(|| format!("{url} names no folder"))?;
        Ok(Self(folder.into()))
    }
}

/// Opened once: the locks of two open files exclude each other, also within a process.
pub struct LockFile(File);

impl Contender for Fs4 {
    type Lock = LockFile;

    async fn lock(&self, key: &str, _ttl: Duration) -> Result<LockFile> {
        let path = self.0.join(file_name(key));
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        Ok(LockFile(file.with_context(|| path.display().to_string())?))
    }

    fn start<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> impl Future<Output = Result<T>> {
        let (tell, told) = oneshot::channel();
        let runtime = Handle::current();
        let started = thread::Builder::new().spawn(move || drop(tell.send(runtime.block_on(task))));
        async {
            started?;
            told.await.context("a thread has panicked")
        }
    }
}

// The standard library's own methods have the same names, and come first where the trait is not named.
impl Lock for LockFile {
    async fn acquire(&mut self) -> Result<()> {
        Ok(FileExt::lock(&self.0)?)
    }

    async fn release(&mut self) -> Result<()> {
        Ok(FileExt::unlock(&self.0)?)
    }
}

impl TryLock for LockFile {
    async fn try_acquire(&mut self) -> Result<bool> {
        match FileExt::try_lock(&self.0) {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

impl Library for Fs4 {}

/// A name without `/` for a key, another one for each.
fn file_name(key: &str) -> String {
    key.replace('%', "%25").replace('/', "%2f") + ".lock"
}
