"""Measures what it costs to hand a result from a tokio task to an event loop: docs/adr/0001-completion-queue.md.

The two ways of a language take turns in one process, round after round, so that whatever else the machine does hits both.
Usage: make bench-bridge [ROUNDS=7]
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent.parent / "target/bridge"
SUFFIX = "dylib" if sys.platform == "darwin" else "so"
IN_FLIGHT = 500

PYTHON = [sys.executable, HERE / "python/measure.py", TARGET / f"release/libbridge_python.{SUFFIX}"]
NODE = ["node", HERE / "node/measure.mjs", TARGET / f"release/libbridge_node.{SUFFIX}"]
LANGUAGES = [("Python", "pyo3-async-runtimes `future_into_py`", PYTHON), ("Node", "napi `async fn`", NODE)]


def main() -> None:
    environment = os.environ | {"CARGO_TARGET_DIR": str(TARGET), "PYO3_PYTHON": sys.executable}
    subprocess.run(["cargo", "build", "--quiet", "--release", "--locked"], cwd=HERE, env=environment, check=True)

    rounds = os.environ.get("ROUNDS", "7")
    print(f"µs per operation, {IN_FLIGHT} in flight, medians of {rounds} rounds\n")
    print(f"{'':<8}{'':<38}{'library':>9}{'queue':>9}{'ratio':>9}")
    for language, library, command in LANGUAGES:
        done = subprocess.run([*command, rounds, str(IN_FLIGHT)], stdout=subprocess.PIPE, text=True, check=True)
        median = {way: statistics.median(values) for way, values in json.loads(done.stdout).items()}
        ratio = median["library"] / median["queue"]
        print(f"{language:<8}{library:<38}{median['library']:>9.1f}{median['queue']:>9.1f}{ratio:>9.1f}")


if __name__ == "__main__":
    main()
