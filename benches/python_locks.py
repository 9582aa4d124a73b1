"""One contender of the comparison, in Python: prints its figures as JSON. Usage: python_locks.py dlock|redis-py URL SCENARIO..."""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import redis.asyncio

import dlock

SECONDS = 2.0
MakeLock = Callable[[str], AbstractAsyncContextManager[object]]


async def pairs(make: MakeLock, keys: list[str]) -> tuple[float, float]:
    """Pairs a second, and hand-overs from one task to another a second, of one task for each entry of `keys`, all going at once."""
    end = time.monotonic() + SECONDS
    done = handed_over = 0
    last_holder: dict[str, int] = {}

    async def task(number: int, key: str) -> None:
        nonlocal done, handed_over
        lock = make(key)
        while time.monotonic() < end:
            async with lock:
                handed_over += last_holder.get(key) != number
                last_holder[key] = number
            done += 1

    started = time.monotonic()
    await asyncio.gather(*(task(number, key) for number, key in enumerate(keys)))
    elapsed = time.monotonic() - started
    return done / elapsed, handed_over / elapsed


async def measure(make: MakeLock, scenarios: list[str]) -> dict[str, float]:
    await pairs(make, ["warm"])
    return {scenario: await figure(make, scenario) for scenario in scenarios}


async def figure(make: MakeLock, scenario: str) -> float:
    kind, _, tasks = scenario.partition(":")
    if kind == "one":
        return 1e6 / (await pairs(make, ["one"]))[0]
    if kind == "keys":
        return (await pairs(make, [f"key-{n}" for n in range(int(tasks))]))[0]
    if kind == "hot":
        return (await pairs(make, ["hot"] * int(tasks)))[1]
    raise ValueError(f"no scenario {scenario}")


async def main(contender: str, url: str, *scenarios: str) -> dict[str, float]:
    if contender == "dlock":
        async with dlock.Client(url) as client:
            return await measure(lambda key: client.lock(key, ttl=30), [*scenarios])
    async with redis.asyncio.Redis.from_url(url, max_connections=1000) as server:
        return await measure(lambda key: server.lock(key, timeout=30), [*scenarios])


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
