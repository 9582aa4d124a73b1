//! The command line: its commands, arguments and help.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use dlock::backend::Whom;
use dlock::{Client, ClientOptions, Retry, Unit};

use crate::exit::Failure;

const EXAMPLES: &str = "\
Examples:
  dlock run nightly -- ./nightly-report     run a command while holding a key
  dlock ls                                  the held keys
  dlock inspect nightly                     who holds a key and who waits for it
  dlock release nightly --force --token 42  take a key away from its holder
  dlock health && ./deploy                  check that a key can be taken

Exit codes of all commands (those of `dlock run` are in `dlock run --help`):
   0  done                            69  the backend is unavailable
   1  `release`: not held by that one 70  a fault that should not happen
  64  wrong usage                     71  the operating system refused a request
  74  the answer cannot be written    77  the backend refused: login, rights, limits

If a reader such as `head` closes the pipe early, the exit code is 74, without a message.

Colours appear only on a terminal; NO_COLOR=1 switches them off there too.";

/// Distributed locks with fencing tokens.
#[derive(Debug, Parser)]
#[command(name = "dlock", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Answer in JSON, one object a line on stdout; messages of `dlock` itself are one object a line on stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log more: -v what happens, -vv how. `DLOCK_LOG` (such as `dlock=debug`) overrides it
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    Run(Run),
    Inspect(Inspect),
    Ls(Ls),
    Release(Release),
    Health(Health),
    Exec(Exec),
}

/// Which backend keeps the locks.
#[derive(Debug, Args)]
pub(crate) struct BackendArgs {
    /// `local:`, `local:///directory`, `redis://[user:password@]host[:port][/db]`, `redis+sentinel://host[:port],host.../service`
    /// or `etcd://host[:port],host...`, with TLS `rediss` or `etcds` [default: `DLOCK_URL`, the safer place for a password; without
    /// it `local:`]
    #[arg(long)]
    url: Option<String>,
    /// Refuse the default, `local:`, if neither `--url` nor `DLOCK_URL` names a backend. `DLOCK_REQUIRE_URL=1` does the same
    #[arg(long)]
    require_url: bool,
    /// The prefix of every key, without `/`. Empty for the names as the server has them
    #[arg(long, value_name = "NAME", default_value = "dlock")]
    namespace: String,
}

impl BackendArgs {
    /// A client of that backend; it connects at first use. The namespace and `require_url` are those of the command line.
    pub(crate) fn client_with(&self, options: &ClientOptions) -> Result<Client, Failure> {
        let options = ClientOptions { namespace: self.namespace.clone(), require_url: self.require_url, ..options.clone() };
        let client = match &self.url {
            Some(url) => Client::with_options(url, options)?,
            None => Client::from_env_with(options)?,
        };
        if client.capabilities().scheme == "memory" {
            return Err(Failure::usage("url: memory: is seen by one process only and excludes nobody here; use local:"));
        }
        Ok(client)
    }
}

/// Which backend keeps the locks, and how long it may take to answer.
#[derive(Debug, Args)]
pub(crate) struct TimedBackendArgs {
    #[command(flatten)]
    backend: BackendArgs,
    /// How long one request to the backend may take
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1")]
    op_timeout: Duration,
    /// How long connecting may take, and for how long a failing backend is tried again
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5")]
    connect_timeout: Duration,
}

impl TimedBackendArgs {
    /// A client of that backend; it connects at first use.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let (op_timeout, connect_timeout) = (self.op_timeout, self.connect_timeout);
        self.backend.client_with(&ClientOptions { op_timeout, connect_timeout, ..ClientOptions::default() })
    }
}

const RUN_EXAMPLES: &str = "\
Examples:
  dlock run nightly -- ./nightly-report --all       wait for the key, then run
  dlock run nightly --wait 0 -- ./nightly-report    skip if it is running already
  dlock run deploy --wait 5m --ttl 10 -- make deploy
  dlock run sync --retries 3 --retry-delay 2 -- ./sync      four attempts, then give up
  dlock run sync --max-hold 1h -- ./sync            end a command that hangs
  dlock run k -- sh -c 'store --fencing-token \"$DLOCK_TOKEN\" <data'
  DLOCK_URL=redis://db:6379 dlock run k -- ./job    the same across machines

