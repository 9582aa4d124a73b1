"""Rule 5: a lease that nobody can reach any more is released, with a `ResourceWarning`."""

import asyncio
import gc
import threading
from contextlib import suppress

import pytest

import dlock
from polling import eventually, until


def test_r05_a_dropped_lease_is_released_with_a_warning(url: str, key: str) -> None:
    async def is_free(client: dlock.Client) -> bool:
        return not await client.is_locked(key)

    async def main() -> None:
        client = dlock.Client(url)
        lock = client.lock(key)
        lease = await lock.acquire()
        del lock
        gc.collect()
        assert lease.valid
        with pytest.warns(ResourceWarning, match=f"token {lease.token}"):
            del lease
        await eventually(lambda: is_free(client), "the dropped lease is released")
        await client.close()

    asyncio.run(main())


def test_r05_a_discarded_result_stays_held_through_its_lock(key: str) -> None:
    async def main() -> None:
        client = dlock.Client("memory:")
        lock = client.lock(key)
        await lock.acquire()
        gc.collect()
        assert await client.is_locked(key)
        assert await lock.release() is True
        await lock.acquire()
        with pytest.warns(ResourceWarning, match=key):
            del lock

    asyncio.run(main())


def test_r05_the_same_for_sync(key: str) -> None:
    client = dlock.sync.Client("memory:")
    lease = client.lock(key).acquire()
    assert lease.valid
    with pytest.warns(ResourceWarning, match=key):
        del lease
    until(lambda: not client.is_locked(key), "the dropped lease is released")


@pytest.mark.parametrize("fails", [True, False])
def test_r05_a_lease_is_released_when_its_task_has_ended_though_its_lock_lives_on(url: str, key: str, fails: bool) -> None:
    async def is_free(client: dlock.Client) -> bool:
        return not await client.is_locked(key)

    async def main() -> None:
        client = dlock.Client(url)
        lock = client.lock(key, ttl=2)
        taken, go_on = asyncio.Event(), asyncio.Event()

        async def job() -> None:
            if fails:
                lease = await lock.acquire()
                assert lease.valid
                raise ValueError
            await lock.acquire()
            taken.set()
            await go_on.wait()

        async def ends() -> None:
            task = asyncio.create_task(job())
            if not fails:
                await taken.wait()
                gc.collect()
                # The task may still release its lock.
                assert await client.is_locked(key)
                go_on.set()
            with suppress(ValueError):
                await task
            del task
            await eventually(lambda: is_free(client), "the discarded lease is released")

        with pytest.warns(ResourceWarning, match=key):
            await ends()
        async with lock:
            pass
        await client.close()

    asyncio.run(main())


def test_r05_the_same_for_threads(key: str) -> None:
    client = dlock.sync.Client("memory:")
    lock = client.lock(key)
    kept = []

    def discards() -> None:
        lock.acquire()
        assert client.is_locked(key)

    def fails_to_keep() -> None:
        kept.append(lock.acquire())

    def ends() -> None:
        thread = threading.Thread(target=discards)
        thread.start()
        thread.join()
        until(lambda: not client.is_locked(key), "the discarded lease is released")

    with pytest.warns(ResourceWarning, match=key):
        ends()
    thread = threading.Thread(target=fails_to_keep)
    thread.start()
    thread.join()
    # Somebody has it.
    assert kept[0].valid
    with pytest.warns(ResourceWarning, match=key):
        kept.clear()
    until(lambda: not client.is_locked(key), "the lease is released when it is discarded at last")
    lock.acquire()
    gc.collect()
    assert client.is_locked(key)
    assert lock.release() is True


def test_r05_a_lease_that_is_stored_elsewhere_outlives_its_task(key: str) -> None:
    async def main() -> None:
        client = dlock.Client("memory:")
        lock = client.lock(key)
        kept = await asyncio.create_task(lock.acquire())
        gc.collect()
        await asyncio.sleep(0)
        assert kept.valid
        assert await lock.release() is True

    asyncio.run(main())
