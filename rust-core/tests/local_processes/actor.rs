//! Copies of this program that play a part in the running test.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use rustix::process::{Pid, Signal};

use crate::client::TIMEOUT;
use crate::parts::{DIRECTORY, PART};

/// A copy of this program that plays a part in the running test. It is killed when this is dropped.
pub(crate) struct Actor {
    pub(crate) process: std::process::Child,
    pub(crate) said: mpsc::Receiver<String>,
}

impl Actor {
    pub(crate) fn start(part: &str, directory: &Path) -> Self {
        let test = std::thread::current().name().unwrap().to_owned();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([&test, "--exact", "--nocapture", "--test-threads=1"])
            .env(PART, part)
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            // The test harness may write in front of an actor's line.
            let words = lines.map_while(Result::ok).filter_map(|line| line.split_once('@').map(|(_, word)| word.to_owned()));
            words.for_each(|word| drop(sender.send(word)));
        });
        Self { process, said }
    }

    pub(crate) fn hears(&self, word: &str) -> String {
        let said = self.said.recv_timeout(6 * TIMEOUT).expect("an actor that speaks");
        let rest = said.strip_prefix(word).unwrap_or_else(|| panic!("{said:?} instead of {word:?}"));
        rest.trim().to_owned()
    }

    pub(crate) fn tell(&mut self, word: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{word}").unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn ends_well(mut self) {
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
