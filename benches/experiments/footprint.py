"""What locks cost that nobody acquires or releases at the moment.

Memory for each held lease, commands for each waiter, and what an idle program has.
"""

import time
from typing import Any

from contenders import ARENAS, DLOCK, REDIS, Contender
from report import Section, Table
from rounds import median, note, opened, spread, workers
from server_costs import commands_so_far
from worker import ContenderFailed, Worker

HELD = 5000
WAITERS = 20
SECONDS = 4.0
IDLE_AFTER = 11.5
"""Seconds after which a client has given back what it keeps for busy times."""


def measure(rounds: int) -> dict[str, Any]:
    rounds = max(1, rounds // 3)
    return {"held": held(rounds), "waiting": waiting(rounds), "idle": idle()}


def held(rounds: int) -> dict[str, Any]:
    """Memory of the client for each lease."""
    found: dict[str, Any] = {}
    for one in REDIS.contenders:
        if not one.is_there or one.kind == "limit" or one.is_threaded:
            continue
        for _ in range(rounds):
            try:
                found.setdefault(one.name, {}).setdefault("bytes", []).append(bytes_each(one))
            except ContenderFailed as failure:
                note(f"held leases: {failure}")
                found.pop(one.name, None)
                break
        note(f"held leases: {one.name}")
    return found


def bytes_each(one: Contender) -> float:
    with opened(REDIS) as (url, _), Worker(one, url) as worker:
        # The same tasks first: what they cost by themselves, they cost in both readings.
        worker.ask(do="pairs", keys=[f"warm-{number}" for number in range(HELD)], seconds=0.5)
        before = worker.footprint().resident
        worker.begin(do="pairs", keys=[f"held-{number}" for number in range(HELD)], seconds=0.0001, hold=3.0)
        time.sleep(2.5)
        during = worker.footprint().resident
        worker.answer(30)
        return max(0.0, (during - before) / HELD)


def waiting(rounds: int) -> dict[str, Any]:
    """Commands a second that waiters cost while the key stays held."""
    found: dict[str, Any] = {}
    for one in REDIS.contenders:
        if not one.is_there or "hold" not in one.does:
            continue
        for _ in range(rounds):
            try:
                found.setdefault(one.name, {}).setdefault("commands/s", []).append(commands_a_second(one))
            except ContenderFailed as failure:
                note(f"waiters: {failure}")
                found.pop(one.name, None)
                break
        note(f"waiters: {one.name}")
    return found


def commands_a_second(one: Contender) -> float:
    with opened(REDIS) as (url, server), Worker(one, url) as holder, Worker(one, url) as other:
        holder.ask(do="hold", key="held", ttl=30)
        other.begin(do="pairs", keys=["held"] * WAITERS, seconds=0.0001)
        time.sleep(1.0)
        before, began = commands_so_far(server) or 0, time.monotonic()
        time.sleep(SECONDS)
        rate = ((commands_so_far(server) or 0) - before) / (time.monotonic() - began)
        other.kill()
        return rate


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
    memory = Table(
        [f"Redis: {HELD:,} held leases", "bytes of memory each"],
        [[name, spread(values["bytes"])] for name, values in figures["held"].items()],
    )
    commands = Table(
        [f"Redis: {WAITERS} waiters, the key stays held", "commands a second"],
        [
            [name, spread(values["commands/s"], 1)]
            for name, values in sorted(figures["waiting"].items(), key=lambda each: median(each[1]["commands/s"]))
        ],
    )
    rest = Table(
        ["an idle program, more than before its first lock", "threads", "descriptors", "% of a core"],
        [
            [name, f"{each['threads']}", f"{each['descriptors']}", f"{each['processor']:.1f}"]
            for name, each in figures["idle"].items()
        ],
    )
    text = (
        "The memory is what the process has more while its tasks hold a lease each than before, tasks included. An idle "
        f"program has used locks, one and fifty at a time, and then none for {IDLE_AFTER:.0f} s; it keeps its connection and "
        "the thread of the engine."
    )
    return Section("What is held, waited for, idle", text, [memory, commands, rest])
