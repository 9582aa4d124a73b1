//! `local:` in processes that see different parts of one machine: units with a hardened mount namespace, containers.
//!
//! Each test makes its own machine by `unshare`, as root or as the user who is root there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::process::Command;

use support::{Scratch, eventually, text};

/// Private bases and a private binary, ways to hide or cover them, and a holder of `k` that ends on request.
const MACHINE: &str = r#"
set -e
# The folder that the tests run in may be below one of the bases, which are covered.
cd /
mount -t tmpfs none /mnt
touch /mnt/dlock
mount --bind "$DLOCK" /mnt/dlock
mkdir /mnt/gone
for base in /run/lock /dev/shm /tmp; do mount -t tmpfs -o mode=1777 none $base; done
unset DLOCK_URL DLOCK_DIR
# Runs the rest of the words where a base is read-only, hidden, or another one.
in_unit() { how=$1; shift; unshare -m sh -c "$how && exec \"\$@\"" sh "$@"; }
READ_ONLY='mount --bind /run/lock /run/lock && mount -o remount,ro,bind /run/lock'
HIDDEN='mount -t tmpfs -o mode=0755 none /run/lock'
PRIVATE_TMP='mount -t tmpfs -o mode=1777 none /tmp'
PLAIN=true
hold() {
    in_unit "$1" /mnt/dlock run k -- sh -c 'touch /mnt/held; until [ -e /mnt/end ]; do sleep 0.01; done' 2>/mnt/said &
    holder=$!
    until [ -e /mnt/held ]; do
        if ! kill -0 $holder 2>/dev/null; then wait $holder || code=$?; echo "the first: $code $(cat /mnt/said)"; return 1; fi
        sleep 0.01
    done
}
try() { in_unit "$1" /mnt/dlock run k --wait 0 -- echo inside 2>/mnt/said && code=0 || code=$?; echo "the second: $code $(cat /mnt/said)"; }
end() { touch /mnt/end; wait; rm -f /mnt/end /mnt/held; }
"#;

fn unshare(what: &[&str]) -> Command {
    // A script that hangs is ended.
    let mut command = Command::new("timeout");
    command.args(["60", "unshare"]);
    if !rustix::process::geteuid().is_root() {
        command.arg("-r");
    }
    command.args(what);
    command
}

