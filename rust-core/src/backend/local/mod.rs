//! `local:` - kernel locks on files of one directory. No server.
//!
//! One lock file a key. To hold a key is to hold the kernel lock of the file that the key's path names *now*:
//!
//! - *acquire*: open or make the file, try its lock, raise the token, see that the path still names it, write down who we are;
//! - *release*: unlink, unlock, close. Whoever waited finds that the path names another file, or none, and makes a new one;
//! - *crash*: the kernel drops the lock. The file stays, and is taken over by the next holder or swept at some start-up. Where a child
//!   that was forked past our hooks keeps the lock, the file is unlinked by whoever can prove that the holder is dead;
//! - *force*: unlink. The holder compares its file with the path's at each renewal and finds itself robbed.
//!
//! Waiters keep one read-only descriptor open and watch the file ([`watch`]); there is no queue between processes. A kernel lock ends
//! with its process, not with a TTL: that of a live process ends when the engine releases it.

mod attempts;
mod default_directory;
mod directory;
mod files;
pub(crate) mod forking;
mod in_use;
mod left_behind;
mod locks;
mod names;
mod ofd;
mod place;
mod probe;
mod record;
#[cfg(test)]
mod scratch;
mod sweep;
mod tokens;
mod turns;
mod watch;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use url::Url;

use self::attempts::Book;
use self::default_directory::advice;
use self::directory::{Choice, Chosen};
use self::files::{Descriptor, Identity};
use self::locks::Process;
use self::record::Record;
use super::{
    Acquire, Acquired, Backend, Capabilities, Context, Handover, Inspection, Outcome, Release, Renew, Renewed, Reply, Whom,
};
use crate::error::{BackendError, Error, Failure};
use crate::holder::Holder;
use crate::observe::logs::target;
use crate::owner::OwnerId;

/// How often a record that seems half written is read again, and the pause between.
const READS: u32 = 4;
const READ_PAUSE: Duration = Duration::from_millis(1);

/// How often a forced release asks for the key's slot, with the same pause.
const SLOT_TRIES: u32 = 200;

/// Opens `local:` or `local:///directory`. Nothing is read or made before the first use.
pub fn open(url: &Url, context: Context) -> Result<Arc<dyn Backend>, Error> {
    Ok(Arc::new(Local {
        capabilities: capabilities(),
        server: url.as_str().into(),
        choice: Choice::of(url)?,
        directory: Mutex::new(None),
        book: Mutex::new(Book::default()),
        process: Process::this(),
        context,
    }))
}

fn capabilities() -> Capabilities {
    Capabilities {
        scheme: "local",
        fair: false,
        crash_release: true,
        ttl_floor: Duration::from_millis(100),
        margin: Duration::from_millis(2),
        heartbeat: None,
        late_window: Duration::ZERO,
        batch: 1_000,
        reserved: None,
        counts_tokens: false,
    }
}

/// One client's view of the directory.
#[derive(Debug)]
struct Local {
    capabilities: Capabilities,
    server: Arc<str>,
    choice: Choice,
    /// Found at first use.
    directory: Mutex<Option<Chosen>>,
    /// What this client holds and waits for.
    book: Mutex<Book>,
    /// The process that made it: a forked child must not touch the locks of its parent.
    process: Process,
    context: Context,
}

