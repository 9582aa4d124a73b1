"""Contenders take turns, round after round, so that whatever else the machine does hits all of them."""

import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from contenders import Arena, Contender
from worker import ContenderFailed, Worker

from services import ServerProcess

Values = dict[str, list[float]]
"""The values that the rounds gave, by figure."""


@contextmanager
def opened(arena: Arena) -> Iterator[tuple[str, ServerProcess | None]]:
    """The URL at which contenders meet, and the server, if there is one."""
    if arena.server:
        with arena.server() as server:
            yield server.url, server
        return
    # In memory, where one is: no contender waits for a disk.
    home = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="dlock-bench-", dir=home if home.is_dir() else None) as folder:
        yield f"local://{folder}", None


@contextmanager
def workers(contenders: Iterable[Contender], url: str, prefix: tuple[str, ...] = ()) -> Iterator[dict[str, Worker]]:
    """All contenders that this machine has, started."""
    with ExitStack() as started:
        yield {
            contender.name: started.enter_context(Worker(contender, url, prefix)) for contender in contenders if contender.is_there
        }


def take_turns(
    working: dict[str, Worker], rounds: int, measure: Callable[[Worker], dict[str, float]], what: str
) -> dict[str, Values]:
    """The values of each contender. A peer that fails is out, with its error told; ours may not fail."""
    seen: dict[str, Values] = {name: defaultdict(list) for name in working}
    out: set[str] = set()
    for number in range(rounds):
        for name, worker in working.items():
            if name in out:
                continue
            try:
                figures = measure(worker)
            except ContenderFailed as failure:
                if worker.contender.kind == "dlock":
                    raise
                note(f"{what}: {failure}")
                out.add(name)
                del seen[name]
                continue
            for figure, value in figures.items():
                seen[name][figure].append(value)
        note(f"{what}: round {number + 1} of {rounds}")
    return {name: dict(values) for name, values in seen.items()}


def warmed(working: dict[str, Worker], seconds: float) -> dict[str, Worker]:
    """Those that can work, once they have: connections are made and code is compiled then. A peer that cannot is out."""

    def work(worker: Worker) -> dict[str, float]:
        worker.ask(do="pairs", keys=["warm"], seconds=seconds)
        return {}

    return {name: working[name] for name in take_turns(working, 1, work, "warm-up")}


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def median(values: list[float]) -> float:
    return statistics.median(values)


def spread(values: list[float], digits: int = 0) -> str:
    """The median, and from where to where the values went."""
    middle, low, high = (f"{value:,.{digits}f}" for value in (median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})" if len(values) > 1 else middle


def best(contenders: Iterable[Contender], figures: dict[str, Any], figure: str, pick: Callable[..., str] = min) -> str | None:
    """Which of them has the best median of a figure, where `pick` is `min` or `max`."""
    there = [one.name for one in contenders if figure in figures.get(one.name, {})]
    return pick(there, key=lambda name: median(figures[name][figure])) if there else None
