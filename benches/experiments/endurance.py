"""A million pairs: whether memory grows with the work that is done."""

from typing import Any

from contenders import DLOCK, LOCAL, REDIS, Arena, Contender
from report import Line, Picture, Section, Table
from rounds import note, opened
from worker import Worker

PAIRS = 1_000_000
STEP = 0.5
"""Seconds from one reading to the next."""


def measure(_rounds: int) -> dict[str, Any]:
    return {f"{one.name}, {arena.name}": readings(arena, one) for arena in (REDIS, LOCAL) for one in DLOCK}


def readings(arena: Arena, one: Contender) -> list[list[float]]:
    """Pairs so far, and the resident memory in MB."""
    tasks = 50 if one.is_threaded else 200
    done, found = 0, []
    with opened(arena) as (url, _), Worker(one, url) as worker:
        while done < PAIRS:
            # One task and many, in turns: both ways to the server are used.
            done += worker.ask(do="pairs", keys=["one"], seconds=STEP / 5)["pairs"]
            done += worker.ask(do="pairs", keys=[f"key-{number}" for number in range(tasks)], seconds=STEP)["pairs"]
            found.append([done, worker.footprint().resident / 1e6])
    note(f"a million pairs: {one.name} on {arena.name}")
    return found


def present(figures: dict[str, Any]) -> Section:
    rows = []
    for name, found in figures.items():
        first = next(memory for done, memory in found if done >= PAIRS / 10)
        rows.append([name, f"{found[0][1]:.1f}", f"{first:.1f}", f"{found[-1][1]:.1f}"])
    lines = [
        Line(name, "dlock", *([reading[column] for reading in found] for column in (0, 1, 1, 1))) for name, found in figures.items()
    ]
    picture = Picture("endurance", "Memory over a million pairs", "pairs", "MB", lines, is_logarithmic=False)
    columns = ["resident memory, MB", "after the first half second", "after 100,000 pairs", "after 1,000,000 pairs"]
    return Section("A million pairs", "Memory of the whole process, interpreter included.", [Table(columns, rows)], [picture])
