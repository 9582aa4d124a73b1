//! `dlock health`, `--json`, colours and help: the output for people and for programs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use support::redis::Server;
use support::{Scratch, outcome, outcome_of};

/// One object a line.
fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"))).collect()
}

/// What a command prints on a terminal.
fn at_a_terminal(scratch: &Scratch, arguments: &[&str], no_color: &str) -> String {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let theirs = File::options().read(true).write(true).open(ptsname(&ours, Vec::new()).unwrap().to_str().unwrap()).unwrap();
    let mut command = scratch.dlock(arguments);
    let mut child = command.env("TERM", "xterm").env("NO_COLOR", no_color).stdout(Stdio::from(theirs)).spawn().unwrap();
    drop(command);
    assert!(child.wait().unwrap().success());
    // Reading fails once nobody has the other end open.
    let mut said = Vec::new();
    let _ = File::from(ours).read_to_end(&mut said);
    String::from_utf8(said).unwrap()
}

#[test]
fn health_tells_that_the_backend_answers() {
    let scratch = Scratch::new();
    let (code, said, complaints) = outcome(scratch.dlock(&["health"]));
    assert_eq!((code, &*complaints), (0, ""));
    assert!(said.starts_with("ok: local://") && said.contains(" answered in ") && said.ends_with(" ms\n"), "{said}");
    let (code, said, _) = outcome(scratch.dlock(&["health", "--json"]));
    let found = &objects(&said)[0];
    assert_eq!((code, &found["status"], &found["reasons"]), (0, &"ok".into(), &Value::Array(vec![])));
    assert!(found["round_trip"].as_f64().unwrap() < 1.0);
}

#[test]
fn health_names_what_chose_the_backend() {
    let scratch = Scratch::new();
    let place = format!("local://{}", scratch.path("elsewhere").display());
    for (variable, arguments, word, shown) in [
        (None, &["health"][..], "default", "(by default)"),
        (Some(""), &["health"], "default", "(by default)"),
        (Some(&*place), &["health"], "variable", "(by DLOCK_URL)"),
        (Some("redis://127.0.0.1:1"), &["health", "--url", &place], "argument", "(by --url)"),
    ] {
        let asked = |arguments: &[&str]| {
            let mut command = scratch.dlock(arguments);
            command.env_remove("DLOCK_URL");
            if let Some(variable) = variable {
                command.env("DLOCK_URL", variable);
            }
            outcome(command)
        };
        let (code, said, complaints) = asked(arguments);
        assert!(code == 0 && said.contains(shown) && said.lines().count() == 1, "{said}{complaints}");
        let (_, said, _) = asked(&[arguments, &["--json"]].concat());
        assert_eq!((&objects(&said)[0]["chosen_by"], &objects(&said)[0]["status"]), (&word.into(), &"ok".into()), "{said}");
    }
}

#[test]
fn r15_the_default_is_refused_where_a_url_is_required() {
    let scratch = Scratch::new();
    let asked = |arguments: &[&str], url: &str, require: &str| {
        outcome_of(scratch.dlock(arguments).env("DLOCK_URL", url).env("DLOCK_REQUIRE_URL", require))
    };
    for arguments in [&["health"][..], &["ls"], &["inspect", "k"], &["run", "k", "--", "touch", "ran"]] {
        let (code, _, said) = asked(arguments, "", "1");
        assert!(code == 64 && said.contains("DLOCK_URL") && said.contains("DLOCK_REQUIRE_URL"), "{arguments:?}: {code} {said}");
        assert_eq!(asked(arguments, "local:", "1").0, 0, "on purpose");
        assert_eq!(asked(arguments, "", "0").0, 0);
    }
    assert_eq!(asked(&["health", "--require-url"], "", "").0, 64);
    let (code, _, said) = asked(&["health"], "", "perhaps");
    assert!(code == 64 && said.contains("DLOCK_REQUIRE_URL: \"perhaps\""), "{code} {said}");
}

#[test]
fn health_of_a_server_that_is_not_there_exits_with_69_and_says_why() {
    let scratch = Scratch::on("redis://user:secret@127.0.0.1:1");
    let (code, said, complaints) = outcome(scratch.dlock(&["health", "--timeout", "300ms"]));
    assert_eq!(code, 69, "{said}{complaints}");
    assert!(said.starts_with("down: redis://127.0.0.1:1") && said.lines().count() == 2, "{said}");
    let (code, json, _) = outcome(scratch.dlock(&["health", "--timeout", "300ms", "--json"]));
    assert_eq!((code, &objects(&json)[0]["status"], &objects(&json)[0]["round_trip"]), (69, &"down".into(), &Value::Null));
    assert!(!format!("{said}{complaints}{json}").contains("secret"));
}

