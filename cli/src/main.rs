//! `dlock`: runs a command under a distributed lock, and inspects locks.
//!
//! `dlock run` is in four files: [`run`] acquires the lock and stays with the command until it ends, [`child`] starts the command so that it
//! cannot outlive dlock, [`signals`] receives the signals to pass on, [`tree`] knows the command's descendants. The commands in [`ask`] only
//! call the backend.
#![forbid(unsafe_code)]

mod args;
mod ask;
mod child;
mod colour;
mod exit;
mod json;
mod log;
mod run;
mod signals;
mod tree;

use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::args::{Arguments, Task};
use crate::exit::Failure;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            json::choose(std::env::args_os().take_while(|word| word != "--").any(|word| word == "--json"));
            return refuse(&error);
        }
    };
    json::choose(arguments.json);
    // The second half of a `dlock run` has the same settings, and the first half has reported what is wrong with them.
    if !matches!(arguments.task, Task::Exec(_)) {
        log::start(arguments.verbose);
    }
    let ended = match arguments.task {
        Task::Run(run) => run::run(&run),
        Task::Inspect(inspect) => ask::inspect(&inspect),
        Task::Ls(ls) => ask::list(&ls),
        Task::Release(release) => ask::release(&release),
        Task::Health(health) => ask::health(&health),
        Task::Exec(exec) => Err(child::become_command(&exec)),
    };
    dlock::shutdown(dlock::EXIT_GRACE);
    ended.unwrap_or_else(Failure::report)
}

/// Prints help and version where they are expected, and a mistake as one line.
fn refuse(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            use std::io::Write;
            let written = error.print().and_then(|()| std::io::stdout().flush());
            written.map_or_else(|error| Failure::unwritten(&error).report(), |()| ExitCode::SUCCESS)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Failure::usage("a command is missing; try `dlock --help`").report(),
        _ => Failure::usage(one_line(&error.to_string()) + hint(error)).report(),
    }
}

/// A hint for a common mistake: a command without `--` before it.
fn hint(error: &clap::Error) -> &'static str {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let is_run = words.iter().find(|word| !word.as_encoded_bytes().starts_with(b"-")).is_some_and(|word| word == "run");
    let no_option = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => !argument.starts_with('-'),
        _ => true,
    };
    let in_question = matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::MissingRequiredArgument);
    if is_run && no_option && in_question && !words.iter().any(|word| word == "--") {
        return "; the command goes behind two dashes: dlock run KEY -- CMD";
    }
    ""
}

/// The first paragraph of one of clap's messages, without its label.
fn one_line(message: &str) -> String {
    let paragraph = message.split("\n\n").next().unwrap_or(message);
    let words: Vec<_> = paragraph.trim_start_matches("error:").split_whitespace().collect();
    words.join(" ")
}
