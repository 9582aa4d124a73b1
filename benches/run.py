"""Compares dlock with the lock libraries that Python, Node, Go, Java and Rust programs use today, in one run.

Usage: run.py [--rounds 5] [--quick | --page] [EXPERIMENT...]
Without experiments all of them run, and docs/benchmarks.md is written. With some, their figures are printed. `--page` writes
the page again from
the figures of the last run.
"""

import argparse
import os
import resource
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import experiments  # noqa: E402 - found through the line above
import machine  # noqa: E402
import page  # noqa: E402
import quick  # noqa: E402


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--quick", action="store_true", help="ratios to the usual peers, in less than two minutes")
    asked.add_argument("--page", action="store_true", help="write the page again from the figures of the last run")
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
    started = time.monotonic()
    found = {name: experiments.ALL[name].measure(chosen.rounds) for name in chosen.experiments or experiments.ALL}
    if chosen.experiments:
        for name, figures in found.items():
            section = experiments.ALL[name].present(figures)
            print(f"\n## {section.title}\n", *(table.markdown() for table in section.tables), sep="\n\n")
        return 0
    page.write({"machine": machine.described(), "minutes": round((time.monotonic() - started) / 60), "experiments": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
