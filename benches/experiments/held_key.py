"""A try on a key that another process holds."""

from typing import Any

from contenders import ARENAS, Arena, Contender
from report import Section, Table
from rounds import note, opened, spread, take_turns
from worker import ContenderFailed, Worker

SECONDS = 0.5


def measure(rounds: int) -> dict[str, Any]:
    return {name: measure_on(arena, rounds) for name, arena in ARENAS.items()}


def measure_on(arena: Arena, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # A server for each of them: a key that one library holds may look held to the next.
    for one in arena.contenders:
        if one.is_there and "tries" in one.does:
            found |= of_one(arena, one, rounds)
    return found


def of_one(arena: Arena, one: Contender, rounds: int) -> dict[str, Any]:
    with opened(arena) as (url, _), Worker(one, url) as holder, Worker(one, url) as other:
        try:
            holder.ask(do="hold", key="held", ttl=30)
        except ContenderFailed as failure:
            if one.kind == "dlock":
                raise
            note(f"a held key: {failure}")
            return {}
        return take_turns({one.name: other}, rounds, tries, f"a held key, {one.name} on {arena.name}")


def tries(worker: Worker) -> dict[str, float]:
    answer = worker.ask(do="tries", key="held", seconds=SECONDS)
    return {"µs": 1e6 * answer["seconds"] / answer["tries"]}


def present(figures: dict[str, Any]) -> Section:
    tables = [
        Table(
            [f"{ARENAS[name].title}: a try on a held key", "µs"],
            [[one.name, spread(found[one.name]["µs"])] for one in ARENAS[name].contenders if one.name in found],
        )
        for name, found in figures.items()
    ]
    text = "Another process holds the key; one task tries without waiting, again and again. dlock's answer names the holder."
    return Section("A try on a held key", text, tables)
