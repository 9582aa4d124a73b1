"""Rule 5: a lease that nobody can reach any more is given back, with a `ResourceWarning`."""

import asyncio
import gc

import pytest

import dlock
from polling import eventually, until


def test_r05_a_dropped_lease_is_given_back_with_a_warning(url: str, key: str) -> None:
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
        await eventually(lambda: is_free(client), "the dropped lease is given back")
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
    until(lambda: not client.is_locked(key), "the dropped lease is given back")
