"""Rule 2: a loss is pushed, and cancels the body the way `asyncio.timeout()` does."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest

import dlock

SHORT = 0.1
FOREVER = 60.0


@contextlib.asynccontextmanager
async def short_lived(**options: float) -> AsyncIterator[dlock.Lock]:
    """A lock whose leases are lost after 0.1 s, whatever happens."""
    async with dlock.Client("memory:") as client:
        yield client.lock("k", max_hold=SHORT, **options)


def test_r02_loss_cancels_the_body_within_50_ms() -> None:
    async def main() -> None:
        async with short_lived() as lock:
            with pytest.raises(dlock.LockLost) as lost:
                async with lock:
                    started = time.monotonic()
                    await asyncio.sleep(FOREVER)
            assert time.monotonic() - started < SHORT + 0.05
            assert lost.value.reason == "max_hold"
            assert asyncio.current_task().cancelling() == 0

    asyncio.run(main())


def test_r02_a_lease_taken_away_cancels_the_body(url: str, key: str) -> None:
    async def main() -> None:
        client = dlock.Client(url)
        with pytest.raises(dlock.LockLost) as lost:
            async with client.lock(key, ttl=2) as lease:
                assert await client.force_release(key, lease.token)
                await asyncio.sleep(FOREVER)
        assert lost.value.reason == "gone"
        await client.close()

    asyncio.run(main())


def test_r02_a_bare_lease_used_as_a_scope_cancels_as_well() -> None:
    async def main() -> None:
        async with short_lived() as lock:
            lease = await lock.acquire()
            with pytest.raises(dlock.LockLost):
                async with lease:
                    await asyncio.sleep(FOREVER)
            lease = await lock.acquire()
            await lease.wait_lost()  # a loss outside a scope cancels nobody
            await lease.release()

    asyncio.run(main())


def test_r02_a_swallowed_cancellation_still_ends_in_lock_lost() -> None:
    async def main() -> None:
        async with short_lived() as lock:
            with pytest.raises(dlock.LockLost):
                async with lock:
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(FOREVER)
            await asyncio.sleep(0)
            assert asyncio.current_task().cancelling() == 0

    asyncio.run(main())


def test_r02_another_cancellation_wins() -> None:
    async def body(lock: dlock.Lock) -> None:
        async with lock:
            try:
                await asyncio.sleep(FOREVER)
            except asyncio.CancelledError:
                asyncio.current_task().cancel()
                raise

    async def main() -> None:
        async with short_lived() as lock:
            task = asyncio.create_task(body(lock))
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()

    asyncio.run(main())


def test_r02_an_exception_of_the_body_wins_over_the_loss() -> None:
    async def main() -> None:
        async with short_lived() as lock:
            with pytest.raises(KeyError):
                async with lock:
                    try:
                        await asyncio.sleep(FOREVER)
                    except asyncio.CancelledError:
                        raise KeyError from None
            assert asyncio.current_task().cancelling() == 0

    asyncio.run(main())


@pytest.mark.parametrize("outer", [True, False])
def test_r02_composes_with_asyncio_timeout(outer: bool) -> None:
    async def main() -> None:
        async with short_lived() as lock:
            # The longer one around or inside the shorter: the one that fires is the one that is reported.
            if outer:
                with pytest.raises(dlock.LockLost):
                    async with asyncio.timeout(FOREVER), lock:
                        await asyncio.sleep(FOREVER)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(SHORT / 2), lock:
                        await asyncio.sleep(FOREVER)
            else:
                with pytest.raises(dlock.LockLost):
                    async with lock, asyncio.timeout(FOREVER):
                        await asyncio.sleep(FOREVER)
                with pytest.raises(TimeoutError):
                    async with lock, asyncio.timeout(SHORT / 2):
                        await asyncio.sleep(FOREVER)
            assert asyncio.current_task().cancelling() == 0

    asyncio.run(main())


def test_r02_both_at_once_end_in_the_outer_ones_error() -> None:
    async def main() -> None:
        async with short_lived() as lock:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as outer, lock:
                    try:
                        await asyncio.sleep(FOREVER)
                    except asyncio.CancelledError:
                        outer.reschedule(0)
                        with contextlib.suppress(asyncio.CancelledError):
                            await asyncio.sleep(FOREVER)
                        raise
            assert asyncio.current_task().cancelling() == 0

    asyncio.run(main())


def test_r02_composes_with_task_groups() -> None:
    async def main() -> None:
        ended = []

        async def child() -> None:
            try:
                await asyncio.sleep(FOREVER)
            finally:
                ended.append(True)

        async with short_lived() as lock:
            with pytest.raises(dlock.LockLost):
                async with lock, asyncio.TaskGroup() as group:
                    group.create_task(child())
                    group.create_task(child())
            assert ended == [True, True]
            with pytest.raises(ExceptionGroup) as several:
                async with asyncio.TaskGroup() as group:
                    group.create_task(child())
                    async with lock:
                        await asyncio.sleep(FOREVER)
            assert several.group_contains(dlock.LockLost)

    asyncio.run(main())


def test_r02_nothing_is_cancelled_inside_aexit(private_redis: object) -> None:
    async def main() -> None:
        client = dlock.Client(private_redis.url)
        async with client.lock("k", ttl=10, max_hold=0.3, op_timeout=1):
            freeze = private_redis.frozen()
            freeze.__enter__()
        # The release waited past max_hold without being cancelled, and gave no error.
        freeze.__exit__(None, None, None)
        await client.close()

    asyncio.run(main())


def test_on_lost_raise_and_ignore() -> None:
    async def main() -> None:
        async with short_lived(on_lost="raise") as lock:
            with pytest.raises(dlock.LockLost):
                async with lock as lease:
                    await lease.wait_lost()
                    await asyncio.sleep(0.01)
        async with short_lived(on_lost="ignore") as lock, lock as lease:
            assert await lease.wait_lost() == "max_hold"

    asyncio.run(main())


PAUSED = """
import asyncio, sys, dlock
steps = 0
async def main():
    global steps
    client = dlock.Client(sys.argv[1])
    try:
        async with client.lock("paused", ttl=0.5) as lease:
            print("held", lease.token, flush=True)
            while True:
                await asyncio.sleep(0.001)
                if not lease.valid:
                    steps += 1
    except dlock.LockLost as lost:
        print("lost", lost.reason, steps, lease.valid, flush=True)
