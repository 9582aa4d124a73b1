"""One run on one backend: servers, workers, faults, and an orderly end. What comes of it is a folder with a history."""

import asyncio
import random
import time
from pathlib import Path
from typing import Any

from arena import ARENAS, Arena
from crew import Crew
from faults import Misfortune, Stage, heal
from journal import Journal
from network import Network
from register import Register

import dlock

LANGUAGES = ["python", "node", "rust", "rust", "node", "python", "rust", "node"]
TASKS = 4
NAMESPACE = "chaos"
HOT = [f"hot-{number}" for number in range(2)]
COLD = [f"cold-{number}" for number in range(14)]
FINISH_SECONDS = 60.0
"""For the workers to end what is under way once all faults have healed."""
EMPTY_SECONDS = 20.0
"""For the server to be empty again."""


async def run(backend: str, seconds: float, seed: int, folder: Path) -> None:
    """Leaves a history in the folder. Ends by itself, `FINISH_SECONDS` + `EMPTY_SECONDS` after the faults at the latest."""
    drawn = random.Random(seed)
    with Network() as network:
        arena = ARENAS[backend](network, drawn)
        register = await Register(network.gate.address).start()
        journal = Journal(folder)
        try:
            await arena.open()
            plan = plan_of(arena, seed) | {"register": [network.gate.address, register.port]}
            crew = Crew(LANGUAGES, network.host, plan, journal)
            for slot in crew.slots[1::2] if network.real else crew.slots:
                slot.proxied = bool(arena.servers)
            journal.save("run.json", facts(arena, crew) | {"seconds": seconds, "seed": seed})
            try:
                end = await play(Stage(arena, crew, journal, drawn), seconds, seed)
            finally:
                await crew.end()
            journal.save("end.json", end | {"register": dict(sorted(register.counts.items()))})
        finally:
            journal.close()
            await register.close()
            await arena.close()


def plan_of(arena: Arena, seed: int) -> dict[str, Any]:
    """What every worker is told."""
    return {
        "namespace": NAMESPACE,
        "ttl": arena.ttl,
        "think": 30,
        "heat": 0.3,
        "tasks": TASKS,
        "seed": seed * 100,
        "hot": HOT,
        "cold": COLD,
    }


async def play(stage: Stage, seconds: float, seed: int) -> dict[str, Any]:
    """The run itself. Answers how it ended."""
    arena, began = stage.arena, time.monotonic()
    await stage.crew.start(lambda slot: arena.url(slot.proxied))
    misfortune = Misfortune(stage, seconds, seed)
    await misfortune.run()
    await heal(stage)
    complaints = await stage.crew.finish(FINISH_SECONDS)
    held, leftovers = await emptied(arena)
    return {
        "seconds": round(time.monotonic() - began, 1),
        "complaints": complaints + [f"a fault failed: {error!r}" for error in misfortune.failures],
        "held": held,
        "leftovers": leftovers,
        "faults": dict(sorted((stage.journal.counts + arena.counts()).items())),
    }


def facts(arena: Arena, crew: Crew) -> dict[str, Any]:
    return {
        "backend": arena.backend,
        "ttl": arena.ttl,
        "fair": arena.fair,
        "crash_release": arena.crash_release,
        "sessions": len(crew.slots),
        "tasks": TASKS,
        "namespaces": arena.network.real,
        "clocks": arena.clock is not None,
        "workers": {slot.name: {"language": slot.language, "proxied": slot.proxied} for slot in crew.slots},
    }


async def emptied(arena: Arena) -> tuple[list[str], list[str]]:
    """Which keys cannot be had at the end, and what is still in the server some time after the last worker."""
    async with dlock.Client(arena.url(False), namespace=NAMESPACE) as client:
        held = [key for key in [*HOT, *COLD] if not await can_be_had(client, key)]
    return held, await asyncio.to_thread(left_in, arena)


def left_in(arena: Arena) -> list[str]:
    deadline = time.monotonic() + EMPTY_SECONDS
    while (found := arena.leftovers()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


async def can_be_had(client: dlock.Client, key: str) -> bool:
    try:
        lease = await client.lock(key, wait=EMPTY_SECONDS).acquire()
    except dlock.LockError:
        return False
    return bool(await lease.release())
