"""Compares dlock with the lock libraries that Python, Node, Go, Java and Rust programs use today, in one run.

Usage: run.py [--rounds 5] [--quick | --page | --go-on] [EXPERIMENT...]
Without experiments all of them run, and docs/benchmarks.md is written. With some, their figures are printed. `--page` writes
the page again from the figures of the last run. `--go-on` measures what a run that was broken off has not measured.
"""

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import experiments  # noqa: E402 - found through the line above
import machine  # noqa: E402
import page  # noqa: E402
import quick  # noqa: E402

UNFINISHED = HERE.parent / ".cache/benches/unfinished.json"


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--quick", action="store_true", help="ratios to the usual peers, in less than two minutes")
    asked.add_argument("--page", action="store_true", help="write the page again from the figures of the last run")
    asked.add_argument("--go-on", action="store_true", help="measure what a run that was broken off has not measured")
    asked.add_argument("experiments", nargs="*", help=f"of {', '.join(experiments.ALL)}; all if none is named")
    chosen = asked.parse_args()
    if unknown := set(chosen.experiments) - set(experiments.ALL):
        asked.error(f"there is no experiment {', '.join(sorted(unknown))}")
    # Thousands of connections.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Programs that an experiment starts find its modules, and the servers of the tests.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
    if chosen.quick:
        return quick.main()
    if chosen.page:
        page.rewrite()
        return 0
    if chosen.experiments:
        for name in chosen.experiments:
            section = experiments.ALL[name].present(experiments.ALL[name].measure(chosen.rounds))
            print(f"\n## {section.title}\n", *(table.markdown() for table in section.tables), sep="\n\n")
        return 0
    page.write(measured(chosen.rounds, begun() if chosen.go_on else None))
    UNFINISHED.unlink(missing_ok=True)
    return 0


def begun() -> dict[str, Any] | None:
    """The figures of a run that was broken off."""
    return json.loads(UNFINISHED.read_text()) if UNFINISHED.is_file() else None


def measured(rounds: int, before: dict[str, Any] | None) -> dict[str, Any]:
    """The figures of all experiments. What there is so far is kept, since a run takes long."""
    run: dict[str, Any] = before or {"machine": machine.described(), "minutes": 0, "experiments": {}}
    for name, experiment in experiments.ALL.items():
        if name not in run["experiments"]:
            started = time.monotonic()
            run["experiments"][name] = experiment.measure(rounds)
            run["minutes"] += round((time.monotonic() - started) / 60, 1)
            UNFINISHED.write_text(json.dumps(run))
    run["minutes"] = round(run["minutes"])
    return run


if __name__ == "__main__":
    sys.exit(main())
