"""One task: how long a pair of acquire and release takes, on a quiet machine, and while every core is busy."""

from typing import Any

from contenders import ARENAS, Arena, Contender
from disturbance import busy_cores
from report import Line, Picture, Section, Table
from rounds import best, median, opened, spread, take_turns, warmed, workers
from worker import Worker

SECONDS = 0.5


def pair(worker: Worker) -> dict[str, float]:
    before = worker.processor_seconds
    answer = worker.ask(do="pairs", keys=["one"], seconds=SECONDS)
    used = worker.processor_seconds - before
    return {"µs": 1e6 * answer["seconds"] / answer["pairs"], "µs of processor": 1e6 * used / answer["pairs"]}


def measure(rounds: int) -> dict[str, Any]:
    return {name: measure_on(arena, rounds) for name, arena in ARENAS.items()}


def measure_on(arena: Arena, rounds: int) -> dict[str, Any]:
    with opened(arena) as (url, _), workers(arena.contenders, url) as working:
        there = warmed(working, SECONDS)
        quiet = take_turns(there, rounds, pair, f"one task on {arena.name}")
        with busy_cores():
            busy = take_turns({name: there[name] for name in quiet}, rounds, pair, f"one task on {arena.name}, every core busy")
    return {"quiet": quiet, "busy": busy}


def present(figures: dict[str, Any]) -> Section:
    tables, pictures = [], []
    for name, found in figures.items():
        arena = ARENAS[name]
        there = [one for one in arena.contenders if one.name in found["quiet"]]
        rows = [row(one, found) for one in there]
        columns = [
            f"{arena.title}: one task",
            "µs a pair",
            "of them µs of processor",
            "with every core busy",
            "to the limit",
            "to the best peer",
        ]
        tables.append(Table(columns, rows))
        lines = [bar(one, found["quiet"][one.name]["µs"]) for one in there]
        pictures.append(Picture(f"one-task-{name}", f"One task on {arena.title}", "", "µs a pair", lines))
    text = (
        "One task acquires a free key and releases it, again and again. Most programs use locks like that. `two round trips` "
        "is the limit of what a client can do: two requests of the same size over a socket of its own, with no lock around "
        "them, in the same language. *To the limit* is how many times as long a pair takes as those. *To the best peer* "
        "compares with the fastest library of the same language, or of any language where there is none: below 1 dlock is "
        "ahead. While every core is busy, a client, its server and the other programs share the cores."
    )
    return Section("One task", text, tables, pictures)


def row(one: Contender, found: dict[str, Any]) -> list[str]:
    quiet, busy = found["quiet"][one.name], found["busy"].get(one.name, {"µs": []})
    mine = median(quiet["µs"])
    to_limit = to_best = ""
    if one.kind == "dlock":
        if limit := limit_of(one, found["quiet"]):
            to_limit = f"{mine / median(found['quiet'][limit]['µs']):.2f}"
        if peer := best_peer(one, found["quiet"]):
            to_best = f"{mine / median(found['quiet'][peer]['µs']):.2f}"
    return [
        one.name,
        spread(quiet["µs"]),
        f"{median(quiet['µs of processor']):.0f}",
        spread(busy["µs"]) if busy["µs"] else "–",
        to_limit,
        to_best,
    ]


def limit_of(mine: Contender, found: dict[str, Any]) -> str | None:
    """What this face of dlock could reach at best: the bare requests in its own way of waiting, else in Rust."""
    limits = [one for arena in ARENAS.values() for one in arena.contenders if one.kind == "limit" and one.name in found]
    own = [one.name for one in limits if one.name.endswith(mine.name.removeprefix("dlock"))]
    return next(iter(own or [one.name for one in limits]), None)


def best_peer(mine: Contender, found: dict[str, Any]) -> str | None:
    peers = [one for arena in ARENAS.values() for one in arena.contenders if one.kind == "peer" and one.name in found]
    same = [one for one in peers if one.language == mine.language]
    return best(same or peers, found, "µs")


def bar(one: Contender, values: list[float]) -> Line:
    return Line(one.name, one.kind, [0], [median(values)], [min(values)], [max(values)])
