"""Rule 4: what runs while outcomes are delivered (observers, the end of a body by a loss) strands none of them."""

import asyncio
import time
from typing import Any

import pytest

import dlock
from polling import eventually

# Leases that the engine ends by itself while the event loop is busy: the outer one first, then the one that is waited for.
OUTER, HOLDER, BUSY = 0.3, 0.7, 1.1


def busy(seconds: float) -> None:
    """Keeps the event loop from running."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


async def free(client: dlock.Client, key: str) -> None:
    async def is_free() -> bool:
        return not await client.is_locked(key)

    await eventually(is_free, "the grant that nobody got is released")
    assert client.stats().held == 0


async def waiting(client: dlock.Client) -> None:
    await eventually(lambda: asyncio.sleep(0, client.stats().waiting == 1), "the acquire waits")


def test_r04_a_grant_for_a_body_that_is_lost_in_the_same_drain_is_released(url: str, key: str) -> None:
    async def main() -> None:
        async with dlock.Client(url) as client, dlock.Client(url) as other:
            holder = await other.lock(key, max_hold=HOLDER).acquire()

            async def body() -> None:
                async with client.lock(f"outer {key}", max_hold=OUTER):
                    await client.lock(key).acquire()

            task = asyncio.ensure_future(body())
            await waiting(client)
            busy(BUSY)
            with pytest.raises(dlock.LockLost):
                await task
            assert holder.lost
            await free(client, key)

    asyncio.run(main())


def test_r04_a_grant_whose_task_an_observer_cancels_in_the_same_drain_is_released(url: str, key: str) -> None:
    async def main() -> None:
        async with dlock.Client(url) as client, dlock.Client(url) as other:
            ended = [await other.lock(key, max_hold=HOLDER).acquire(), await client.lock(f"outer {key}", max_hold=OUTER).acquire()]
            task = asyncio.ensure_future(client.lock(key).acquire())
            client.on("lost", lambda _event: task.cancel())
            await waiting(client)
            busy(BUSY)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert all(lease.lost for lease in ended)
            await free(client, key)

    asyncio.run(main())


class Overdue(BaseException):
    """As the time limits of job queues and test runners are: raised by a signal handler, or wherever it is noticed."""


def test_r04_what_an_observer_raises_does_not_lose_the_outcomes_that_came_with_it(url: str, key: str) -> None:
    reported: list[Any] = []

    def observe(_event: dlock.Event) -> None:
        raise Overdue

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context.get("exception")))
        async with dlock.Client(url) as client:
            client.on("acquired", observe)
            tasks = [asyncio.ensure_future(client.lock(f"{key} {number}").acquire()) for number in range(30)]
            await asyncio.sleep(0)
            busy(0.5)
            leases = await asyncio.wait_for(asyncio.gather(*tasks), 10)
            assert all(lease.valid for lease in leases)
            await asyncio.wait_for(asyncio.gather(*(lease.release() for lease in leases)), 10)
            assert client.stats().held == 0

    asyncio.run(main())
    assert reported
    assert {type(error) for error in reported} == {Overdue}
