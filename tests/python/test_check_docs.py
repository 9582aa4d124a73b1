"""`tools/check-docs` finds what the code has and no page tells, and what a page tells and the code does not have."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dlock import sync

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/check-docs"
PROGRAM = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/dlock"

CORE, CLI, PACKAGE, NODE, PAGES = "rust-core/src", "cli/src", "bindings/python/dlock", "bindings/node", "docs/reference"
COPIED = [CORE, CLI, PACKAGE, f"{PACKAGE}/../src", f"{NODE}/src", "docs"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with copies of what is read, and links to everything that is only looked for."""
    root = tmp_path / "tree"
    for folder in COPIED:
        shutil.copytree(ROOT / folder, (root / folder).resolve(), ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for file in [*ROOT.glob(f"{NODE}/*.js"), *ROOT.glob(f"{NODE}/*.d.ts")]:
        shutil.copyfile(file, root / file.relative_to(ROOT))
    for entry in ROOT.iterdir():
        if entry.name not in {".git", "rust-core", "cli", "bindings", "docs", "target"}:
            (root / entry.name).symlink_to(entry)
    program = root / "target/release/dlock"
    program.parent.mkdir(parents=True)
    program.symlink_to(PROGRAM)
    return root


def check(root: Path) -> tuple[int, str]:
    environment = os.environ | {"CARGO_TARGET_DIR": str(root / "target")}
    ran = subprocess.run([sys.executable, TOOL, root], env=environment, capture_output=True, text=True, check=False)
    assert not ran.stderr
    return ran.returncode, ran.stdout


def change(root: Path, name: str, find: str, put: str) -> None:
    file = root / name
    text = file.read_text()
    assert find in text, f"{name} has no {find!r} any more"
    file.write_text(text.replace(find, put, 1))


def test_the_pages_speak_of_what_the_code_has(tree: Path) -> None:
    code, printed = check(tree)
    assert code == 0, printed


# Of each: the file, what is found there, what stands before it then, and what the check must say is missing, and from where.
MADE_UP_IN_CODE = {
    "an option of a client, in Python": (
        (f"{PACKAGE}/_options.py", "    require_url: bool\n", "    made_up: bool\n"),
        ["made_up", "options.md", "A client", "Python"],
    ),
    "an option of a lock, in Node": (
        (f"{NODE}/index.d.ts", "  fair?: boolean", "  madeUp?: boolean | null;\n"),
        ["madeUp", "options.md", "A lock", "Node"],
    ),
    "an option of an acquire, in Python": (
        (f"{PACKAGE}/_native.pyi", "wait: _Seconds | Unset | None = ..., **other: Never", "made_up: int = ..., "),
        ["made_up", "options.md", "One acquire", "Python"],
    ),
    "an option of retry, in Rust": (
        (f"{CORE}/options/retry.rs", "    pub jitter: f64", "    pub made_up: f64,\n"),
        ["made_up", "options.md", "Retry", "Rust"],
    ),
    "an option of renewal, in Node": (
        (f"{NODE}/index.d.ts", "  maxDelay?: number", "  madeUp?: number | null;\n"),
        ["madeUp", "options.md", "Renewal", "Node"],
    ),
    "a call, in Node": (
        (f"{NODE}/index.d.ts", "  ping(): Promise<void>;", "  conjure(): Promise<void>;\n"),
        ["conjure", "calls.md", "A client", "Node"],
    ),
    "a call of the face for threads": (
        (f"{PACKAGE}/_lock_sync.py", "    def is_locked(self)", "    def conjure(self) -> bool: ...\n\n"),
        ["conjure", "calls.md", "A lock", "Python"],
    ),
    "a function of the module": (
        (f"{PACKAGE}/sync.py", '    "capabilities",', '    "conjure",\n'),
        ["conjure", "calls.md", "The module", "Python"],
    ),
    "an error's code, in Rust": (
        (f"{CORE}/error.rs", 'Self::InUse { .. } => "', 'Self::MadeUp { .. } => "MADE_UP",\n            '),
        ["MadeUp: MADE_UP", "errors.md", "Codes without a class", "Rust"],
    ),
    "an error's code, in Python": (
        (f"{PACKAGE}/_lease.py", 'code="NO_TASK"', 'code="MADE_UP", '),
        ["MADE_UP", "errors.md", "Codes without a class", "code"],
    ),
    "an error's class, in Python": (
        (f"{PACKAGE}/errors.py", "class ForkedError", 'class MadeUp(LockError):\n    code = "MADE_UP"\n\n\n'),
        ["MadeUp: MADE_UP", "errors.md", "Classes", "class"],
    ),
    "an error's class, in Node": (
        (f"{NODE}/index.d.ts", "export declare class ForkedError", "export declare class MadeUp extends NotAcquired {}\n"),
        ["MadeUp", "errors.md", "Classes", "class"],
    ),
    "a field of an error": (
        (f"{NODE}/index.d.ts", "  readonly attempts: number;", "  readonly madeUp: number;\n"),
        ["madeUp", "errors.md", "Fields", "Node"],
    ),
    "a reason of a loss": (
        (f"{CORE}/error.rs", 'Self::Closed => "closed"', 'Self::MadeUp => "made_up",\n            '),
        ["made_up", "errors.md", "Why a lease is lost", "reason"],
    ),
    "a warning": (
        (f"{NODE}/warnings.js", "function warnOfDeadlock", "process.emitWarning('', { code: 'DLOCK_MADE_UP' });\n"),
        ["DLOCK_MADE_UP", "errors.md", "Warnings", "Node"],
    ),
    "an exit code": (
        (f"{CLI}/exit.rs", "pub(crate) const LOST", "pub(crate) const MADE_UP: u8 = 99;\n"),
        ["99", "shell.md", "Exit codes", "code"],
    ),
    "a scheme of URLs": (
        (f"{CORE}/backend/urls.rs", '"memory" =>', '"conjured" => memory::parse(&parsed),\n        '),
        ["conjured", "urls.md", "Forms", "URL"],
    ),
    "a parameter of URLs": (
        (f"{CORE}/backend/redis/parameters.rs", '("pass", UrlKind::Socket)', '("made_up", UrlKind::Socket) => {}\n            '),
        ["made_up", "urls.md", "Parameters", "parameter"],
    ),
    "a file that a URL names": (
        (f"{CORE}/backend/pem.rs", '"cert" => &mut self.cert', '"made_up" => &mut self.made_up,\n            '),
        ["made_up", "urls.md", "Parameters", "parameter"],
    ),
    "a variable, in Rust": (
        (f"{CLI}/log.rs", 'std::env::var_os("DLOCK_LOG")', 'std::env::var_os("DLOCK_MADE_UP").or('),
        ["DLOCK_MADE_UP", "environment.md", "What dlock reads", "variable"],
    ),
    "a variable that is named elsewhere": (
        (f"{CORE}/choice.rs", "pub const REQUIRE_VARIABLE", 'pub const OTHER: &str = "DLOCK_MADE_UP";\n'),
        ["DLOCK_MADE_UP", "environment.md", "What dlock reads", "variable"],
    ),
    "a variable, in Node": (
        (f"{NODE}/client.js", "process.env.DLOCK_URL", "process.env.MADE_UP ?? "),
        ["MADE_UP", "environment.md", "What dlock reads", "variable"],
    ),
    "a variable for commands": (
        (f"{CLI}/child.rs", '.env("DLOCK_KEY"', '.env("DLOCK_MADE_UP", "")\n        '),
        ["DLOCK_MADE_UP", "environment.md", "What a command gets", "variable"],
    ),
    "a metric": (
        (f"{CORE}/observe/metrics.rs", 'counter(out, "renewals"', 'counter(out, "made_up", "Help", &figures.renewed)?;\n        '),
        ["dlock_made_up_total", "metrics.md", "Metrics", "metric"],
    ),
    "a label": (
        (f"{CORE}/observe/metrics.rs", '("operation", *operation)', '("made_up", *outcome), '),
        ["dlock_backend_call_seconds: made_up", "metrics.md", "Metrics", "labels"],
    ),
    "a value of a label": (
        (f"{CORE}/observe/figures.rs", '"max_stall", "closed"', '"made_up", '),
        ["reason: made_up", "metrics.md", "Labels", "values"],
    ),
    "an event": (
        (f"{CORE}/observe/events.rs", 'Self::Lost => "lost"', 'Self::MadeUp => "made_up",\n            '),
        ["made_up", "events.md", "Events", "event"],
    ),
    "a field of an event": (
        (f"{NODE}/observe.d.ts", "  readonly kind: EventName;", "  readonly madeUp: string;\n"),
        ["madeUp", "events.md", "Fields", "Node"],
    ),
    "a figure": (
        (f"{PACKAGE}/_observe.py", "    event_capacity: int", "    made_up: int\n"),
        ["made_up", "stats.md", "Stats", "Python"],
    ),
    "a figure, in Rust": (
        (f"{CORE}/observe/health.rs", "    pub round_trip:", "    pub made_up: u64,\n"),
        ["made_up", "stats.md", "Health", "Rust"],
    ),
    "a target of logs": (
        (f"{CORE}/observe/logs.rs", "    pub(crate) const LOCAL:", '    pub(crate) const MADE_UP: &str = "dlock::made_up";\n'),
        ["dlock::made_up", "logs.md", "Loggers", "target"],
    ),
}


@pytest.mark.parametrize("name", MADE_UP_IN_CODE)
def test_what_the_code_has_and_no_page_tells_is_found(name: str, tree: Path) -> None:
    (file, find, before), (missing, page, section, column) = MADE_UP_IN_CODE[name]
    change(tree, file, find, before + find)
    code, printed = check(tree)
    assert code == 1
    assert f'{PAGES}/{page}, "{section}", column "{column}": `{missing}` is missing' in printed


# Of each: the file, what is found there and what stands there instead, and what the check must say of the page.
MADE_UP_ON_PAGES = {
    "an option": (("options.md", "| `delay` | `delay` |", "| `made_up` | `delay` |"), "`made_up` is not in Retry in"),
    "a default": (("options.md", "| 30 s |", "| 31 s |"), "`ttl: 31 s` is not in the defaults of LockOptions"),
    "a call": (("calls.md", "| `ping` | `ping` | `ping` |", "| `ping` | `ping` | `conjure` |"), "`conjure` is not in"),
    "a class of errors": (("errors.md", "| `NotHeld` |", "| `MadeUp` |"), "`MadeUp` is not in"),
    "a code of errors": (("errors.md", "`NOT_HELD`", "`MADE_UP`"), "`NotHeld: MADE_UP` is not in"),
    "an exit code": (("errors.md", "| `76` |", "| `75` |"), "`LockLost: 75` is not in cli/src/exit.rs"),
    "a scheme": (("urls.md", "`etcds://", "`conjured://"), "`conjured` is not in"),
    "a parameter": (("urls.md", "| `ca` |", "| `made_up` |"), "`made_up` is not in"),
    "a variable": (("environment.md", "| `NODE_ENV` |", "| `MADE_UP` |"), "`MADE_UP` is not in the sources"),
    "a metric": (("metrics.md", "| `dlock_leases_held` |", "| `dlock_made_up` |"), "`dlock_made_up` is not in"),
    "an event": (("events.md", "| `renewed` |", "| `made_up` |"), "`made_up` is not in"),
    "a figure": (("stats.md", "| `scheduled` |", "| `made_up` |"), "`made_up` is not in Stats in"),
    "a target": (("logs.md", "| `dlock::held` |", "| `dlock::made_up` |"), "`dlock::made_up` is not in"),
    "a flag": (("shell.md", "| `--grace` |", "| `--made-up` |"), "`run: --made-up` is not in the help of each command"),
    "a flag of another command": (("shell.md", "| `--timeout` | `health`", "| `--timeout` | `ls`"), "`ls: --timeout` is not in"),
    "a table that is gone": (("metrics.md", "| metric | type |", "| name | type |"), 'column "metric": there is no such table'),
}


@pytest.mark.parametrize("name", MADE_UP_ON_PAGES)
def test_what_a_page_tells_and_the_code_does_not_have_is_found(name: str, tree: Path) -> None:
    (page, find, put), complaint = MADE_UP_ON_PAGES[name]
    change(tree, f"{PAGES}/{page}", find, put)
    code, printed = check(tree)
    assert code == 1
    assert [line for line in printed.splitlines() if line.startswith(f"{PAGES}/{page}") and complaint in line], printed


# What is put on a page that has no tables, and what the check must say.
MADE_UP_IN_PROSE = {
    "a variable": ("Set `DLOCK_MADE_UP=1`.", "there is no variable DLOCK_MADE_UP"),
    "a metric, in a fence": ("```text\nrate(dlock_made_up_total[5m])\n```", "there is no metric dlock_made_up_total"),
    "a flag": ("`dlock run k --made-up -- true`", "`dlock run` has no flag --made-up"),
    "a flag of another command": ("```sh\ndlock ls --ttl 5\n```", "`dlock ls` has no flag --ttl"),
    "a sample that would not run": ("    ```bash\n    dlock ls\n    ```", "no sample in `bash` runs"),
    "a link": ("[there](../nowhere.md)", "the link leads nowhere: ../nowhere.md"),
}


@pytest.mark.parametrize("name", MADE_UP_IN_PROSE)
def test_a_name_that_there_is_not_is_found_on_every_page(name: str, tree: Path) -> None:
    text, complaint = MADE_UP_IN_PROSE[name]
    page = tree / "docs/coming-from/redis-py.md"
    page.write_text(page.read_text() + "\n" + text + "\n")
    code, printed = check(tree)
    assert code == 1
    assert [line for line in printed.splitlines() if line.startswith("docs/coming-from/redis-py.md:") and complaint in line], (
        printed
    )


@pytest.mark.parametrize("text", ["`DLOCK_*`", "`DLOCK_TOKEN`", "`dlock_wait_seconds_bucket`", "`dlock run k -- tar --made-up`"])
def test_names_that_there_are_are_passed(text: str, tree: Path) -> None:
    page = tree / "docs/coming-from/redis-py.md"
    page.write_text(page.read_text() + "\n" + text + "\n")
    assert check(tree) == (0, "\nthe pages speak of what the code has\n")


def test_a_page_must_be_in_the_navigation(tree: Path) -> None:
    (tree / "docs/lonely.md").write_text("# Lonely\n")
    code, printed = check(tree)
    assert (code, printed.splitlines()[0]) == (1, "docs/lonely.md: it is not in the navigation of mkdocs.yml")


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ('{0} "$@" && echo "      --made-up  Something"', "`--made-up` is missing"),
        (
            '[ "$1" = conjure ] || {0} "$@" | sed "s/^  ls .*/&\\n  conjure  Something/"',
            '"Commands", column "command": `dlock conjure` is missing',
        ),
    ],
)
def test_a_flag_or_a_command_of_the_shell_that_no_page_tells_is_found(script: str, complaint: str, tree: Path) -> None:
    program = tree / "target/release/dlock"
    program.unlink()
    program.write_text("#!/bin/sh\n" + script.replace("{0}", str(PROGRAM)) + "\n")
    program.chmod(0o755)
    code, printed = check(tree)
    assert code == 1
    assert f"{PAGES}/shell.md, " in printed
    assert complaint in printed


def test_a_command_line_that_was_not_built_is_no_answer(tree: Path) -> None:
    (tree / "target/release/dlock").unlink()
    code, printed = check(tree)
    assert code == 1
    assert "`make setup` builds it" in printed


def test_the_metrics_that_are_read_from_the_source_are_those_that_a_client_emits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from facts import rust  # noqa: PLC0415 - found through the line above

    with sync.Client("memory:") as client:
        client.ping()
        types = [line.split()[2:] for line in client.metrics().splitlines() if line.startswith("# TYPE")]
    emitted = {name + ("_total" if kind == "counter" else "") for name, kind in types}
    assert {name for name, _ in rust.metrics(ROOT / CORE / "observe/metrics.rs")} == emitted