The command gets DLOCK_KEY and DLOCK_TOKEN. Send the token with every write, and let the storage refuse a token that is smaller than one
it has seen: this protects the data even where a lock cannot.

Signals: TERM, INT, HUP, QUIT, USR1 and USR2 are passed on to the command. A signal from the terminal (Ctrl-C) reaches the command anyway
and is not sent twice. Before the command runs, the first four signals end the wait.

When the lock is lost, the command and all its descendants get TERM, and KILL after --grace. In that time somebody else may hold the key;
with `--grace 0` they are killed at once. When dlock itself dies, the kernel kills the command, but not the command's descendants: on
local: they keep the key until they end, elsewhere they may outlive the lease. The kernel does not kill a command that changes its user or
capabilities at its start (sudo) either. While dlock is stopped (Ctrl-Z, SIGSTOP) it does not renew: after more than --ttl the lock is
lost, and dlock ends the command when it goes on.

Exit code: the command's own, 128+n if signal n ended it, or
  64  wrong usage                          76  the lock was lost while the command ran
  69  the backend is unavailable           77  the backend refused: login, rights, limits
  71  the operating system refused        126  the command cannot be executed
  75  not acquired in time or attempts    127  the command was not found

Times are seconds, or have a unit: 500ms, 30s, 5m, 2h.";

/// Run a command while holding a key
#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) backend: TimedBackendArgs,
    /// The key to hold
    pub(crate) key: String,
    /// Lease time: how soon others get the key when this machine dies. Renewed while the command runs
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30")]
    pub(crate) ttl: Duration,
    /// How long to wait for the key; 0 tries once [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
    #[command(flatten)]
    pub(crate) attempts: Attempts,
    /// End the command after it has held the key for this long, as if the lock were lost [default: never]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) max_hold: Option<Duration>,
    /// Renew when the remaining share of the TTL falls to this, between 0 and 1 [default: 2/3]
    #[arg(long, value_name = "SHARE")]
    pub(crate) renewal_threshold: Option<f64>,
    /// Time between TERM and KILL when the lock is lost
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10")]
    pub(crate) grace: Duration,
    /// Text that `dlock inspect` shows
    #[arg(long, value_name = "TEXT")]
    pub(crate) metadata: Option<String>,
    /// Take a free key ahead of the waiters
    #[arg(long)]
    pub(crate) unfair: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// Bounded attempts instead of waiting.
#[derive(Debug, Args)]
pub(crate) struct Attempts {
    /// Do not wait in the queue: try once, then this many times more. --wait bounds the whole
    #[arg(long, value_name = "NUMBER")]
    retries: Option<u32>,
    /// The pause before the first retry [default: 100ms]
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "retries")]
    retry_delay: Option<Duration>,
    /// The factor from each pause to the next [default: 1]
    #[arg(long, value_name = "FACTOR", requires = "retries")]
    retry_backoff: Option<f64>,
    /// Random spread, from 0 to 1: 0.5 picks each pause between 0.5 and 1.5 times its length [default: 0.5]
    #[arg(long, value_name = "SHARE", requires = "retries")]
    retry_jitter: Option<f64>,
}

impl Attempts {
    pub(crate) fn retry(&self) -> Option<Retry> {
        let default = Retry::default();
        self.retries.map(|max_retries| Retry {
            max_retries,
            delay: self.retry_delay.unwrap_or(default.delay),
            backoff: self.retry_backoff.unwrap_or(default.backoff),
            jitter: self.retry_jitter.unwrap_or(default.jitter),
        })
    }
}

