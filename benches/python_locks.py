"""One contender of the comparison, in Python: prints its figures as JSON. Usage: python_locks.py dlock|redis-py URL"""

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


async def pairs(make: MakeLock, keys: list[str]) -> float:
    """Pairs a second of one task for each entry of `keys`, all going at once."""
    end = time.monotonic() + SECONDS

    async def task(key: str) -> int:
        lock, done = make(key), 0
        while time.monotonic() < end:
            async with lock:
                pass
            done += 1
        return done

    started = time.monotonic()
    done = await asyncio.gather(*(task(key) for key in keys))
    return sum(done) / (time.monotonic() - started)


async def measure(make: MakeLock) -> dict[str, float]:
    await pairs(make, ["warm"])
    return {
        "sequential": 1e6 / await pairs(make, ["one"]),
        "distinct": await pairs(make, [f"key-{n}" for n in range(500)]),
        "hot": await pairs(make, ["hot"] * 20),
    }


async def main(contender: str, url: str) -> dict[str, float]:
    if contender == "dlock":
        async with dlock.Client(url) as client:
            return await measure(lambda key: client.lock(key, ttl=30))
    async with redis.asyncio.Redis.from_url(url) as server:
        return await measure(lambda key: server.lock(key, timeout=30))


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2]))))
