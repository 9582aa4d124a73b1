//! The signals that `dlock run` passes on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;

use rustix::process::Signal;
use support::{Process, Scratch, eventually, outcome};

/// A shell does not handle a signal while a child runs in the foreground, but it does during `wait`.
const WAIT: &str = "sleep 60 & touch ready; while :; do wait; done";

/// Ends such a wait, and the sleeping child.
const STOP: &str = "kill -9 $!; exit 9";

#[test]
fn signals_reach_the_command() {
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        let scratch = Scratch::new();
        let runner = Process::start(scratch.run(&[], &format!("trap 'echo {name} >heard; kill -9 $!; exit 9' {name}; {WAIT}")));
        scratch.wait_for("ready");
        runner.signal(signal);
        assert_eq!(runner.end().0.code(), Some(9), "{name}");
        assert_eq!(scratch.read("heard").trim(), name);
    }
}

/// Otherwise a command whose handler signals its group would signal itself for ever.
#[test]
fn what_the_command_sends_is_not_passed_back() {
    let scratch = Scratch::new();
    let script = format!("trap 'echo INT >>heard' INT; trap '{STOP}' USR1; kill -INT 0; kill -INT $PPID; {WAIT}");
    let mut command = scratch.run(&[], &script);
    command.process_group(0);
    let runner = Process::start(command);
    scratch.wait_for("ready");
    // INT is read before USR1, so INT would have arrived before USR1.
    runner.signal(Signal::USR1);
    assert_eq!(runner.end().0.code(), Some(9));
    assert_eq!(scratch.read("heard"), "INT\n");
}

/// Runs a shell script as the command of a `dlock run` that has a terminal, and presses Ctrl-C. Dropping the terminal would hang up.
fn press_ctrl_c(scratch: &Scratch, command: &str) -> (Process, File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let script = format!("trap 'echo INT >>heard' INT; trap '{STOP}' USR1; {WAIT}");
    let mut command = scratch.shell(&format!("exec setsid --ctty $DLOCK run k -- {command} \"$SCRIPT\" <{name}"));
    command.env("SCRIPT", script);
    let runner = Process::start(command);
    scratch.wait_for("ready");
    let mut terminal = File::from(terminal);
    terminal.write_all(b"\x03").unwrap();
    // The terminal sends the signal, then shows that it did.
    let mut shown = [0; 2];
    terminal.read_exact(&mut shown).unwrap();
    assert_eq!(&shown, b"^C");
    (runner, terminal)
}

#[test]
fn ctrl_c_reaches_the_command() {
    let scratch = Scratch::new();
    let (runner, _terminal) = press_ctrl_c(&scratch, "sh -c");
    eventually("Ctrl-C is heard", || !scratch.read("heard").is_empty());
    runner.signal(Signal::USR1);
    assert_eq!(runner.end().0.code(), Some(9));
    assert_eq!(scratch.read("heard"), "INT\n");
}

#[test]
fn ctrl_c_is_not_passed_on() {
    let scratch = Scratch::new();
    // The terminal does not reach it in its own session.
    let (runner, _terminal) = press_ctrl_c(&scratch, "setsid sh -c");
    runner.signal(Signal::USR1);
    assert_eq!(runner.end().0.code(), Some(9));
    assert_eq!(scratch.read("heard"), "");
}

#[test]
fn what_we_were_started_to_ignore_the_command_ignores_too() {
    let scratch = Scratch::new();
    let runner = Process::start(scratch.shell(&format!(
        "trap '' HUP; exec $DLOCK run k -- sh -c 'grep SigIgn /proc/self/status >mask; trap \"kill -9 \\$!; exit 9\" TERM; {WAIT}'"
    )));
    scratch.wait_for("ready");
    assert!(scratch.read("mask").trim().ends_with('1'), "HUP is the lowest bit: {}", scratch.read("mask"));
    runner.signal(Signal::HUP);
    runner.signal(Signal::TERM);
    assert_eq!(runner.end().0.code(), Some(9));
}

#[test]
fn an_ignored_signal_does_not_end_the_wait() {
    let scratch = Scratch::new();
    let holder = Process::start(scratch.run(&[], "touch held; exec sleep 60"));
    scratch.wait_for("held");
    let waiting = Process::start(scratch.shell("trap '' HUP; exec $DLOCK run k -- true"));
    eventually("it waits", || waiting.blocks_signals());
    waiting.signal(Signal::HUP);
    holder.signal(Signal::TERM);
    assert_eq!(holder.end().0.code(), Some(143));
    assert_eq!(waiting.end().0.code(), Some(0));
}

#[test]
fn the_command_has_no_signal_blocked() {
    let scratch = Scratch::new();
    // Without a shell, which would unblock them.
    let (_, mask, _) = outcome(scratch.dlock(&["run", "k", "--", "grep", "SigBlk", "/proc/self/status"]));
    assert_eq!(mask, "SigBlk:\t0000000000000000\n");
}

/// Some supervisors ignore CHLD, which `dlock` inherits; the end of the command would then be hidden from it.
#[test]
fn the_commands_end_is_seen_although_children_are_ignored() {
    let scratch = Scratch::new();
    let script = "import os, signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); \
                  os.execlp(os.environ['DLOCK'], 'dlock', 'run', 'k', '--', 'sh', '-c', 'exit 7')";
    let runner = Process::start(scratch.shell(&format!("exec python3 -c \"{script}\"")));
    assert_eq!(runner.end().0.code(), Some(7));
}
