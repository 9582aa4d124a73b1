"""What a library for asyncio is asked to do."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from record import Pairs, Record

HELD: list[AbstractAsyncContextManager[object]] = []
"""Locks that are kept until the process ends."""


@dataclass(frozen=True)
class Library:
    lock: Callable[[str, float], AbstractAsyncContextManager[object]]
    """A lock that can be used again and again, for a key and a TTL in seconds."""
    try_once: Callable[[str], Callable[[], Awaitable[bool]]] | None = None
    """Tries to acquire a key without waiting."""


async def do(library: Library, work: dict[str, Any]) -> dict[str, Any]:
    match work["do"]:
        case "pairs":
            return await pairs(library, Pairs.of(work))
        case "hold":
            lock = library.lock(work["key"], work["ttl"])
            await lock.__aenter__()
            HELD.append(lock)
            return {"held": True}
        case "take":
            asked = time.monotonic()
            async with library.lock(work["key"], work["ttl"]):
                return {"waited": time.monotonic() - asked}
        case "tries" if library.try_once:
            return await tries(library.try_once(work["key"]), work["seconds"])
    return {"error": f"this library does no {work['do']}"}


async def pairs(library: Library, asked: Pairs) -> dict[str, Any]:
    async def task(number: int, key: str) -> None:
        lock = library.lock(key, 30)
        while (began := time.monotonic()) < end:
            async with lock:
                record.granted(number, key, began)
                if asked.hold:
                    await asyncio.sleep(asked.hold)
                record.releases()
            record.by_task[number] += 1
            if asked.pause:
                await asyncio.sleep(asked.pause)

    record = Record(asked)
    end = record.started + asked.seconds
    await asyncio.gather(*(task(number, key) for number, key in enumerate(asked.keys)))
    return record.answer()


async def tries(try_once: Callable[[], Awaitable[bool]], seconds: float) -> dict[str, Any]:
    done = 0
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        if await try_once():
            return {"error": "a held key was granted"}
        done += 1
    return {"tries": done, "seconds": time.monotonic() - started}
