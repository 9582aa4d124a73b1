"""The layers of tests that may catch a fault: how each is built and run, and how one test of it is run alone."""

import os
import re
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

HANGS_AFTER = 180.0  # seconds
BUILT_WITHIN = 1200.0  # seconds, by a machine that has nothing yet
SEEDS = 6000
LONGEST_KIND = 90  # characters

NATIVE = ["bash", "tools/build-native", "dev"]
CARGO = ["cargo", "test", "--locked", "--no-fail-fast", "-p"]


@dataclass(frozen=True)
class Failure:
    """A test that failed, and in which way."""

    test: str
    kind: str


@dataclass(frozen=True)
class Ran:
    """What a command printed, and its exit code; None when it hung."""

    code: int | None
    output: str


class Layer(ABC):
    """A set of tests."""

    build: list[str]
    command: list[str]

    @abstractmethod
    def alone(self, test: str) -> list[str]:
        """Runs one test of the layer."""

    @abstractmethod
    def failures(self, ran: Ran) -> list[Failure]:
        """The tests that failed, by name."""

    @abstractmethod
    def did_run(self, output: str) -> bool:
        """Whether at least one test ran: a name that no test has would pass as well."""


class Cargo(Layer):
    """Test programs of the engine, or of another package."""

    def __init__(self, *selection: str, only: str = "", package: str = "dlock-engine") -> None:
        self._programs = [*CARGO, package, *selection]
        self.build = [*self._programs, "--no-run"]
        self.command = [*self._programs, *([only] if only else [])]

    def alone(self, test: str) -> list[str]:
        return [*self._programs, "--", "--exact", test]

    def failures(self, ran: Ran) -> list[Failure]:
        failed = re.findall(r"^test (\S+) \.\.\. FAILED$", ran.output, re.MULTILINE)
        # Another one may have written into the line of its result.
        failed += [name for name in re.findall(r"^    ([\w:]+)$", ran.output, re.MULTILINE) if name not in failed]
        if ran.code is None:
            failed += re.findall(r"^test (\S+) has been running for over", ran.output, re.MULTILINE)
        return [Failure(test, self._kind(ran, test)) for test in failed]

    def _kind(self, ran: Ran, test: str) -> str:
        said = re.search(rf"^thread '{re.escape(test)}'[^\n]* panicked at [^\n]*\n([^\n]*)", ran.output, re.MULTILINE)
        # A test on several threads panics under the runtime's name for one of them.
        said = said or re.search(r"^thread '[^\n]* panicked at [^\n]*\n([^\n]*)", ran.output, re.MULTILINE)
        return said.group(1) if said else "hung" if ran.code is None else f"exit code {ran.code}"

    def did_run(self, output: str) -> bool:
        return any(int(passed) + int(failed) for passed, failed in re.findall(r"(\d+) passed; (\d+) failed", output))


class Simulation(Layer):
    """Histories on virtual time; a test is a seed."""

    def __init__(self) -> None:
        self.build = ["cargo", "build", "--quiet", "--locked", "-p", "dlock-sim"]
        self.command = ["cargo", "run", "--quiet", "--locked", "-p", "dlock-sim"]

    def alone(self, test: str) -> list[str]:
        return ["env", f"SEED={test.removeprefix('seed ')}", *self.command]

    def failures(self, ran: Ran) -> list[Failure]:
        found = re.findall(r"^seed (\d+): at [\d.]+: ([^\n]*)", ran.output, re.MULTILINE)
        return [Failure(f"seed {seed}", kind.partition(":")[0]) for seed, kind in found]

    def did_run(self, output: str) -> bool:
        return "sim: " in output or "seed " in output


class Python(Layer):
    """A file of tests of the Python package, whose extension is built without optimisation."""

    def __init__(self, file: str) -> None:
        self.build = NATIVE
        self.command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]

    def alone(self, test: str) -> list[str]:
        return [*self.command[:-1], test]

    def failures(self, ran: Ran) -> list[Failure]:
        found = re.findall(r"^FAILED (\S+)(?: - ([^\n]*))?$", ran.output, re.MULTILINE)
        return [Failure(test, kind or f"exit code {ran.code}") for test, kind in found]

    def did_run(self, output: str) -> bool:
        return re.search(r"\d+ (passed|failed)", output) is not None


