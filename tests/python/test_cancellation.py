"""Rule 10: a call may be cancelled at any await, and nothing stays behind."""

import asyncio
import random

import pytest

import dlock
from polling import eventually

ATTEMPTS = 1000
AT_ONCE = 50


def test_r10_1000_cancelled_attempts_leave_no_key_and_no_waiter(url: str, key: str) -> None:
    seeded = random.Random(10)

    async def attempt(client: dlock.Client, name: str, moment: float) -> None:
        async with client.lock(name, ttl=30), asyncio.timeout(seeded.random() * 0.002):
            await asyncio.sleep(moment)

    async def cancelled(client: dlock.Client) -> None:
        name, moment = f"{key}:{seeded.randrange(8)}", seeded.random() * 0.02
        task = asyncio.create_task(attempt(client, name, moment / 10))
        for _ in range(seeded.randrange(4)):
            await asyncio.sleep(0)
        if seeded.random() < 0.7:
            await asyncio.sleep(moment)
        task.cancel()
        await asyncio.wait([task])

    async def is_clean(client: dlock.Client) -> bool:
        left = [await client.inspect(f"{key}:{number}") for number in range(8)]
        return not any(found.holder or found.queue for found in left)

    async def main() -> None:
        clients = [dlock.Client(url), dlock.Client(url)]
        for _ in range(ATTEMPTS // AT_ONCE):
            await asyncio.gather(*(cancelled(seeded.choice(clients)) for _ in range(AT_ONCE)))
        await eventually(lambda: is_clean(clients[0]), "no key and no waiter is left", patience=1.0)
        for client in clients:
            await client.close()

    asyncio.run(main())


def test_r04_a_grant_for_a_caller_cancelled_in_the_same_step_is_released(key: str) -> None:
    async def main() -> None:
        client = dlock.Client("memory:")
        errors = []
        for _ in range(200):
            task = asyncio.create_task(client.lock(key, ttl=30).acquire())
            # Cancelled as soon as the answer is in the future, before the task has seen it.
            while not (waiting := task._fut_waiter) or not waiting.done():
                await asyncio.sleep(0)
                if task.done():
                    break
            task.cancel()
            try:
                lease = await task
            except asyncio.CancelledError as error:
                errors.append(error)  # keeps the tracebacks, and all that hangs on them
            else:
                await lease.release()
            await eventually(lambda: is_free(client), "the grant is released", patience=1.0)

    async def is_free(client: dlock.Client) -> bool:
        return not await client.is_locked(key)

    asyncio.run(main())


@pytest.mark.parametrize("url", ["memory", "redis", "etcd"], indirect=True)  # the backends that show their queue
def test_r10_a_cancelled_waiter_leaves_the_queue_of_a_held_key(url: str, key: str) -> None:
    async def main() -> None:
        holder, other = dlock.Client(url), dlock.Client(url)

        async def waiters() -> int:
            return len((await holder.inspect(key)).queue)

        async def queued() -> bool:
            return await waiters() == 1

        async def left() -> bool:
            return await waiters() == 0

        async with holder.lock(key, ttl=30) as lease:
            waiting = asyncio.create_task(other.lock(key, ttl=30).acquire())
            await eventually(queued, "the waiter is queued")
            waiting.cancel()
            await asyncio.wait([waiting])
            await eventually(left, "the waiter has left", patience=1.0)
            assert lease.valid
        await holder.close()
        await other.close()

    asyncio.run(main())


def test_r05_a_cancelled_release_goes_on(url: str, key: str) -> None:
    async def main() -> None:
        client = dlock.Client(url)
        lease = await client.lock(key).acquire()
        release = asyncio.create_task(lease.release())
        await asyncio.sleep(0)
        release.cancel()
        await asyncio.wait([release])
        again = await client.lock(key).acquire(wait=1)
        await again.release()
        await client.close()

    asyncio.run(main())
