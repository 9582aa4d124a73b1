//! Histories of the engine on virtual time, over a network and a server that fail by seed.
//!
//! The engine is the real one, from `Client` down to `Backend`; what is simulated is the machine it runs on, the network, and the server,
//! which is the reference implementation on a clock of its own. One seed is one history: it draws the machines, the callers and their
//! options, the weather and the disasters, and every run of it is the same.
//!
//! `SEEDS=n` runs so many, from `FIRST` on, with `FAIL_FAST` up to the first that fails; `SEED=n` runs one and prints its trace.

mod caller;
mod clock;
mod faults;
mod history;
mod judge;
mod ledger;
mod machine;
mod network;
mod outages;
mod plan;
mod random;
mod run;
mod server;
mod story;
#[cfg(test)]
mod tests;
mod wire;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.replace('_', "").parse::<u64>().ok());
    // No process of ours forks: the engine need not ask the kernel which one it is in.
    dlock::fork::trust_hooks();
    match number("SEED") {
        Some(seed) => run::one(seed),
        None => run::many(number("FIRST").unwrap_or(1), number("SEEDS").unwrap_or(20_000)),
    }
}