class Node(Layer):
    """A file of tests of the Node package."""

    def __init__(self, file: str) -> None:
        self.build = NATIVE
        self._file = file
        self.command = ["node", "--test", "--test-reporter=tap", file]

    def alone(self, test: str) -> list[str]:
        return ["node", "--test", "--test-reporter=tap", f"--test-name-pattern=^{re.escape(test)}$", self._file]

    def failures(self, ran: Ran) -> list[Failure]:
        found = re.findall(r"^ *not ok \d+ - (?!\S+\.test\.)([^\n]*)$", ran.output, re.MULTILINE)
        said = re.search(r"^ *error: (?:\|-\n *)?['\"]?([^\n]*)", ran.output, re.MULTILINE)
        return [Failure(test, said.group(1) if said else f"exit code {ran.code}") for test in found]

    def did_run(self, output: str) -> bool:
        return any(int(count) for count in re.findall(r"^# (?:pass|fail) (\d+)$", output, re.MULTILINE))


REDIS = [
    "--test=redis_lock",
    "--test=redis_tokens",
    "--test=redis_waiters",
    "--test=redis_late_requests",
    "--test=redis_faults",
    "--test=redis_releases",
]

LAYERS: dict[str, Layer] = {
    "unit": Cargo("--lib"),
    "engine": Cargo("--test", "engine", "--test", "options", "--test", "queue", "--test", "tries"),
    "contract-memory": Cargo("--test", "contract", only="memory::"),
    "contract-local": Cargo("--test", "contract", only="local::"),
    "contract-redis": Cargo("--test", "contract", only="redis::"),
    "contract-etcd": Cargo("--test", "contract", only="etcd::"),
    "simulation": Simulation(),
    "local": Cargo("--test", "local_rules", "--test", "local_processes"),
    "namespaces": Cargo("--test", "namespaces", package="dlock-cli"),
    "redis": Cargo(*REDIS),
    "sentinel": Cargo("--test", "redis_sentinel"),
    "health": Cargo("--test", "health"),
    "etcd": Cargo("--test", "etcd_faults"),
}


def layer(name: str, root: Path) -> Layer | None:
    """A layer by its name, or by the path of a file of tests: of the engine, of Python or of Node."""
    if name in LAYERS:
        return LAYERS[name]
    path = root / name
    if not path.is_file():
        return None
    if path.suffix == ".py":
        return Python(name)
    if path.name.endswith((".test.mjs", ".test.cjs")):
        return Node(name)
    if path.suffix == ".rs" and path.parent == root / "rust-core/tests":
        return Cargo("--test", path.stem)
    return None


def run(command: list[str], copy: Path, root: Path, within: float = HANGS_AFTER) -> Ran:
    """Runs a command in the copy of the tree, for so many seconds at most."""
    process = subprocess.Popen(
        command,
        cwd=copy,
        env=environment(copy, root),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
    )
    try:
        output, _ = process.communicate(timeout=within)
    except BaseException as error:  # Ctrl-C reaches us alone: the tests have a group of their own
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return Ran(None, output)
    return Ran(process.returncode, output)


def environment(copy: Path, root: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DLOCK_", "ETCD_", "CARGO_TARGET"))}
    kept["PATH"] = f"{copy}/target/debug:{root}/.cache/services/bin:{kept['PATH']}"
    tuned = {"SEEDS": str(SEEDS), "FAIL_FAST": "1", "CARGO_PROFILE_DEV_DEBUG": "0", "RUST_BACKTRACE": "0", "RUST_TEST_THREADS": "4"}
    tuned["CARGO_INCREMENTAL"] = "1"
    # A fault of this kind shows after a dozen; `make test` has many more, of an extension that is optimised.
    tuned["INTERRUPTS"] = "400"
    # The package of the copy, not the one that `.venv` names.
    tuned["PYTHONPATH"] = f"{copy}/bindings/python"
    return {"PROTOC": str(root / ".venv/bin/protoc")} | kept | tuned


def shown(kind: str) -> str:
    """The kind of a failure in one short line."""
    words = " ".join(kind.split())
    return words if len(words) <= LONGEST_KIND else f"{words[:LONGEST_KIND]}…"