#[test]
fn health_where_no_lock_can_be_had_exits_with_69_and_says_why() {
    let server = Server::start_with(&["--maxmemory", "1"]);
    let scratch = Scratch::on(server.url());
    let (code, said, complaints) = outcome(scratch.dlock(&["health"]));
    assert_eq!(code, 69, "{said}{complaints}");
    assert!(said.starts_with("down: redis://") && said.contains("memory") && said.lines().count() == 2, "{said}");
    let (code, json, _) = outcome(scratch.dlock(&["health", "--json"]));
    assert_eq!((code, &objects(&json)[0]["status"]), (69, &"down".into()));
}

#[test]
fn a_service_that_no_sentinel_leads_to_is_down() {
    let scratch = Scratch::on("redis+sentinel://:secret@127.0.0.1:1,127.0.0.1:2/shop?sentinel_password=secret");
    let (code, said, complaints) = outcome(scratch.dlock(&["health", "--timeout", "300ms"]));
    assert_eq!(code, 69, "{said}{complaints}");
    assert!(said.starts_with("down: redis+sentinel://127.0.0.1:1,127.0.0.1:2/shop"), "{said}");
    assert!(said.contains("127.0.0.1:2: Connection refused") && !format!("{said}{complaints}").contains("secret"), "{said}");
}

#[test]
fn json_shows_holders_to_programs() {
    let scratch = Scratch::new();
    let script = "$DLOCK --json inspect k; $DLOCK ls --json; $DLOCK release k --force --token $DLOCK_TOKEN --json";
    let (code, said, _) = outcome(scratch.run(&["--metadata", "job\t\u{1b}[31m7"], script));
    assert_eq!(code, 0);
    assert!(!said.contains('\u{1b}'), "a terminal would obey it: {said}");
    let [inspected, listed, released] = &objects(&said)[..] else { panic!("{said}") };
    assert_eq!((&inspected["key"], &inspected["holder"]["metadata"]), (&"k".into(), &"job\t\u{1b}[31m7".into()));
    assert!(inspected["holder"]["token"].as_u64().unwrap() > 0 && inspected["holder"]["remaining"].as_f64().unwrap() <= 30.0);
    assert_eq!((&listed["key"], &listed["holder"]["token"]), (&"k".into(), &inspected["holder"]["token"]));
    assert_eq!(released["released"], true);
    let (_, said, _) = outcome(scratch.dlock(&["inspect", "k", "--json"]));
    assert_eq!(
        objects(&said),
        [serde_json::json!({"key": "k", "holder": null, "queue": [], "queue_counts": null, "cluster": null})]
    );
}

#[test]
fn inspect_says_what_its_queue_counts() {
    let scratch = Scratch::new();
    let (code, said, _) = outcome(scratch.run(&[], "$DLOCK inspect k; $DLOCK inspect k --json"));
    assert_eq!(code, 0, "{said}");
    let (text, json) = said.trim_end().rsplit_once('\n').unwrap();
    assert!(text.contains("who waits is not known: this backend keeps no queue"), "{text}");
    assert_eq!(objects(json)[0]["queue_counts"], Value::Null);
}

#[test]
fn json_tells_failures_with_their_exit_code() {
    let scratch = Scratch::new();
    let cases: [(&[&str], i32, &str); 4] = [
        (&["--json", "run", "k", "--ttl", "1ms", "--", "true"], 64, "ttl"),
        (&["run", "k", "--json", "--bogus", "--", "true"], 64, "--bogus"),
        (&["release", "k", "--force", "--token", "7", "--json"], 1, "not held"),
        (&["run", "k", "--json", "--", "no-such-command"], 127, "no-such-command"),
    ];
    for (arguments, code, words) in cases {
        let (found, out, said) = outcome(scratch.dlock(arguments));
        assert_eq!((found, &*out), (code, ""), "{said}");
        let [told] = &objects(&said)[..] else { panic!("{said}") };
        assert_eq!((&told["level"], &told["exit_code"]), (&"error".into(), &code.into()));
        assert!(said.contains(words), "{said}");
    }
    let (code, out, said) = outcome(scratch.dlock(&["run", "k", "--json", "-v", "--", "sh", "-c", "echo out; exit 3"]));
    assert_eq!((code, &*out), (3, "out\n"), "the command's own output is left alone");
    let runs = objects(&said).into_iter().find(|told| told["message"] == "the command runs").expect(&said);
    assert_eq!((&runs["key"], &runs["level"]), (&"k".into(), &"info".into()));
}

