//! What one client of `local:` keeps: its directory, and what it holds and waits for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::attempts::LocalAttempts;
use super::default_directory::advice;
use super::directory::ChosenDirectory;
use super::directory_choice::DirectoryChoice;
use super::process::Process;
use super::{names, sweep};
use crate::backend::{Capabilities, Context};
use crate::error::{BackendError, Failure};
use crate::observe::logs::target;

/// One client of the directory.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) capabilities: Capabilities,
    pub(super) server: Arc<str>,
    choice: DirectoryChoice,
    /// Found at first use.
    directory: Mutex<Option<ChosenDirectory>>,
    /// What this client holds and waits for.
    pub(super) attempts: Mutex<LocalAttempts>,
    /// The process that made this client: a forked child must not touch the locks of its parent.
    pub(super) process: Process,
    pub(super) context: Context,
}

impl Local {
    pub(super) fn new(choice: DirectoryChoice, server: Arc<str>, capabilities: Capabilities, context: Context) -> Self {
        Self {
            capabilities,
            server,
            choice,
            directory: Mutex::new(None),
            attempts: Mutex::new(LocalAttempts::default()),
            process: Process::this(),
            context,
        }
    }

    /// The directory, found and made at first use.
    pub(super) fn directory(&self) -> Result<Arc<Path>, BackendError> {
        self.check_process()?;
        let mut directory = self.directory.lock();
        if let Some(chosen) = &*directory {
            return Ok(chosen.path.clone());
        }
        let found = self.choice.resolve()?;
        tracing::debug!(
            target: target::LOCAL,
            directory = %found.path.display(),
            "local: locks exclude this user's processes on this machine"
        );
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let path = Arc::clone(&found.path);
            runtime.spawn_blocking(move || sweep::sweep(&path));
        }
        Ok(directory.insert(found).path.clone())
    }

    /// What is done with the directory once it was found; `None` before that.
    pub(super) fn with_directory<T>(&self, call: impl FnOnce(&ChosenDirectory) -> T) -> Option<T> {
        self.directory.lock().as_ref().map(call)
    }

    /// Fails in a forked child.
    pub(super) fn check_process(&self) -> Result<(), BackendError> {
        // The kernel is asked, since no hook of a language ran in every child: the number that we remember may be that of a dead process.
        if self.process.pid == std::process::id() {
            return Ok(());
        }
        Err(BackendError::new(Failure::Refused, format!("local: opened by process {}, before a fork", self.process.pid)))
    }

    /// The path of a key's lock file.
    pub(super) fn path(&self, directory: &Path, key: &str) -> PathBuf {
        directory.join(names::file_name(&self.context.namespace, key))
    }

    /// An error of the operating system, with the directory in which it happened.
    pub(super) fn failed(&self, error: std::io::Error) -> BackendError {
        use std::io::ErrorKind::{Interrupted, OutOfMemory, QuotaExceeded, ResourceBusy, StorageFull};
        let exhausted = matches!(error.kind(), Interrupted | OutOfMemory | QuotaExceeded | ResourceBusy | StorageFull)
            || [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE]
                .iter()
                .any(|full| error.raw_os_error() == Some(full.raw_os_error()));
        let failure = if exhausted { Failure::NotSent } else { Failure::Refused };
        let directory = self.with_directory(|chosen| chosen.path.display().to_string()).unwrap_or_default();
        let advice = if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem { format!("; {}", advice()) } else { String::new() };
        BackendError { message: format!("local: {directory}: {error}{advice}").into(), ..BackendError::because(failure, error) }
    }

    /// Called when somebody has removed the directory: the next use makes it anew.
    pub(super) fn forget_directory(&self) {
        *self.directory.lock() = None;
    }

    /// Runs `work` on a thread that may block.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, BackendError> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| BackendError::because(Failure::NotSent, error))?.map_err(|error| self.failed(error))
    }

    /// Frees everything that this client holds and waits for, for good. A forked child frees nothing.
    pub(super) fn end(&self) {
        if self.check_process().is_err() {
            return;
        }
        let directory = self.with_directory(|chosen| Arc::clone(&chosen.path));
        self.attempts.lock().close(|key| directory.as_ref().map(|directory| self.path(directory, key)));
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.end();
    }
}