asyncio.run(main())
"""


def test_r02_after_a_pause_the_body_takes_no_other_step(private_redis: object) -> None:
    with subprocess.Popen([sys.executable, "-c", PAUSED, private_redis.url], stdout=subprocess.PIPE, text=True) as paused:
        token = int(paused.stdout.readline().split()[1])
        os.kill(paused.pid, signal.SIGSTOP)
        with dlock.sync.Client(private_redis.url) as client, client.lock("paused", wait=5) as lease:
            assert lease.token > token
            os.kill(paused.pid, signal.SIGCONT)
            words = paused.stdout.readline().split()
    assert words[0] == "lost"
    assert words[2:] == ["0", "False"]


def test_r11_a_blocked_loop_keeps_its_lock_for_5_ttls(url: str, key: str, short_ttl: float) -> None:
    async def main() -> None:
        client = dlock.Client(url)
        async with client.lock(key, ttl=short_ttl) as lease:
            time.sleep(5 * short_ttl)
            assert lease.valid
            await asyncio.sleep(0.01)
            assert await client.is_locked(key)
        assert lease.status == "released"
        await client.close()

    asyncio.run(main())


def test_r02_a_grant_that_ran_out_before_it_was_delivered_is_no_lease() -> None:
    async def main() -> None:
        held = await dlock.Client("memory:late").lock("k").acquire()
        client = dlock.Client("memory:late")
        lock = client.lock("k", ttl=0.1, renew=False)
        acquire = asyncio.create_task(lock.acquire())
        while client.stats().waiting == 0:
            assert not acquire.done()
            await asyncio.sleep(0)
        release = held.release()
        time.sleep(0.2)
        with pytest.raises(dlock.LockLost):
            await acquire
        assert await release
        lease = await lock.acquire(wait=1)
        await lease.release()

    asyncio.run(main())
