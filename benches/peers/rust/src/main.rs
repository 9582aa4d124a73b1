//! The contenders in Rust. What one does, and what it is asked, is in benches/README.md. Usage: peers LIBRARY URL

mod contenders;
mod work;

use std::env;
use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use contenders::dlock::Dlock;
use contenders::fs4::Fs4;
use contenders::raw::Raw;
use contenders::raw_etcd::RawEtcd;
use contenders::raw_local::RawLocal;
use contenders::raw_scripts::RawScripts;
use contenders::rslock::Rslock;

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [library, url] = words.as_slice() else { bail!("usage: peers LIBRARY URL") };
    let runtime = Runtime::new()?;
    match library.as_str() {
        "dlock" => {
            let dlock = runtime.block_on(Dlock::connect(url))?;
            answer_lines(|line| runtime.block_on(work::serve(&dlock, line)))
        }
        "rslock" => {
            let rslock = runtime.block_on(Rslock::connect(url))?;
            answer_lines(|line| runtime.block_on(work::serve(&rslock, line)))
        }
        "fs4" => {
            let fs4 = Fs4::open(url)?;
            answer_lines(|line| runtime.block_on(work::serve(&fs4, line)))
        }
        "raw-local" => {
            let raw = RawLocal::open(url)?;
            answer_lines(|line| runtime.block_on(work::serve_pairs(&raw, line)))
        }
        "raw" => {
            let raw = runtime.block_on(Raw::connect(url))?;
            answer_lines(|line| runtime.block_on(work::serve_pairs(&raw, line)))
        }
        "raw-scripts" => {
            let raw = runtime.block_on(RawScripts::connect(url))?;
            answer_lines(|line| runtime.block_on(work::serve_pairs(&raw, line)))
        }
        "raw-etcd" => {
            let raw = runtime.block_on(RawEtcd::connect(url))?;
            answer_lines(|line| runtime.block_on(work::serve_pairs(&raw, line)))
        }
        _ => bail!("{library} is none of dlock, rslock, fs4, raw, raw-scripts, raw-etcd, raw-local"),
    }
}

/// Answers each line of the standard input with one on the standard output.
fn answer_lines(mut answer: impl FnMut(&str) -> Result<Value>) -> Result<()> {
    say(&json!({"ready": true}))?;
    for line in io::stdin().lines() {
        let line = line.context("the standard input")?;
        say(&answer(&line).unwrap_or_else(|error| json!({"error": format!("{error:#}")})))?;
    }
    Ok(())
}

fn say(answer: &Value) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{answer}")?;
    out.flush().context("the standard output")
}
