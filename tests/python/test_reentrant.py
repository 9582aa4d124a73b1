"""`reentrant=True`: the same lock object in the same task or thread."""

import asyncio
import threading

import pytest

import dlock
from dlock import sync
from polling import eventually

FOREVER = 60.0


def test_bodies_and_acquires_nest_in_any_way(url: str, key: str) -> None:
    async def main() -> None:
        async with dlock.Client(url) as client:
            lock = client.lock(key, reentrant=True)
            async with lock as outer:
                async with lock as inner:
                    assert inner is outer
                assert outer.valid
                assert await lock.acquire() is outer
                assert await lock.try_acquire() is outer
                assert await outer.release()
                assert await lock.release()
                assert outer.valid
                assert await client.is_locked(key)
            assert not await client.is_locked(key)
            assert outer.status == "released"
            bare = await lock.acquire()
            async with lock:
                pass
            assert bare.valid
            assert await bare.release()
            assert not await client.is_locked(key)

    asyncio.run(main())


def test_another_task_another_object_and_another_lock_wait(key: str) -> None:
    async def main() -> None:
        async with dlock.Client(f"memory:{key}") as client:
            lock = client.lock("k", reentrant=True)
            async with lock:
                async with asyncio.TaskGroup() as group:
                    other = group.create_task(lock.try_acquire())
                assert other.result() is None
                assert await client.lock("k", reentrant=True).try_acquire() is None
                assert await client.lock("k").try_acquire() is None

    asyncio.run(main())


def test_r02_a_loss_ends_all_bodies_and_is_told_by_the_outermost(key: str) -> None:
    async def main() -> None:
        lock = dlock.Client(f"memory:{key}").lock("k", reentrant=True, max_hold=0.1)
        seen = []
        with pytest.raises(dlock.LockLost):
            async with lock:
                try:
                    async with lock:
                        await asyncio.sleep(FOREVER)
                except asyncio.CancelledError:
                    seen.append("cancelled")
                    raise
        assert seen == ["cancelled"]
        assert asyncio.current_task().cancelling() == 0
        async with lock as next_lease:
            assert next_lease.valid

    asyncio.run(main())


def test_r02_an_inner_release_does_not_end_the_watch_over_the_body(key: str) -> None:
    async def main() -> None:
        lock = dlock.Client(f"memory:{key}").lock("k", reentrant=True, max_hold=0.15)
        with pytest.raises(dlock.LockLost):
            async with lock:
                lease = await lock.acquire()
                await lease.release()
                await asyncio.sleep(FOREVER)

    asyncio.run(main())


def test_r02_a_body_inside_a_bare_lease_is_cancelled(key: str) -> None:
    async def main() -> None:
        lock = dlock.Client(f"memory:{key}").lock("k", reentrant=True, max_hold=0.1)
        lease = await lock.acquire()
        with pytest.raises(dlock.LockLost):
            async with lock:
                await asyncio.sleep(FOREVER)
        assert await lease.wait_lost() == "max_hold"
        assert not await lease.release()

    asyncio.run(main())


def test_r05_a_lease_entered_more_often_than_released_is_released_with_its_last_handle(key: str) -> None:
    async def main() -> None:
        client = dlock.Client(f"memory:{key}")
        lock = client.lock("k", reentrant=True)
        async with lock:
            await lock.acquire()
        assert await client.is_locked("k")
        with pytest.warns(ResourceWarning):
            del lock

        async def free() -> bool:
            return not await client.is_locked("k")

        await eventually(free, "the key is released")

    asyncio.run(main())


def test_threads_enter_again_and_exclude_each_other(url: str, key: str) -> None:
    with sync.Client(url) as client:
        lock = client.lock(key, reentrant=True)
        with lock as outer:
            with lock as inner:
                assert inner is outer
            assert lock.acquire() is outer
            assert outer.release()
            assert outer.valid
            others = []
            thread = threading.Thread(target=lambda: others.append(lock.try_acquire()))
            thread.start()
            thread.join()
            assert others == [None]
        assert not client.is_locked(key)


def test_r09_a_thread_with_the_number_of_one_that_has_ended_is_another_one(key: str) -> None:
    lock = sync.Client(f"memory:{key}").lock("k", reentrant=True)
    tries: list[tuple[int, sync.Lease | None]] = []

    def attempt() -> None:
        tries.append((threading.get_ident(), lock.try_acquire()))

    # The system gives a number away again soon.
    while len({number for number, _ in tries}) == len(tries) < 1000:
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert len(tries) < 1000, "no number was used again"
    leases = [lease for _, lease in tries]
    assert leases[0] is not None
    assert set(leases[1:]) == {None}
    leases[0].release()