/// The output of a script on its own machine.
fn machine(script: &str) -> String {
    let output =
        unshare(&["-m", "sh", "-c", &format!("{MACHINE}{script}")]).env("DLOCK", env!("CARGO_BIN_EXE_dlock")).output().unwrap();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn r01_a_unit_that_may_not_write_is_refused_and_told_of_the_variable_in_either_order() {
    let said = machine("hold $PLAIN; try \"$READ_ONLY\"; try $PLAIN; end; try $PLAIN; try \"$READ_ONLY\"");
    let lines: Vec<_> = said.lines().filter(|line| line.starts_with("the second:")).collect();
    assert!(lines[0].starts_with("the second: 75") && lines[1].starts_with("the second: 75"), "{said}");
    assert!(lines[2].starts_with("the second: 0"), "{said}");
    assert!(!lines[3].starts_with("the second: 0") && lines[3].contains("Read-only") && lines[3].contains("DLOCK_DIR"), "{said}");
    assert_eq!(said.matches("inside").count(), 1, "{said}");

    let said = machine("hold \"$READ_ONLY\" || true; hold $PLAIN; try $PLAIN; end");
    let first = said.lines().find(|line| line.starts_with("the first:")).unwrap();
    assert!(first.contains("Read-only") && first.contains("DLOCK_DIR") && !first.starts_with("the first: 0"), "{said}");
    assert!(said.contains("the second: 75") && !said.contains("inside"), "{said}");
}

#[test]
fn r01_a_unit_that_does_not_see_the_directory_is_refused_or_meets_the_others() {
    let said = machine("hold $PLAIN; try \"$HIDDEN\"; end");
    assert!(!said.contains("inside") && said.contains("DLOCK_DIR") && said.contains("/run/lock/dlock-0"), "{said}");
    let said = machine("hold \"$HIDDEN\"; try $PLAIN; try \"$PRIVATE_TMP\"; end; try $PLAIN");
    assert_eq!(said.matches("the second: 75").count(), 2, "{said}");
    assert_eq!(said.matches("inside").count(), 1, "{said}");
}

#[test]
fn r01_a_base_that_appears_or_is_covered_later_lets_no_two_in() {
    let said = machine(
        "mount -t tmpfs -o mode=0755 none /run/lock; hold $PLAIN; chmod 1777 /run/lock; try $PLAIN; end; try $PLAIN; ls -d /run/lock/dlock-0",
    );
    assert!(said.contains("the second: 75"), "{said}");
    assert_eq!(said.matches("inside").count(), 1, "{said}");
    assert!(said.contains("\n/run/lock/dlock-0"), "afterwards the first base is chosen again: {said}");
    // The same mount namespace: that of the machine, without one for the process.
    let said = machine(
        "in_unit() { shift; \"$@\"; }; hold $PLAIN; mount -t tmpfs -o mode=1777 none /run/lock; try $PLAIN; umount /run/lock; try $PLAIN; end",
    );
    assert!(said.contains("mounted over") && said.contains("the second: 75") && !said.contains("inside"), "{said}");
}

/// The command keeps the key after `dlock` was killed, so the directory stays recorded.
#[test]
fn r01_the_directory_stays_chosen_as_long_as_what_was_passed_on_is_open() {
    let said = machine(
        r"
mount -t tmpfs -o mode=0755 none /run/lock
# The command outlives dlock.
/mnt/dlock run k -- setpriv --pdeathsig clear sh -c 'touch /mnt/held; until [ -e /mnt/end ]; do sleep 0.01; done' 2>/mnt/said &
until [ -e /mnt/held ]; do kill -0 $! || cat /mnt/said; sleep 0.01; done
kill -9 $!; wait $! || true
chmod 1777 /run/lock
try $PLAIN
touch /mnt/end
until try $PLAIN | grep inside; do sleep 0.01; done
",
    );
    assert!(said.starts_with("the second: 75"), "{said}");
    assert_eq!(said.matches("inside").count(), 1, "{said}");
}

/// Another pid namespace on the same directory, as in a container that shares a folder.
fn in_container(scratch: &Scratch, arguments: &[&str]) -> String {
    let mut command = unshare(&["-pf", "--mount-proc", env!("CARGO_BIN_EXE_dlock")]);
    command.args(arguments).env("DLOCK_URL", scratch.url());
    let output = command.output().unwrap();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn r16_another_pid_namespace_sees_who_holds_a_key_and_that_a_killed_one_does_not() {
    let scratch = Scratch::new();
    let holder = support::Process::start(scratch.run(&[], "touch held; exec sleep 60"));
    scratch.wait_for("held");
    let (shown, listed) = (in_container(&scratch, &["inspect", "k"]), in_container(&scratch, &["ls"]));
    assert!(shown.contains("held by") && !shown.contains("free"), "{shown}");
    assert!(listed.starts_with('k'), "{listed}");
    assert!(in_container(&scratch, &["run", "k", "--wait", "0", "--", "echo", "inside"]).contains("held"), "and is refused it");
    holder.signal(rustix::process::Signal::KILL);
    // The command is killed with `dlock`, a moment later.
    eventually("it is free", || in_container(&scratch, &["inspect", "k"]).contains("free"));
    assert_eq!(in_container(&scratch, &["ls"]), "");
}

#[test]
fn r16_a_holder_of_an_earlier_version_is_never_shown_as_free_from_another_pid_namespace() {
    let scratch = Scratch::new();
    assert!(scratch.run(&[], "true").output().unwrap().status.success());
    let pid = std::process::id();
    let record = format!(r#"{{"owner":"s:1","token":7,"pid":{pid},"started":0,"namespace":"dlock","key":"k","note":"{{}}"}}"#);
    let path = scratch.path("locks").join("lock,dlock,k");
    std::fs::write(&path, format!("dlock 1 00000000000000000009\n{record}\n")).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    file.try_lock().unwrap();
    for shown in [in_container(&scratch, &["inspect", "k"]), text(&scratch.dlock(&["inspect", "k"]).output().unwrap().stdout)] {
        assert!(shown.contains("held by") && !shown.contains("free"), "{shown}");
    }
}
