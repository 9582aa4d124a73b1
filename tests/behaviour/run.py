#!/usr/bin/env python3
"""The behaviour suite: one set of scenarios, every language on every backend. The last line is `N passed, N failed`.

    run.py [--suite scenarios|faults] [--language rust|python|node|mixed ..] [--backend memory|local|redis|etcd ..] [--only TEXT]

`mixed` plays each client in another language, each in a process of its own. A scenario that an ability keeps from running is
listed, not counted; one that no backend ran is a failure.
"""

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from driver_process import ROOT, build  # noqa: E402
from expectation import Mismatch  # noqa: E402
from play import Play  # noqa: E402
from scenario import BACKENDS, LANGUAGES, Scenario, load  # noqa: E402
from scenario_backend import SERVERS, ScenarioBackend  # noqa: E402

from services import ServerProcess  # noqa: E402

# The servers that scenarios share, by backend.
Shared = dict[str, ServerProcess]

# Most of a scenario is waiting. Those with faults have servers of their own each.
CORES = max(2, os.cpu_count() or 2)
AT_ONCE = {"scenarios": 6 + CORES, "faults": 2 + CORES}


@dataclass
class Case:
    """One scenario in one mode on one backend."""

    scenario: Scenario
    mode: str
    backend: str
    turn: int
    numbers: Iterator[int]
    figures: list[str] = field(default_factory=list)
    failure: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        cast = self.scenario.cast(self.mode, self.turn)
        who = " ".join(f"{client}={language}" for client, language in cast.items()) if self.mode == "mixed" else self.mode
        return f"{self.backend}: {self.scenario.rule} {self.scenario.name} [{who}]"


async def judge(case: Case, folder: Path, shared: Shared) -> None:
    """Plays a case and says what came of it."""
    began = time.monotonic()
    await play(case, folder, shared)
    case.seconds = time.monotonic() - began
    print(f"{'FAILED' if case.failure else 'ok    '} {case} ({case.seconds:.1f} s)", flush=True)
    for line in [*case.figures, *case.failure.splitlines()]:
        print(f"       {line}", flush=True)


async def play(case: Case, folder: Path, shared: Shared) -> None:
    backend = ScenarioBackend(case.backend, next(case.numbers), folder, shared.get(case.backend), case.scenario.uses_server())
    this = Play(case.scenario, case.scenario.cast(case.mode, case.turn), backend)
    try:
        await backend.open()
        await this.run()
    except Mismatch as error:
        case.failure = str(error)
    except Exception:
        case.failure = traceback.format_exc()
    finally:
        await this.end()
        await backend.close()
    case.figures = this.figures
    if not case.failure and "panicked at" in this.said():
        case.failure = "a thread panicked"
    if case.failure:
        case.failure = f"{case.failure}\n{this.said()}".rstrip()


async def play_all(cases: list[Case], at_once: int) -> None:
    """Those that measure run alone, after the others."""
    with tempfile.TemporaryDirectory(prefix="dlock-behaviour-") as folder, ExitStack() as servers:
        wanted = {case.backend for case in cases} & SERVERS.keys()
        shared = {backend: servers.enter_context(SERVERS[backend]()) for backend in wanted}
        slots = asyncio.Semaphore(at_once)

        async def in_turn(case: Case) -> None:
            async with slots:
                await judge(case, Path(folder), shared)

        await asyncio.gather(*(in_turn(case) for case in cases if not case.scenario.alone))
        for case in cases:
            if case.scenario.alone:
                await judge(case, Path(folder), shared)


def cases_of(options: argparse.Namespace, scenarios: list[Scenario]) -> Iterator[Case]:
    numbers = itertools.count(1)
    for mode in options.language:
        for backend in options.backend:
            for at, scenario in enumerate(scenarios):
                if reason := scenario.misfit(mode, backend):
                    print(f"skip   {backend}: {scenario.name} [{mode}]: {reason}")
                    continue
                for turn in range(min(scenario.turns, BACKENDS[backend].turns) if mode == "mixed" else 1):
                    yield Case(scenario, mode, backend, at + turn, numbers)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=["scenarios", "faults"], default="scenarios")
    parser.add_argument("--language", action="append", choices=[*LANGUAGES, "mixed"])
    parser.add_argument("--backend", action="append", choices=list(BACKENDS))
    parser.add_argument("--only", default="", help="scenarios with this text in their name, rule or file")
    options = parser.parse_args()
    options.whole = not options.only and not options.backend
    options.language = options.language or [*LANGUAGES]
    options.backend = options.backend or list(BACKENDS)
    return options


def never_ran(options: argparse.Namespace, scenarios: list[Scenario], cases: list[Case]) -> list[str]:
    """Scenarios that this run should have had on some backend, and had on none."""
    if not options.whole:
        return []
    ran = {case.scenario.name for case in cases}
    meant = {scenario.name for scenario in scenarios if any(not scenario.out_of_place(mode) for mode in options.language)}
    return sorted(meant - ran)


def main() -> int:
    os.environ["PATH"] = f"{ROOT / '.cache/services/bin'}:{os.environ['PATH']}"
    options = arguments()
    scenarios = [
        scenario for scenario in load(HERE / options.suite) if options.only in f"{scenario.name} {scenario.rule} {scenario.file}"
    ]
    cases = list(cases_of(options, scenarios))
    build({language for case in cases for language in case.scenario.cast(case.mode, case.turn).values()})
    asyncio.run(play_all(cases, AT_ONCE[options.suite]))
    missing = never_ran(options, scenarios, cases)
    for name in missing:
        print(f"FAILED no backend ran {name!r}")
    failed = [case for case in cases if case.failure]
    if failed:
        print("\nfailed:")
        for case in failed:
            print(f"  {case}")
    print(f"{len(cases) - len(failed)} passed, {len(failed) + len(missing)} failed")
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