impl Local {
    /// The directory, found and made at first use.
    fn directory(&self) -> Result<Arc<Path>, BackendError> {
        self.check_process()?;
        let mut directory = self.directory.lock();
        if let Some(chosen) = &*directory {
            return Ok(chosen.path.clone());
        }
        let found = self.choice.resolve()?;
        tracing::debug!(target: target::LOCAL, directory = %found.path.display(), "local: locks exclude this user's processes on this machine");
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let path = Arc::clone(&found.path);
            runtime.spawn_blocking(move || sweep::sweep(&path));
        }
        Ok(directory.insert(found).path.clone())
    }

    fn check_process(&self) -> Result<(), BackendError> {
        // The kernel is asked: in a child that was forked past the language's hooks, ours is the number of a process that may be dead.
        if self.process.pid == std::process::id() {
            return Ok(());
        }
        Err(BackendError::new(Failure::Refused, format!("local: opened by process {}, before a fork", self.process.pid)))
    }

    fn path(&self, directory: &Path, key: &str) -> std::path::PathBuf {
        directory.join(names::file_name(&self.context.namespace, key))
    }

    /// An error of the operating system, with the directory in which it happened.
    fn failed(&self, error: std::io::Error) -> BackendError {
        use std::io::ErrorKind::{Interrupted, OutOfMemory, QuotaExceeded, ResourceBusy, StorageFull};
        let exhausted = matches!(error.kind(), Interrupted | OutOfMemory | QuotaExceeded | ResourceBusy | StorageFull)
            || [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE]
                .iter()
                .any(|full| error.raw_os_error() == Some(full.raw_os_error()));
        let failure = if exhausted { Failure::NotSent } else { Failure::Refused };
        let place = self.directory.lock().as_ref().map(|chosen| chosen.path.display().to_string()).unwrap_or_default();
        let advice = if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem { format!("; {}", advice()) } else { String::new() };
        BackendError { message: format!("local: {place}: {error}{advice}").into(), ..BackendError::because(failure, error) }
    }

    /// The directory was removed behind our back: it is made anew at the next use.
    fn forget_directory(&self) {
        *self.directory.lock() = None;
    }

    fn renew_one(&self, directory: &Path, renew: &Renew) -> Result<Renewed, BackendError> {
        let path = self.path(directory, &renew.key);
        let now = self.context.clock.now();
        let mut book = self.book.lock();
        let Some(holding) = book.holding(&renew.key, renew.owner) else { return Ok(Renewed::Gone) };
        if !holding.is_at(&path).map_err(|error| self.failed(error))? {
            book.forget(&renew.key, renew.owner);
            return Ok(Renewed::Gone);
        }
        let asked = now + renew.ttl;
        let deadline = if renew.exact { asked } else { asked.max(holding.deadline) };
        if deadline != holding.deadline {
            holding.show_deadline(deadline);
        }
        Ok(Renewed::Extended(deadline.since(now)))
    }

    fn release_one(&self, release: &Release) -> Result<Outcome, BackendError> {
        let path = self.path(&self.directory()?, &release.key);
        let held = self.book.lock().release(&release.key, release.owner, &path).map_err(|error| self.failed(error))?;
        Ok(if held { Outcome::Released } else { Outcome::NotHeld })
    }

    /// Runs `work` where it may take its time.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, BackendError> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| BackendError::because(Failure::NotSent, error))?.map_err(|error| self.failed(error))
    }
}

impl Backend for Local {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn server(&self) -> &Arc<str> {
        &self.server
    }

    fn ping(&self, _timeout: Duration) -> Reply<'_, ()> {
        async move { directory::check_writable(&self.directory()?) }.boxed()
    }

    fn probe(&self, _timeout: Duration) -> Reply<'_, ()> {
        async move {
            let directory = self.directory()?;
            self.aside(move || probe::probe(&directory)).await
        }
        .boxed()
    }

    fn acquire(&self, request: Acquire) -> Reply<'_, Acquired> {
        self.attempt(request).boxed()
    }

    fn renew(&self, batch: Vec<Renew>, _timeout: Duration) -> Reply<'_, Vec<Renewed>> {
        async move {
            let directory = self.directory()?;
            batch.iter().map(|renew| self.renew_one(&directory, renew)).collect()
        }
        .boxed()
    }

    fn release(&self, release: Release) -> Reply<'_, Handover> {
        async move {
            let outcome = self.release_one(&release)?;
            let next = match release.next {
                // The release is done: whatever becomes of the next attempt must not make it look undone.
                Some(next) => self.attempt_after_release(next).await.ok(),
                None => None,
            };
            Ok(Handover { outcome, next })
        }
        .boxed()
    }

    fn leave(&self, key: Arc<str>, owner: OwnerId, _timeout: Duration) -> Reply<'_, ()> {
        async move {
            let path = self.path(&self.directory()?, &key);
            self.book.lock().leave(&key, owner, &path).map(drop).map_err(|error| self.failed(error))
        }
        .boxed()
    }

    fn inspect(&self, key: Arc<str>, _timeout: Duration) -> Reply<'_, Inspection> {
        async move {
            let directory = self.directory()?;
            let path = self.path(&directory, &key);
            let this = self.process;
            let read = self.aside(move || read_held(&path, this)).await?;
            let now = self.context.clock.now();
            let holder = |record: Option<Record>| record.map_or_else(unknown, |record| record.holder(now));
            Ok(Inspection { key: key.as_ref().to_owned(), holder: read.map(|held| holder(held.record)), ..Inspection::default() })
        }
        .boxed()
    }

    fn list(&self, prefix: Arc<str>, _timeout: Duration) -> Reply<'_, Vec<Inspection>> {
        async move {
            let directory = self.directory()?;
            let namespace = Arc::clone(&self.context.namespace);
            let this = self.process;
            let records = self.aside(move || read_all(&directory, this)).await?;
            let now = self.context.clock.now();
            let wanted = records.iter().filter(|record| *record.namespace == *namespace && record.key.starts_with(&*prefix));
            let inspect = |record: &Record| Inspection {
                key: record.key.to_string(),
                holder: Some(record.holder(now)),
                ..Inspection::default()
            };
            Ok(wanted.map(inspect).collect())
        }
        .boxed()
    }

    fn force_release(&self, key: Arc<str>, whom: Whom, _timeout: Duration) -> Reply<'_, bool> {
        async move {
            let directory = self.directory()?;
            let path = self.path(&directory, &key);
            let slot = names::slot(&self.context.namespace, &key);
            let this = self.process;
            self.aside(move || take_away(&directory, slot, &path, &whom, this)).await
        }
        .boxed()
    }

    fn lock_files(&self, key: &Arc<str>, owner: OwnerId) -> Result<Vec<OwnedFd>, BackendError> {
        self.check_process()?;
        let Some(passed) = self.book.lock().holding(key, owner).map(|holding| holding.pass_on()) else { return Ok(Vec::new()) };
        let mut files = passed.map_err(|error| self.failed(error))?;
        // As long as somebody holds the key, the directory is in use.
        if let Some(chosen) = &*self.directory.lock() {
            for file in &chosen.in_use {
                files.push(file.copy().map_err(|error| BackendError::because(Failure::NotSent, error))?);
            }
        }
        Ok(files)
    }

    fn close(&self) -> futures_util::future::BoxFuture<'_, ()> {
        async move { self.end() }.boxed()
    }
}

