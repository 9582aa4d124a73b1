"""How long a waiter waits for a key whose holder was killed."""

import time
from typing import Any

from contenders import ARENAS, Arena, Contender
from report import Section, Table
from rounds import note, opened, spread
from worker import ContenderFailed, Worker

TTL = 3
"""Seconds; the shortest that all libraries take."""


def measure(rounds: int) -> dict[str, Any]:
    return {name: measure_on(arena, max(1, rounds // 3)) for name, arena in ARENAS.items()}


def measure_on(arena: Arena, rounds: int) -> dict[str, Any]:
    found: dict[str, dict[str, list[float]]] = {}
    for one in arena.contenders:
        if not one.is_there or "take" not in one.does:
            continue
        for _ in range(rounds):
            try:
                waited = take_over(arena, one)
            except ContenderFailed as failure:
                if one.kind == "dlock":
                    raise
                note(f"a killed holder: {failure}")
                break
            found.setdefault(one.name, {}).setdefault("ms", []).append(1e3 * waited)
        note(f"a killed holder, {one.name} on {arena.name}")
    return found


def take_over(arena: Arena, one: Contender) -> float:
    """Seconds between the death of the holder and the grant to the waiter."""
    with opened(arena) as (url, _), Worker(one, url) as holder, Worker(one, url) as waiter:
        waiter.ask(do="pairs", keys=["warm"], seconds=0.1)
        holder.ask(do="hold", key="held", ttl=TTL)
        waiter.begin(do="take", key="held", ttl=TTL)
        # It waits by now, and has for a while: a third of the TTL, when libraries that renew have renewed.
        time.sleep(TTL / 3 + 0.1)
        if waiter.has_answered():
            raise ContenderFailed(f"{one.name}: a held key was granted")
        holder.kill()
        killed = time.monotonic()
        waiter.answer(TTL)
        return time.monotonic() - killed


def present(figures: dict[str, Any]) -> Section:
    tables = [
        Table(
            [f"{ARENAS[name].title}: from the kill to the next grant", "ms"],
            [[one.name, spread(found[one.name]["ms"], 1)] for one in ARENAS[name].contenders if one.name in found],
        )
        for name, found in figures.items()
    ]
    text = (
        f"A process holds the key with a TTL of {TTL} s and is killed about 1.1 s later; another one waits. On a server nobody "
        "can know of the death before the TTL is over, and the TTL counts from the last renewal, if there was one: a library "
        "that does not renew loses its key sooner, dead or alive. On one machine the kernel knows at once."
    )
    return Section("Take-over after a crash", text, tables)
