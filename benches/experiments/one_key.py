"""Many waiters for one key, in one process and in several.

How many grants a second, how long a waiter waits, and whether all get their turn.
"""

import statistics
from contextlib import ExitStack
from typing import Any

from contenders import ETCD, LOCAL, REDIS, Arena, Contender
from report import Line, Picture, Section, Table
from rounds import note, opened
from worker import ContenderFailed, Worker

SECONDS = 2.0
HOLD = 0.001
CROWDS = [(1, 2), (1, 20), (4, 25), (16, 62)]
"""Processes, and waiters in each."""
MOST_THREADS = 200
MOST_MACHINES = 4
"""As many virtual machines of Java as two cores can bear."""


def measure(rounds: int) -> dict[str, Any]:
    return {arena.name: measure_on(arena, max(1, rounds // 3)) for arena in (REDIS, ETCD, LOCAL)}


def measure_on(arena: Arena, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    libraries = [one for one in arena.contenders if one.kind != "limit" and one.is_there]
    for processes, waiters in CROWDS:
        if arena is not REDIS and processes * waiters > 100:
            continue
        name = f"{processes} × {waiters}"
        found[name] = {}
        for number in range(rounds):
            for one in libraries:
                if is_too_much(one, processes, waiters):
                    continue
                try:
                    figures = crowd(arena, one, processes, waiters)
                except ContenderFailed as failure:
                    if one.kind == "dlock":
                        raise
                    note(f"one key, {name}: {failure}")
                    continue
                kept = found[name].setdefault(one.name, {})
                for figure, value in figures.items():
                    kept.setdefault(figure, []).append(value)
            note(f"one key on {arena.name}, {name}: round {number + 1} of {rounds}")
    return found


def is_too_much(one: Contender, processes: int, waiters: int) -> bool:
    return (one.is_threaded and processes * waiters > MOST_THREADS) or (one.language == "Java" and processes > MOST_MACHINES)


def crowd(arena: Arena, one: Contender, processes: int, waiters: int) -> dict[str, float]:
    """All waiters begin at the same time. A server of its own: waiters that an earlier contender left behind hold nobody up."""
    with opened(arena) as (url, _), ExitStack() as started:
        working = [started.enter_context(Worker(one, url)) for _ in range(processes)]
        for worker in working:
            worker.ask(do="pairs", keys=["warm"], seconds=0.1)
        for worker in working:
            worker.begin(do="pairs", keys=["hot"] * waiters, seconds=SECONDS, hold=HOLD, waits=True)
        answers = [worker.answer(SECONDS) for worker in working]
    waits = sorted(wait for answer in answers for wait in answer["waits"])
    turns = [pairs for answer in answers for pairs in answer["by_task"]]
    cuts = statistics.quantiles(waits, n=100, method="inclusive") if len(waits) > 1 else waits * 99
    # Everybody is served until the last one is: a contender that starves waiters does not gain by it.
    longest = max(answer["seconds"] for answer in answers)
    return {
        "grants/s": sum(turns) / longest,
        "p50 ms": 1e3 * cuts[49],
        "p99 ms": 1e3 * cuts[98],
        "longest ms": 1e3 * waits[-1],
        "fairness": sum(turns) ** 2 / (len(turns) * sum(turn * turn for turn in turns)) if any(turns) else 0.0,
        "without a turn in time": float(sum(turn <= 1 for turn in turns)),
    }


def present(figures: dict[str, Any]) -> Section:
    tables, pictures = [], []
    for name, found in figures.items():
        arena = {"redis": REDIS, "etcd": ETCD, "local": LOCAL}[name]
        for crowd_name, by in found.items():
            rows = [
                [
                    one.name,
                    f"{statistics.median(by[one.name]['grants/s']):,.0f}",
                    f"{statistics.median(by[one.name]['p50 ms']):,.1f}",
                    f"{statistics.median(by[one.name]['p99 ms']):,.1f}",
                    f"{max(by[one.name]['longest ms']):,.0f}",
                    f"{statistics.median(by[one.name]['fairness']):.2f}",
                ]
                for one in arena.contenders
                if one.name in by
            ]
            columns = [f"{arena.title}: {crowd_name} waiters", "grants/s", "wait, p50 ms", "p99 ms", "longest ms", "fairness"]
            tables.append(Table(columns, rows))
        pictures.append(waits_picture(arena, found))
    text = (
        f"Several processes (*processes × waiters in each*) want the same key for {SECONDS:.0f} s. Whoever has it keeps it for "
        f"{1e3 * HOLD:.0f} ms, which bounds the grants at less than 1,000 a second. Who still waits at the end waits for one "
        "more grant, and the time until the last one counts. *Fairness* is Jain's index of how often each waiter was served: 1 "
        "if all were served equally often, 1/n if one of n had everything. The programs in Rust keep the key for two "
        "milliseconds: the timers of tokio go no finer."
    )
    return Section("One key", text, tables, pictures)


def waits_picture(arena: Arena, found: dict[str, Any]) -> Picture:
    sizes = {crowd_name: float(waiters_in(crowd_name)) for crowd_name in found}
    lines = []
    for one in arena.contenders:
        there = sorted((size, found[name][one.name]["p99 ms"]) for name, size in sizes.items() if one.name in found[name])
        if there:
            xs, values = [size for size, _ in there], [each for _, each in there]
            lines.append(
                Line(
                    one.name,
                    one.kind,
                    xs,
                    [statistics.median(each) for each in values],
                    [min(each) for each in values],
                    [max(each) for each in values],
                )
            )
    return Picture(f"one-key-{arena.name}", f"Waiting for one key on {arena.title}", "waiters", "p99 of the wait, ms", lines)


def waiters_in(crowd_name: str) -> int:
    processes, _, waiters = crowd_name.partition(" × ")
    return int(processes) * int(waiters)
