//! `local:`: kernel locks on the files of one directory, without a server.
//!
//! Each key has one lock file. Its holder is the process that has the kernel lock of the file which the key's path names *now*:
//!
//! - *acquire*: open or make the file, try its lock, raise the token, check that the path still names the file, write down who we are;
//! - *release*: unlink, unlock, close. A waiter finds that the path names another file, or none, and makes a new one;
//! - *crash*: the kernel drops the lock. The file stays until the next holder takes it over, or until a client sweeps it at its start. Where
//!   a child that was forked past our hooks keeps the lock, any process that can prove the holder dead unlinks the file;
//! - *force*: unlink. The holder compares its file with the path's at each renewal and finds that the key was taken away.
//!
//! A waiter keeps one read-only descriptor open and watches the file ([`watch`]); there is no queue between processes. A kernel lock ends
//! with its process, not with a TTL: as long as the process lives, the engine has to release it.
//!
//! | to find | look into |
//! |---|---|
//! | the directory | [`directory_choice`], [`default_directory`], [`in_use`], [`directory`] |
//! | an attempt, from the request to the release | [`acquire`], [`attempts`], [`lock_file`], [`recent_holds`] |
//! | who holds a file, alive or dead | [`record`], [`process`], [`locks`], [`ofd`], [`inspect`], [`left_behind`], [`sweep`] |
//! | fencing tokens | [`tokens`] |
//! | open files, events and forks | [`files`], [`hub`], [`inotify`], [`watch`], [`forking`] |

mod acquire;
mod attempts;
mod default_directory;
mod directory;
mod directory_choice;
mod files;
pub(crate) mod forking;
mod hub;
mod in_use;
mod inotify;
mod inspect;
mod left_behind;
mod lock_file;
mod locks;
mod names;
mod ofd;
mod probe;
mod process;
mod recent_holds;
mod record;
#[cfg(test)]
mod scratch;
mod state;
mod sweep;
mod tokens;
mod watch;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use url::Url;

use self::directory_choice::DirectoryChoice;
use self::files::Descriptor;
use self::record::HolderRecord;
use self::state::Local;
use super::{
    Acquire, Acquired, Backend, Capabilities, Context, Handover, Inspection, Outcome, Plan, Release, Renew, Renewed, Reply, Whom,
};
use crate::error::{BackendError, Error, Failure};
use crate::owner::OwnerId;

/// Opens `local:` or `local:///directory`. Nothing is read or made before the first use.
///
/// # Errors
/// As [`parse`](super::parse).
pub fn open(url: &Url, context: Context) -> Result<Arc<dyn Backend>, Error> {
    Ok(parse(url)?.open(context))
}

/// Reads `local:` or `local:///directory`.
///
/// # Errors
/// [`Error::InvalidOptions`] for a URL with a host or parameters.
pub(super) fn parse(url: &Url) -> Result<Plan, Error> {
    let (choice, server): (_, Arc<str>) = (DirectoryChoice::of(url)?, url.as_str().into());
    let open = move |context| -> Arc<dyn Backend> { Arc::new(Local::new(choice.clone(), server.clone(), capabilities(), context)) };
    Ok(Plan::new(capabilities(), url.as_str().into(), open))
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

impl Local {
    fn renew_one(&self, directory: &Path, renew: &Renew) -> Result<Renewed, BackendError> {
        let path = self.path(directory, &renew.key);
        let now = self.context.clock.now();
        let mut attempts = self.attempts.lock();
        let Some(lock) = attempts.held(&renew.key, renew.owner) else { return Ok(Renewed::Gone) };
        if !lock.is_at(&path).map_err(|error| self.failed(error))? {
            attempts.take(&(Arc::clone(&renew.key), renew.owner));
            return Ok(Renewed::Gone);
        }
        let asked = now + renew.ttl;
        let deadline = if renew.exact { asked } else { asked.max(lock.deadline) };
        if deadline != lock.deadline {
            lock.show_deadline(deadline);
        }
        Ok(Renewed::Extended(deadline.since(now)))
    }

    fn release_one(&self, release: &Release) -> Result<Outcome, BackendError> {
        let path = self.path(&self.directory()?, &release.key);
        let held = self.attempts.lock().release(&release.key, release.owner, &path).map_err(|error| self.failed(error))?;
        Ok(if held { Outcome::Released } else { Outcome::NotHeld })
    }
}

impl Backend for Local {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn server(&self) -> &Arc<str> {
        &self.server
    }

    fn answers_at_once(&self) -> bool {
        // Else the engine waits for the end of the fork, which has nothing that the forking thread may want.
        !forking::is_under_way()
    }

    fn ping(&self, _timeout: Duration) -> Reply<'_, ()> {
        async move { directory::check_writable(&self.directory()?) }.boxed()
    }

    fn probe(&self, _timeout: Duration) -> Reply<'_, ()> {
        async move {
            let directory = self.directory()?;
            self.blocking(move || probe::probe(&directory)).await
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
            self.attempts.lock().leave(&key, owner, &path).map(drop).map_err(|error| self.failed(error))
        }
        .boxed()
    }

    fn inspect(&self, key: Arc<str>, _timeout: Duration) -> Reply<'_, Inspection> {
        async move {
            let directory = self.directory()?;
            let path = self.path(&directory, &key);
            let this = self.process;
            let read = self.blocking(move || inspect::read_held(&path, this)).await?;
            let now = self.context.clock.now();
            Ok(Inspection { key: key.as_ref().to_owned(), holder: read.map(|held| held.holder(now)), ..Inspection::default() })
        }
        .boxed()
    }

    fn list(&self, prefix: Arc<str>, _timeout: Duration) -> Reply<'_, Vec<Inspection>> {
        async move {
            let directory = self.directory()?;
            let namespace = Arc::clone(&self.context.namespace);
            let this = self.process;
            let records = self.blocking(move || inspect::read_all(&directory, this)).await?;
            let now = self.context.clock.now();
            let wanted = records.iter().filter(|record| *record.namespace == *namespace && record.key.starts_with(&*prefix));
            let inspect = |record: &HolderRecord| Inspection {
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
            self.blocking(move || inspect::take_away(&directory, slot, &path, &whom, this)).await
        }
        .boxed()
    }

    fn engine_stopped(&self) {
        watch::engine_stopped();
    }

    fn lock_files(&self, key: &Arc<str>, owner: OwnerId) -> Result<Vec<OwnedFd>, BackendError> {
        self.check_process()?;
        let Some(passed) = self.attempts.lock().held(key, owner).map(|lock| lock.pass_on()) else { return Ok(Vec::new()) };
        let mut files = passed.map_err(|error| self.failed(error))?;
        // As long as somebody holds the key, the directory is in use.
        let in_use = self.with_directory(|chosen| chosen.in_use.iter().map(Descriptor::copy).collect::<Result<Vec<_>, _>>());
        files.extend(in_use.transpose().map_err(|error| BackendError::because(Failure::NotSent, error))?.unwrap_or_default());
        Ok(files)
    }

    fn close(&self) -> futures_util::future::BoxFuture<'_, ()> {
        async move { self.end() }.boxed()
    }
}
