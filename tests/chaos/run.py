#!/usr/bin/env python3
"""Real faults on real servers. The last line is `N passed, N failed`.

    run.py [--backend local|redis|etcd ..] [--seconds N] [--seed N]
    run.py --check FOLDER        judges a history again

Long runs and failed ones leave their histories in .cache/chaos, all leave figures in results.jsonl there: `totals.py` sums them.
"""

import argparse
import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import campaign  # noqa: E402
import crew  # noqa: E402
import linearizable  # noqa: E402
import network  # noqa: E402
from arena import ARENAS  # noqa: E402
from checker import Verdict, figures, judge  # noqa: E402
from faults import possible  # noqa: E402
from history import History, read  # noqa: E402
from recovery import recoveries  # noqa: E402
from totals import RESULTS, WANTED  # noqa: E402
from wall_clock import WallClock  # noqa: E402

SHORT = {"local": 6.0, "redis": 12.0, "etcd": 12.0}
"""Seconds of faults in a short mix."""


def everything_happened(history: History) -> Verdict:
    """A mix without a kind of fault proves less than it says."""
    counts = history.end.get("faults", {})
    kinds = [*possible(history.facts["backend"], history.facts["namespaces"], history.facts.get("clocks", False))]
    if "stall" in kinds:
        kinds.append("dropped answers")
    verdict = Verdict("every kind of fault happened", looked_at=len(kinds))
    verdict.violations = [f"no {kind}" for kind in kinds if not any(name.startswith(kind) for name in counts)]
    verdict.remark = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return verdict


def report(folder: Path) -> dict[str, Any]:
    """Judges a history, prints what comes of it, and answers the figures of the run."""
    history = read(folder)
    verdicts = [*judge(history), linearizable.linearizable(history), everything_happened(history)]
    backend = history.facts["backend"]
    for verdict in verdicts:
        print(f"{verdict.mark} {backend}: {verdict}", flush=True)
    for line in recoveries(history):
        print(f"       {backend}: {line}")
    summary = figures(history, verdicts)
    seed, seconds = history.facts["seed"], history.facts["seconds"]
    chief = ", ".join(f"{summary[name]} {name}" for name in ("grants", *WANTED))
    print(f"{backend}, seed {seed}, {seconds:.0f} s: {chief}", flush=True)
    return {
        "backend": backend,
        "seed": seed,
        "seconds": seconds,
        "passed": sum(verdict.mark == "ok    " for verdict in verdicts),
        "failed": [verdict.name for verdict in verdicts if verdict.mark == "FAILED"],
        "figures": summary,
    }


def run(backend: str, seconds: float | None, seed: int) -> dict[str, Any]:
    """A short mix that went well leaves no history."""
    folder = RESULTS.parent / f"{backend}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    asyncio.run(campaign.run(backend, seconds or SHORT[backend], seed, folder))
    result = report(folder)
    with RESULTS.open("a") as results:
        results.write(json.dumps(result) + "\n")
    if seconds or result["failed"]:
        print(f"history: {folder.relative_to(crew.ROOT)}", flush=True)
    else:
        shutil.rmtree(folder)
    return result


def hear_signals() -> None:
    """Whoever ends us, also where we were started with `nohup` or `&`, ends the servers and workers too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=list(ARENAS))
    parser.add_argument("--seconds", type=float, help="of faults on each backend; without it a short mix")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="judge this history again and run nothing")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    os.environ["PATH"] = f"{crew.ROOT / '.cache/services/bin'}:{os.environ['PATH']}"
    linearizable.build()
    if options.check:
        results = [report(options.check)]
    else:
        network.enter()
        if not WallClock.can_be_had():
            print("no libfaketime here: the clock of redis-server is not set")
        hear_signals()
        crew.build()
        results = [run(backend, options.seconds, options.seed) for backend in options.backend or ARENAS]
    passed, failed = sum(result["passed"] for result in results), sum(len(result["failed"]) for result in results)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