#[test]
fn an_option_of_the_command_is_not_ours() {
    let scratch = Scratch::new();
    let (code, _, said) = outcome(scratch.dlock(&["run", "k", "--bogus", "--", "true", "--json"]));
    assert_eq!(code, 64);
    assert!(said.starts_with("dlock: "), "{said}");
}

#[test]
fn colours_are_for_terminals_only() {
    let scratch = Scratch::new();
    assert!(at_a_terminal(&scratch, &["health"], "").starts_with("\u{1b}[32mok\u{1b}[0m: "));
    assert_eq!(at_a_terminal(&scratch, &["inspect", "k"], ""), "k: \u{1b}[32mfree\u{1b}[0m\r\n");
    assert_eq!(at_a_terminal(&scratch, &["inspect", "k"], "1"), "k: free\r\n");
    assert!(at_a_terminal(&scratch, &["health", "--json"], "").starts_with('{'));
    let (_, said, _) = outcome_of(scratch.dlock(&["inspect", "k"]).env("TERM", "xterm").env_remove("NO_COLOR"));
    assert_eq!(said, "k: free\n");
}

#[test]
fn an_answer_that_cannot_be_written_ends_in_an_error_code() {
    let scratch = Scratch::new();
    for script in [
        "exec $DLOCK ls >/dev/full",
        "exec $DLOCK ls --json >/dev/full",
        "exec $DLOCK inspect k >/dev/full",
        "exec $DLOCK inspect k --json >/dev/full",
        "exec $DLOCK health >/dev/full",
        "exec $DLOCK health --json >/dev/full",
        "exec $DLOCK release k --force --token $DLOCK_TOKEN --json >/dev/full",
        "exec $DLOCK --help >/dev/full",
        "exec $DLOCK --version >/dev/full",
    ] {
        let (code, _, said) = outcome(scratch.run(&[], script));
        assert_eq!(
            (code, said.lines().filter(|line| line.contains("the answer cannot be written")).count()),
            (74, 1),
            "{script}: {said}"
        );
        assert!(!said.contains("panicked"), "{said}");
    }
    for arguments in [&["inspect", "k"][..], &["inspect", "k", "--json"], &["health"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = scratch.dlock(arguments).stdout(writer).output().unwrap();
        assert_eq!(
            (ended.status.code(), &*ended.stderr),
            (Some(74), &b""[..]),
            "{arguments:?}: whoever closed the pipe needs no message"
        );
    }
    for quiet in ["-vv ls 2>/dev/full", "-vv --json ls 2>/dev/full"] {
        assert_eq!(outcome(scratch.run(&[], &format!("exec $DLOCK {quiet} >/dev/null"))), (0, String::new(), String::new()));
    }
}

#[test]
fn what_others_wrote_is_cut_and_harmless() {
    let server = Server::start();
    let scratch = Scratch::on(server.url());
    let value = format!("\u{1b}[31m\"mine\"\u{202e}{}", "x".repeat(1_000_000));
    server.set("dlock/k", &value);
    for (call, longest) in [
        (scratch.dlock(&["inspect", "k"]), 400),
        (scratch.dlock(&["ls"]), 400),
        (scratch.dlock(&["inspect", "k", "--json"]), 2_000),
        (scratch.dlock(&["ls", "--json"]), 2_000),
        (scratch.run(&["--wait", "0"], "true"), 400),
        (scratch.run(&["--wait", "100ms", "--json"], "true"), 800),
    ] {
        let (_, out, said) = outcome(call);
        let all = out + &said;
        assert!(all.contains("mine") && all.contains('…') && all.chars().count() < longest, "{} {all:.500}", all.len());
        assert!(!all.contains('\u{1b}'), "{all:.500}");
        if !all.contains('{') {
            assert!(all.contains("\"mine\"") && !all.contains('\u{202e}'), "{all:.500}");
        }
    }
}

#[test]
fn help_shows_examples_and_exit_codes() {
    let scratch = Scratch::new();
    for command in ["run", "ls", "inspect", "release", "health"] {
        let (code, said, _) = outcome(scratch.dlock(&[command, "--help"]));
        assert_eq!(code, 0);
        assert!(said.contains("Examples:\n  dlock ") && said.contains(&format!("  dlock {command}")), "{said}");
    }
    let (_, said, _) = outcome(scratch.dlock(&["--help"]));
    for code in ["  0  ", "  1  ", "64  ", "69  ", "70  ", "71  ", "74  ", "77  "] {
        assert!(said.contains(code), "{code} is not in {said}");
    }
    let (_, said, _) = outcome(scratch.dlock(&["run", "--help"]));
    for code in ["64", "69", "71", "75", "76", "77", "126", "127", "128+n"] {
        assert!(said.contains(code), "{code} is not in {said}");
    }
}
