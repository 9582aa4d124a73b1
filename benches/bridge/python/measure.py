"""Measures both ways from a tokio task to an asyncio future, in turns; prints µs per operation, one list per way.

Usage: measure.py LIBRARY ROUNDS IN_FLIGHT
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader

OPERATIONS = 20_000  # a round


def load(library: str):
    loader = ExtensionFileLoader("bridge_python", library)
    native = module_from_spec(spec_from_loader("bridge_python", loader))
    loader.exec_module(native)
    return native


class CompletionQueue:
    def __init__(self, native) -> None:
        self.loop = asyncio.get_running_loop()
        self.completions = native.Completions()
        self.pending: dict[int, asyncio.Future[None]] = {}
        self.last = 0
        self.loop.add_reader(self.completions.fileno(), self.settle)

    def call(self) -> asyncio.Future[None]:
        self.last += 1
        future = self.pending[self.last] = self.loop.create_future()
        self.completions.start(self.last)
        return future

    def settle(self) -> None:
        for number in self.completions.drain():
            self.pending.pop(number).set_result(None)

    def close(self) -> None:
        self.loop.remove_reader(self.completions.fileno())


async def one_round(call: Callable[[], Awaitable[None]], in_flight: int) -> float:
    async def task() -> None:
        for _ in range(OPERATIONS // in_flight):
            await call()

    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(in_flight):
            tasks.create_task(task())
    return (time.perf_counter() - started) / OPERATIONS * 1e6


async def main(library: str, rounds: int, in_flight: int) -> None:
    native = load(library)
    queue = CompletionQueue(native)
    ways = {"library": native.by_library, "queue": queue.call}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, call in ways.items():
            micros = await one_round(call, in_flight)
            if number > 0:  # the first warms up
                taken[name].append(micros)
    queue.close()
    print(json.dumps(taken))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
