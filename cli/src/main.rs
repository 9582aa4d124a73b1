//! `dlock`: run a command under a distributed lock.
#![forbid(unsafe_code)]

use clap::Parser;

/// Distributed locks with fencing tokens.
#[derive(Parser)]
#[command(name = "dlock", version)]
struct Arguments {}

fn main() {
    Arguments::parse();
}
