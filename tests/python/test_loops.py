"""One queue per event loop: many loops, other loops, loops in threads, loops that cannot watch descriptors, and none at all."""

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

import dlock
from polling import until


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def use(client: dlock.Client, key: str) -> None:
    async with client.lock(key) as lease:
        assert lease.valid


def test_1000_runs_leave_no_descriptor(key: str) -> None:
    client = dlock.Client("memory:")
    asyncio.run(use(client, key))
    before = descriptors()
    gc.disable()
    try:
        for _ in range(1000):
            asyncio.run(use(client, key))
            # One may be on its way: an engine thread that has just pushed the last answer still lets go of the queue.
            assert descriptors() <= before + 1
        until(lambda: descriptors() <= before, "every descriptor is closed")
    finally:
        gc.enable()


def test_a_loop_closed_with_calls_in_flight_gives_them_back(key: str) -> None:
    client = dlock.Client("memory:")
    before = descriptors()
    for _ in range(20):
        loop = asyncio.new_event_loop()
        held = loop.run_until_complete(client.lock(key).acquire())
        waiting = loop.create_task(client.lock(key, ttl=30).acquire())
        loop.run_until_complete(asyncio.sleep(0))
        waiting._log_destroy_pending = False
        loop.close()
        del waiting, loop
        gc.collect()
        asyncio.run(held.release())
    asyncio.run(use(client, key))
    until(lambda: descriptors() <= before, "every descriptor is closed")


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_loops_of_all_kinds(run: Callable[[Coroutine[Any, Any, None]], None], url: str, key: str) -> None:
    async def main() -> None:
        client = dlock.Client(url)
        await asyncio.gather(*(use(client, f"{key}:{number % 20}") for number in range(200)))
        with pytest.raises(dlock.LockLost):
            async with client.lock(key, max_hold=0.1):
                await asyncio.sleep(60)
        await client.close()

    run(main())


def test_uvloop_leaves_no_descriptor(key: str) -> None:
    client = dlock.Client("memory:")
    uvloop.run(use(client, key))
    gc.collect()
    before = descriptors()
    for _ in range(100):
        uvloop.run(use(client, key))
    gc.collect()
    until(lambda: descriptors() <= before, "every descriptor is closed")


def test_loops_in_several_threads_share_a_client(key: str) -> None:
    client = dlock.Client("memory:")
    counter = 0

    async def count() -> None:
        nonlocal counter
        for _ in range(50):
            async with client.lock(key):
                seen = counter
                await asyncio.sleep(0)
                counter = seen + 1

    threads = [threading.Thread(target=asyncio.run, args=(count(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter == 200


class BlindLoop(asyncio.SelectorEventLoop):
    """A loop that cannot watch descriptors, as on some platforms and in some frameworks."""

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        raise NotImplementedError


def test_a_loop_without_add_reader(key: str) -> None:
    client = dlock.Client("memory:")
    with asyncio.Runner(loop_factory=BlindLoop) as runner:
        runner.run(use(client, key))
        runner.run(use(client, key))


def test_outside_asyncio_the_error_is_clear(key: str) -> None:
    attempt = dlock.Client("memory:").lock(key).acquire()
    with pytest.raises(dlock.LockError, match=r"no running asyncio event loop.*dlock\.sync"):
        attempt.send(None)
