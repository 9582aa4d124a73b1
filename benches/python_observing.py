"""What it costs to look, in Python: pairs a second with observers and scrapes, and without, in turns.

Usage: python_observing.py URL ROUNDS
"""

import asyncio
import json
import sys
import time
from typing import get_args

import dlock
from dlock._observe import EventName

HELD = 10_000
TASKS = 500
SECONDS = 2.0


async def pairs_a_second(client: dlock.Client) -> tuple[float, float]:
    """Pairs a second, and the microseconds of CPU time, of all threads, that a pair takes."""
    started, used = time.monotonic(), time.process_time()

    async def task(number: int) -> int:
        lock, done = client.lock(f"cycle-{number}"), 0
        while time.monotonic() - started < SECONDS:
            async with lock:
                done += 1
        return done

    done = sum(await asyncio.gather(*(task(number) for number in range(TASKS))))
    return done / (time.monotonic() - started), (time.process_time() - used) * 1e6 / done


async def observed(client: dlock.Client, heard: list[int]) -> tuple[float, float]:
    def count(_event: dlock.Event) -> None:
        heard[0] += 1

    async def scrape() -> None:
        while True:
            await asyncio.sleep(1)
            assert client.metrics()

    ends = [client.on(name, count) for name in get_args(EventName)]
    scraping = asyncio.create_task(scrape())
    rate = await pairs_a_second(client)
    scraping.cancel()
    for end in ends:
        end()
    return rate


async def main(url: str, rounds: int) -> dict[str, object]:
    async with dlock.Client(url) as client:
        held = await asyncio.gather(*(client.lock(f"held-{number}", ttl=9).acquire() for number in range(HELD)))
        await pairs_a_second(client)
        off, on, heard = [], [], [0]
        for _ in range(rounds):
            off.append(await pairs_a_second(client))
            on.append(await observed(client, heard))
        assert all(lease.valid for lease in held)
        return {"off": off, "on": on, "events": heard[0], "dropped": client.stats().dropped_events}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], int(sys.argv[2])))))
