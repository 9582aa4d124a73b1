//! `dlock inspect`, `dlock ls` and `dlock release`: one question to the backend each.

use std::future::Future;
use std::process::ExitCode;

use dlock::backend::{Inspection, Whom};
use dlock::holder::Holder;

use crate::args::{Inspect, Ls, Release};
use crate::exit::Failure;

pub(crate) fn inspect(options: &Inspect) -> Result<ExitCode, Failure> {
    let client = options.place.client()?;
    print(&describe(&wait_for(client.inspect(&options.key))?));
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn list(options: &Ls) -> Result<ExitCode, Failure> {
    let client = options.place.client()?;
    let lines: Vec<_> = wait_for(client.list_locks(&options.prefix))?.iter().map(line).collect();
    print(&lines.concat());
    Ok(ExitCode::SUCCESS)
}

/// Exits with 1 if nobody held the key with that token or owner id.
pub(crate) fn release(options: &Release) -> Result<ExitCode, Failure> {
    let client = options.place.client()?;
    let whom = options.holder.whom();
    let named = match &whom {
        Whom::Token(token) => format!("with token {token}"),
        Whom::Owner(owner) => format!("by owner {owner:?}"),
    };
    if wait_for(client.force_release(&options.key, whom))? {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::new(1, format_args!("lock {:?} is not held {named}", options.key)))
}

fn wait_for<T>(answer: impl Future<Output = dlock::Result<T>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| Failure::system("no event loop", error))?.block_on(answer)?)
}

/// A paragraph on one key.
fn describe(found: &Inspection) -> String {
    let state = match &found.holder {
        // Where nothing else is known of a holder, its owner id is what it goes by.
        Some(holder) if holder.note.is_none() => format!("held by {}", describe_holder(holder)),
        Some(holder) => format!("held by {}\n  owner: {}", describe_holder(holder), holder.owner.escape_debug()),
        None => "free".to_owned(),
    };
    let queue: Vec<_> = found.queue.iter().map(|waiter| format!("  waiting: {}\n", waiter.escape_debug())).collect();
    format!("{}: {state}\n{}", found.key.escape_debug(), queue.concat())
}

fn line(found: &Inspection) -> String {
    let holder = found.holder.as_ref().map(describe_holder).unwrap_or_default();
    format!("{}\t{holder}\n", found.key.escape_debug())
}

/// Others wrote it: nothing of it may reach a terminal as it is.
fn describe_holder(holder: &Holder) -> String {
    let remaining = holder.remaining.map(|left| format!(", {:.1} s left", left.as_secs_f64())).unwrap_or_default();
    let metadata = holder.note.as_ref().and_then(|note| note.metadata.as_ref());
    let metadata = metadata.map(|text| format!(", {text}")).unwrap_or_default();
    format!("{holder}{remaining}{metadata}").escape_debug().to_string()
}

/// Writes to stdout. Whoever closed it wants no more.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