const INSPECT_EXAMPLES: &str = "\
Examples:
  dlock inspect nightly
  dlock inspect nightly --json              {\"key\":\"nightly\",\"holder\":{...},\"queue\":[],\"queue_counts\":\"clients\",\"cluster\":null}

The queue has one entry for each waiting client, however many of its tasks wait. local: keeps no queue.

Exit code: 0, also for a key that is free.";

/// Show who holds a key and who waits for it
#[derive(Debug, Args)]
#[command(after_help = INSPECT_EXAMPLES)]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) backend: TimedBackendArgs,
    /// The key
    pub(crate) key: String,
}

const LS_EXAMPLES: &str = "\
Examples:
  dlock ls
  dlock ls order:                           only keys that begin with order:
  dlock ls --json | jq -r .key              one object a line";

/// List the held keys
#[derive(Debug, Args)]
#[command(after_help = LS_EXAMPLES)]
pub(crate) struct Ls {
    #[command(flatten)]
    pub(crate) backend: TimedBackendArgs,
    /// Only keys that begin with this
    #[arg(default_value = "")]
    pub(crate) prefix: String,
}

const RELEASE_EXAMPLES: &str = "\
Examples:
  dlock release nightly --force --token 1795333855459351
  dlock release nightly --force --owner \"$OWNER\"

Exit code: 0 if the key was taken away, 1 if nobody held it with that token or owner id.";

/// Take a key away from its holder
///
/// The holder learns of it at its next renewal. Until then two holders may believe that they hold the key.
#[derive(Debug, Args)]
#[command(after_help = RELEASE_EXAMPLES)]
pub(crate) struct Release {
    #[command(flatten)]
    pub(crate) backend: TimedBackendArgs,
    /// The key
    pub(crate) key: String,
    /// Really take it away
    #[arg(long, required = true)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) holder: WhichHolder,
}

const HEALTH_EXAMPLES: &str = "\
Examples:
  dlock health                              ok: redis://db:6379/0 (by DLOCK_URL) answered in 0.4 ms
  dlock health --json                       {\"status\":\"ok\",\"server\":...}
  dlock health --url redis://db:6379

Exit code: 0 if a key can be taken and released, 69 if not within --timeout, with the reason; 64 for wrong usage.";

/// Ask the backend whether a key can be taken here, now
#[derive(Debug, Args)]
#[command(after_help = HEALTH_EXAMPLES)]
pub(crate) struct Health {
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
    /// How long the answer may take
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1")]
    pub(crate) timeout: Duration,
}

/// Names the holder, so that a later holder is left alone.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct WhichHolder {
    /// The holder's token, as `dlock inspect` shows it
    #[arg(long)]
    token: Option<u64>,
    /// The holder's owner id
    #[arg(long, value_name = "ID")]
    owner: Option<String>,
}

impl WhichHolder {
    pub(crate) fn whom(&self) -> Whom {
        match (&self.owner, self.token) {
            (Some(owner), _) => Whom::Owner(owner.clone()),
            (None, token) => Whom::Token(token.unwrap_or_default()),
        }
    }
}

/// The command as which `dlock run` starts itself again; see `child`.
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct Exec {
    /// The process that must be the parent.
    pub(crate) parent: i32,
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// Reads `30`, `0.5`, `500ms`, `30s`, `5m` or `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, factor) = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)]
        .into_iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, factor)))
        .unwrap_or((text, 1.0));
    let number: f64 = number.trim_end().parse().map_err(|_| "seconds, or a number with ms, s, m or h".to_owned())?;
    Unit::Seconds.duration("duration", number * factor).map_err(|error| match error {
        dlock::Error::InvalidOptions { allowed, .. } => allowed,
        error => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_are_seconds_unless_they_say_otherwise() {
        let read = |text| duration(text).map(|duration| duration.as_millis());
        assert_eq!(read("30"), Ok(30_000));
        assert_eq!(read("0.5"), Ok(500));
        assert_eq!(read("500ms"), Ok(500));
        assert_eq!(read("5m"), Ok(300_000));
        assert_eq!(read("2 h"), Ok(7_200_000));
        assert_eq!(read("0"), Ok(0));
        for bad in ["", "s", "-1", "nan", "inf", "25h", "1d", "1e9"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
