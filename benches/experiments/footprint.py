"""What an idle program has more than before its first lock."""

import time
from typing import Any

from contenders import ARENAS, DLOCK
from report import Section, Table
from rounds import note, opened, workers

SECONDS = 4.0
IDLE_AFTER = 11.5
"""Seconds after which a client has given back what it keeps for busy times."""


def measure(_rounds: int) -> dict[str, Any]:
    return {"idle": idle()}


def idle() -> dict[str, Any]:
    """What a program that used a lock has when it no longer does."""
    found: dict[str, Any] = {}
    for arena in ARENAS.values():
        with opened(arena) as (url, _), workers(DLOCK, url) as working:
            before = {name: worker.footprint() for name, worker in working.items()}
            for worker in working.values():
                worker.ask(do="pairs", keys=["one"], seconds=0.5)
                worker.ask(do="pairs", keys=[f"key-{number}" for number in range(50)], seconds=0.3)
            time.sleep(IDLE_AFTER)
            used, began = {name: worker.processor_seconds for name, worker in working.items()}, time.monotonic()
            time.sleep(SECONDS)
            for name, worker in working.items():
                after = worker.footprint()
                found[f"{name} on {arena.title}"] = {
                    "threads": after.threads - before[name].threads,
                    "descriptors": after.descriptors - before[name].descriptors,
                    "processor": 100 * (worker.processor_seconds - used[name]) / (time.monotonic() - began),
                }
        note(f"idle programs on {arena.name}")
    return found


def present(figures: dict[str, Any]) -> Section:
    rest = Table(
        ["an idle program, more than before its first lock", "threads", "descriptors", "% of a core"],
        [
            [name, f"{each['threads']}", f"{each['descriptors']}", f"{each['processor']:.1f}"]
            for name, each in figures["idle"].items()
        ],
    )
    text = (
        f"An idle program has used locks, one and fifty at a time, and then none for {IDLE_AFTER:.0f} s. It keeps its connection "
        "and the thread of the engine."
    )
    return Section("An idle program", text, [rest])
