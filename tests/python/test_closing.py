"""Rule 14: while a client closes, a holder of its leases, and what it started, may acquire more; everybody else is refused."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

import dlock
from dlock import sync
from polling import eventually, until

LONG = 30.0


async def refused(work: Callable[[], Awaitable[object]]) -> None:
    """By a task of which no holder knows: in a context of its own."""

    async def main() -> None:
        with pytest.raises(dlock.ClientClosed):
            await work()

    await asyncio.create_task(main(), context=contextvars.Context())


@asynccontextmanager
async def closing(client: dlock.Client, timeout: float = LONG) -> AsyncIterator[asyncio.Task[None]]:
    """The body runs while the client drains; afterwards that ends by itself."""

    async def asked() -> bool:
        try:
            await client.is_locked("k")
        except dlock.ClientClosed:
            return True
        return False

    task = asyncio.create_task(client.close(timeout))
    await eventually(lambda: asyncio.create_task(asked(), context=contextvars.Context()), "closing has begun")
    yield task
    await task


async def waits(client: dlock.Client, count: int) -> None:
    async def all_wait() -> bool:
        return client.stats().waiting == count

    await eventually(all_wait, "all wait")


def test_r14_a_body_that_needs_a_second_key_gets_it_while_its_client_closes(url: str, key: str) -> None:
    async def main() -> None:
        client = dlock.Client(url)
        lock = client.lock(key)
        entered = asyncio.Event()
        go_on = asyncio.Event()

        async def transfer() -> bool:
            async with lock as first:
                entered.set()
                await go_on.wait()
                assert await client.is_locked(key)
                async with client.lock(key + "b") as second, client.lock(key + "c", retry=dlock.Retry(max_retries=1)) as third:
                    fourth = await client.lock(key + "d").try_acquire()
                    assert fourth is not None
                    await first.extend(20)
                    return first.valid and second.valid and third.valid and await fourth.release()

        body = asyncio.create_task(transfer())
        await entered.wait()
        async with closing(client) as closed:
            await refused(client.lock(key + "b").acquire)
            await refused(client.lock(key + "b").try_acquire)
            await refused(lambda: client.inspect(key))
            go_on.set()
            assert await body
        assert closed.done()
        await refused(client.lock(key).acquire)

    asyncio.run(main())


def test_r14_what_a_holder_started_may_acquire_more_as_well(key: str) -> None:
    async def main() -> None:
        client = dlock.Client("memory:")
        plain = sync.Client._sharing(client)

        def in_a_thread() -> bool:
            with plain.lock(key + "thread") as lease:
                return lease.valid

        async def in_a_task() -> bool:
            async with client.lock(key + "task") as lease:
                return lease.valid

        @dlock.Client.locked(client, key + "decorated")
        async def decorated() -> bool:
            return await asyncio.to_thread(in_a_thread)

        async with closing_holder(client, key), asyncio.TaskGroup() as group:
            children = [group.create_task(in_a_task()), group.create_task(decorated())]
        assert all(child.result() for child in children)

    @asynccontextmanager
    async def closing_holder(client: dlock.Client, key: str) -> AsyncIterator[None]:
        async with client.lock(key):
            task = asyncio.create_task(client.close(LONG))
            yield
        await task

    asyncio.run(main())


def test_r14_siblings_of_a_holder_are_outsiders(key: str) -> None:
    async def main() -> None:
        client = dlock.Client("memory:")
        # The parent of both has asked before, and holds nothing.
        async with client.lock(key + "parent"):
            pass
        entered, leave = asyncio.Event(), asyncio.Event()

        async def holder() -> None:
            async with client.lock(key):
                entered.set()
                await leave.wait()

        async def outsider() -> None:
            await leave_with_error()

        async def leave_with_error() -> None:
            with pytest.raises(dlock.ClientClosed):
                await client.lock(key + "b").acquire()

        task = asyncio.create_task(holder())
        await entered.wait()
        async with closing(client):
            await asyncio.create_task(outsider())
            leave.set()
        await task

    asyncio.run(main())


def test_r14_who_waits_and_holds_goes_on_and_who_waits_and_holds_nothing_is_refused(url: str, key: str) -> None:
    async def main() -> None:
        client, other = dlock.Client(url), dlock.Client(url)
        foreign = await other.lock(key + "b").acquire()
        outsider = asyncio.create_task(client.lock(key + "b").acquire(), context=contextvars.Context())
        await waits(client, 1)

        async def nested() -> bool:
            async with client.lock(key), client.lock(key + "b") as second:
                return second.valid

        holder = asyncio.create_task(nested())
        await waits(client, 2)
        async with closing(client):
            with pytest.raises(dlock.ClientClosed):
                await outsider
            assert not holder.done()
            assert await foreign.release()
            assert await holder
        await other.close()

    asyncio.run(main())


def test_r14_at_the_deadline_who_still_waits_is_refused(key: str) -> None:
    async def main() -> None:
        url = f"memory:{key}"
        client, other = dlock.Client(url), dlock.Client(url)
        foreign = await other.lock(key).acquire()

        async def nested() -> None:
            async with client.lock("a", on_lost="ignore"):
                await client.lock(key).acquire()

        body = asyncio.create_task(nested())
        await waits(client, 1)
        await client.close(0.2)
        with pytest.raises(dlock.ClientClosed):
            await body
        assert await foreign.release()
        assert not await other.is_locked(key)
        assert not (await other.inspect(key)).queue

    asyncio.run(main())


def test_r14_a_thread_that_holds_acquires_more_and_so_does_one_that_runs_in_its_context(key: str) -> None:
    client = sync.Client("memory:")
    found: list[object] = []

    def work() -> None:
        try:
            with client.lock(key + "b") as lease:
                found.append(lease.valid)
        except dlock.ClientClosed as error:
            found.append(error.code)

    def begun() -> bool:
        thread = threading.Thread(target=contextvars.Context().run, args=(work,))
        thread.start()
        thread.join()
        return found[-1] == "CLIENT_CLOSED"

    with client.lock(key):
        close = threading.Thread(target=client.close, args=(LONG,))
        close.start()
        until(begun, "closing has begun")
        found.clear()
        work()
        thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
        thread.start()
        thread.join()
        assert found == [True, True]
    close.join()
    with pytest.raises(dlock.ClientClosed):
        client.lock(key).acquire()


def test_r16_who_waits_in_vain_for_whoever_started_it_is_warned_once(key: str) -> None:
    async def main() -> None:
        client = dlock.Client("memory:")
        lock = client.lock(key, reentrant=True, wait=0.05)
        for _ in range(2):
            async with lock:
                with pytest.warns(RuntimeWarning, match="possible deadlock"), pytest.raises(dlock.AcquireTimeout):
                    await asyncio.create_task(lock.acquire())
                with pytest.raises(dlock.AcquireTimeout):
                    await asyncio.create_task(lock.acquire())
        plain = sync.Client._sharing(client).lock(key, wait=0.05)
        async with lock:
            with pytest.warns(RuntimeWarning, match="possible deadlock"), pytest.raises(dlock.AcquireTimeout):
                await asyncio.to_thread(plain.acquire)

    asyncio.run(main())


def test_r16_what_a_holder_started_may_wait_until_it_is_done_without_a_word(key: str) -> None:
    async def main() -> None:
        client = dlock.Client("memory:")
        async with client.lock(key):
            waiting = asyncio.create_task(client.lock(key, wait=LONG).acquire())
            await asyncio.sleep(0.05)
        lease = await waiting
        assert await lease.release()
        # Nor who waits in vain for somebody else.
        foreign = await asyncio.create_task(client.lock(key).acquire())
        with pytest.raises(dlock.AcquireTimeout):
            await asyncio.create_task(client.lock(key, wait=0.05).acquire())
        assert await foreign.release()

    asyncio.run(main())


def test_r17_tasks_that_start_each_other_and_contexts_that_are_shared_leave_nothing_behind() -> None:
    async def main() -> None:
        client = dlock.Client(f"memory:{uuid4().hex}")
        context = contextvars.copy_context()
        for number in range(200):
            async with client.lock(f"k{number}"):
                pass
            await asyncio.create_task(client.with_lock("k", lambda lease: lease.token), context=context)

        async def generation(left: int) -> int:
            async with client.lock("g"):
                pass
            return await asyncio.create_task(generation(left - 1)) if left else 0

        assert await generation(100) == 0
        await client.close()

    asyncio.run(main())
