//! `dlock inspect`, `dlock ls`, `dlock release` and `dlock health`: each makes one call to the backend.

use std::future::Future;
use std::process::ExitCode;

use dlock::backend::{Inspection, Whom};
use dlock::holder::Holder;
use dlock::printable::{cut, quoted, shown};
use dlock::{ChosenBy, ClientOptions, HealthStatus};

use crate::args::{Health, Inspect, Ls, Release};
use crate::colour::Colour;
use crate::exit::{Failure, UNAVAILABLE};
use crate::json;

/// The most characters that a line shows of a key or a reason.
const LONGEST: usize = 1000;

pub(crate) fn inspect(options: &Inspect) -> Result<ExitCode, Failure> {
    let client = options.backend.client()?;
    let found = wait_for(client.inspect(&options.key))?;
    let keeps_queue = client.capabilities().fair;
    print(&if json::wanted() { json::inspection(&found, keeps_queue) } else { describe(&found, keeps_queue) })?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn list(options: &Ls) -> Result<ExitCode, Failure> {
    let client = options.backend.client()?;
    let found = wait_for(client.list_locks(&options.prefix))?;
    let keeps_queue = client.capabilities().fair;
    let shown = |found: &Inspection| if json::wanted() { json::inspection(found, keeps_queue) } else { line(found) };
    let lines: Vec<_> = found.iter().map(shown).collect();
    print(&lines.concat())?;
    Ok(ExitCode::SUCCESS)
}

/// Exits with 1 if nobody held the key with that token or owner id.
pub(crate) fn release(options: &Release) -> Result<ExitCode, Failure> {
    let client = options.backend.client()?;
    let whom = options.holder.whom();
    let named = match &whom {
        Whom::Token(token) => format!("with token {token}"),
        Whom::Owner(owner) => format!("by owner {}", quoted(owner)),
    };
    if wait_for(client.force_release(&options.key, whom))? {
        if json::wanted() {
            print(&json::line(&serde_json::json!({"key": options.key, "released": true})))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::new(1, format_args!("lock {} is not held {named}", quoted(&options.key))))
}

/// Exits with 69 if no key can be taken.
pub(crate) fn health(options: &Health) -> Result<ExitCode, Failure> {
    let timeout = ClientOptions { op_timeout: options.timeout, connect_timeout: options.timeout, ..ClientOptions::default() };
    let found = wait_for(options.backend.client_with(&timeout)?.health())?;
    if json::wanted() {
        print(&json::line(&json::health(&found)))?;
    } else {
        print(&describe_health(&found))?;
    }
    Ok(if found.status == HealthStatus::Down { UNAVAILABLE.into() } else { ExitCode::SUCCESS })
}

fn describe_health(found: &dlock::Health) -> String {
    let (colour, word) = match found.status {
        HealthStatus::Ok => (Colour::Green, "ok"),
        HealthStatus::Degraded => (Colour::Yellow, "degraded"),
        HealthStatus::Down => (Colour::Red, "down"),
    };
    let took = found.round_trip.map(|took| format!(" answered in {:.1} ms", took.as_secs_f64() * 1000.0)).unwrap_or_default();
    let reasons = found.reasons.iter().map(|reason| format!("  {}\n", cut(reason, LONGEST)));
    let warnings = found.warnings.iter().map(|warning| format!("  warning: {}\n", cut(warning, LONGEST)));
    let details: Vec<_> = reasons.chain(warnings).collect();
    let chosen_by = match found.chosen_by {
        ChosenBy::Argument => "by --url",
        ChosenBy::Variable => "by DLOCK_URL",
        ChosenBy::Default => "by default",
    };
    format!("{}: {} ({chosen_by}){took}\n{}", colour.paint(word), cut(&found.server, LONGEST), details.concat())
}

fn wait_for<T>(answer: impl Future<Output = dlock::Result<T>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| Failure::system("no event loop", error))?.block_on(answer)?)
}

/// A paragraph on one key.
fn describe(found: &Inspection, keeps_queue: bool) -> String {
    let state = match &found.holder {
        // A holder without a note is described by its owner id already.
        Some(holder) if holder.note.is_none() => format!("{} by {}", Colour::Yellow.paint("held"), describe_holder(holder)),
        Some(holder) => {
            let held = Colour::Yellow.paint("held");
            format!("{held} by {}\n  owner: {}", describe_holder(holder), shown(&holder.owner))
        }
        None => Colour::Green.paint("free"),
    };
    let mut queue: Vec<_> = found.queue.iter().map(|waiter| format!("  waiting: {}\n", shown(waiter))).collect();
    match (keeps_queue, queue.len()) {
        (false, _) if found.holder.is_some() => queue.push("  who waits is not known: this backend keeps no queue\n".to_owned()),
        (_, 0) => {}
        (_, 1) => queue.push("  1 client waits; each client has one entry, however many of its tasks wait\n".to_owned()),
        (_, clients) => {
            queue.push(format!("  {clients} clients wait; each client has one entry, however many of its tasks wait\n"));
        }
    }
    let cluster = found.cluster.as_ref().map(|cluster| format!("  cluster: {}\n", shown(cluster))).unwrap_or_default();
    format!("{}: {state}\n{cluster}{}", cut(&found.key, LONGEST), queue.concat())
}

fn line(found: &Inspection) -> String {
    let holder = found.holder.as_ref().map(describe_holder).unwrap_or_default();
    format!("{}\t{holder}\n", cut(&found.key, LONGEST))
}

/// Other programs wrote the holder's text, so it is escaped before it reaches a terminal.
fn describe_holder(holder: &Holder) -> String {
    let remaining = holder.remaining.map(|left| format!(", {:.1} s left", left.as_secs_f64())).unwrap_or_default();
    let metadata = holder.note.as_ref().and_then(|note| note.metadata.as_ref());
    let metadata = metadata.map(|text| format!(", {}", shown(text))).unwrap_or_default();
    format!("{holder}{remaining}{metadata}")
}

/// Writes to stdout. Fails if the answer cannot be written as a whole.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::unwritten(&error))
}
