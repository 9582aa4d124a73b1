"""Many tasks, a key each: how many pairs a second, and what they cost client and server."""

from functools import partial
from typing import Any

from contenders import ARENAS, REDIS, Arena
from report import Line, Picture, Section, Table
from rounds import best, median, opened, spread, take_turns, workers
from server_costs import commands_so_far, server_seconds
from worker import Worker

from services import ServerProcess

SECONDS = 0.7
MOST_THREADS = 100
"""A thread for each task is no way to have more."""


def measure(rounds: int) -> dict[str, Any]:
    return {name: measure_on(arena, max(1, rounds * 3 // 5)) for name, arena in ARENAS.items()}


def measure_on(arena: Arena, rounds: int) -> dict[str, Any]:
    found = {}
    libraries = [one for one in arena.contenders if one.kind != "limit"]
    with opened(arena) as (url, server), workers(libraries, url) as working:
        for tasks in arena.crowd:
            there = {name: worker for name, worker in working.items() if tasks <= MOST_THREADS or not worker.contender.is_threaded}
            found[str(tasks)] = take_turns(there, rounds, partial(crowd, tasks, server), f"{tasks} tasks on {arena.name}")
    return found


def crowd(tasks: int, server: ServerProcess | None, worker: Worker) -> dict[str, float]:
    before = worker.processor_seconds, server_seconds(server), commands_so_far(server)
    answer = worker.ask(do="pairs", keys=[f"key-{number}" for number in range(tasks)], seconds=SECONDS)
    pairs = answer["pairs"]
    figures = {"pairs/s": pairs / answer["seconds"], "client µs": 1e6 * (worker.processor_seconds - before[0]) / pairs}
    if server:
        figures["server µs"] = 1e6 * (server_seconds(server) - before[1]) / pairs
    if before[2] is not None:
        figures["commands"] = ((commands_so_far(server) or 0) - before[2]) / pairs
    return figures


def present(figures: dict[str, Any]) -> Section:
    tables, pictures = [], []
    for name, found in figures.items():
        arena = ARENAS[name]
        sizes = [str(size) for size in arena.crowd if str(size) in found]
        there = [one for one in arena.contenders if any(one.name in found[size] for size in sizes)]
        rows = [
            [one.name, *(spread(found[size][one.name]["pairs/s"]) if one.name in found[size] else "–" for size in sizes)]
            for one in there
        ]
        tables.append(Table([f"{arena.title}: pairs a second", *(f"{size} tasks" for size in sizes)], rows))
        lines = [
            Line(
                one.name,
                one.kind,
                [float(size) for size in sizes if one.name in found[size]],
                *([of(found[size][one.name]["pairs/s"]) for size in sizes if one.name in found[size]] for of in (median, min, max)),
            )
            for one in there
        ]
        pictures.append(Picture(f"many-tasks-{name}", f"Many tasks on {arena.title}", "tasks, a key each", "pairs a second", lines))
    tables.append(costs(figures))
    text = (
        "Each task has a key of its own, so nobody waits for anybody: this is what a busy service does. Libraries whose locks "
        f"belong to a thread have a thread for each task, and are left out above {MOST_THREADS}."
    )
    return Section("Many tasks", text, tables, pictures)


def costs(figures: dict[str, Any]) -> Table:
    """What a pair costs, where the most contenders are compared."""
    found = figures["redis"]["500"]
    columns = ["Redis, 500 tasks: what a pair costs", "µs of processor, client", "µs of processor, server", "commands"]
    rows = []
    for one in REDIS.contenders:
        if values := found.get(one.name):
            rows.append(
                [
                    one.name,
                    spread(values["client µs"], 1),
                    spread(values["server µs"], 1),
                    f"{median(values['commands']):.2f}",
                ]
            )
    return Table(columns, rows)


def ratios(figures: dict[str, Any]) -> list[tuple[str, str, float]]:
    """dlock, the best peer of the same language, and how many times as fast dlock is, with 500 tasks on Redis."""
    found = figures["redis"]["500"]
    compared = []
    for mine in (one for one in REDIS.contenders if one.kind == "dlock" and one.name in found):
        peers = [one for one in REDIS.contenders if one.kind == "peer" and one.language == mine.language]
        if peer := best(peers, found, "pairs/s", max):
            compared.append((mine.name, peer, median(found[mine.name]["pairs/s"]) / median(found[peer]["pairs/s"])))
    return compared