impl Local {
    fn end(&self) {
        if self.check_process().is_err() {
            return;
        }
        let directory = self.directory.lock().as_ref().map(|chosen| Arc::clone(&chosen.path));
        let mut book = self.book.lock();
        book.close(|key| directory.as_ref().map(|directory| self.path(directory, key)));
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.end();
    }
}

/// A lock file that somebody holds.
struct Held {
    identity: Identity,
    /// `None` if it cannot be read.
    record: Option<Record>,
}

/// The file at `path`, if somebody holds it.
fn read_held(path: &Path, this: Process) -> std::io::Result<Option<Held>> {
    for round in 0..READS {
        let Some(file) = Descriptor::open(path)? else { return Ok(None) };
        let identity = file.identity();
        if let Some(record) = Record::decode(&file.read()?) {
            return Ok(locks::is_held(&file, &record, this)?.then_some(Held { identity, record: Some(record) }));
        }
        if round + 1 < READS {
            // Half written: its holder is within a few microseconds of done. This thread may wait.
            std::thread::sleep(READ_PAUSE);
        } else if file.is_shown_held()? {
            return Ok(Some(Held { identity, record: None }));
        }
    }
    Ok(None)
}

/// A holder whose record cannot be read.
fn unknown() -> Holder {
    Holder { owner: "unknown".to_owned(), ..Holder::default() }
}

fn read_all(directory: &Path, this: Process) -> std::io::Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(names::is_lock_file) {
            records.extend(read_held(&entry.path(), this)?.and_then(|held| held.record));
        }
    }
    records.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(records)
}

/// Unlinks the file that `whom` holds; false if they hold none.
fn take_away(directory: &Path, slot: u8, path: &Path, whom: &Whom, this: Process) -> std::io::Result<bool> {
    // With the slot locked nobody else becomes the holder between the look and the end. Whoever is stopped in it must not save a holder.
    let mut locked = tokens::Slot::lock(directory, slot)?;
    for _ in 0..SLOT_TRIES {
        if locked.is_some() {
            break;
        }
        std::thread::sleep(READ_PAUSE);
        locked = tokens::Slot::lock(directory, slot)?;
    }
    let Some(Held { identity, record: Some(record) }) = read_held(path, this)? else { return Ok(false) };
    let meant = match whom {
        Whom::Token(token) => record.token == *token,
        Whom::Owner(owner) => record.owner == *owner,
    };
    // Seen once more right before: what is unlinked must not be the file of a successor.
    if !meant || Identity::at(path)? != Some(identity) {
        return Ok(false);
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        other => other.map(|()| true),
    }
}
