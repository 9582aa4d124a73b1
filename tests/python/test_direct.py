"""Lone requests: the caller's own thread sends them and reads the answers."""

import asyncio
import gc
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

import dlock
import dlock.sync
from dlock._loop import current
from services import RedisServer

PAIRS = 20


# The backends whose lone requests have a connection of their own.
on_servers = pytest.mark.parametrize("url", ["redis", "etcd"], indirect=True)


async def warm(client: dlock.Client) -> None:
    """Uses a client until its lone requests have a connection of their own, which this loop reads."""
    lock = client.lock("warm")
    for _ in range(2_000):
        async with lock:
            pass
        if current()._sockets:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("there is no direct connection")


@on_servers
def test_a_lone_caller_reads_its_answers_on_its_own_loop(url: str) -> None:
    async def main() -> None:
        async with dlock.Client(url) as client:
            await warm(client)
            (reader,) = current()._sockets.values()
            for number in range(PAIRS):
                acquire = asyncio.ensure_future(client.lock(f"k {number}").acquire())
                await asyncio.sleep(0)
                assert reader.call is not None, "the engine reads it"
                assert await (await acquire).release()
            assert [*current()._sockets.values()] == [reader]
            assert reader.call is None

    asyncio.run(main())


@on_servers
def test_r11_a_loop_that_stands_still_keeps_no_answer_from_the_engine(url: str) -> None:
    async def main() -> None:
        async with dlock.Client(url) as client:
            await warm(client)
            acquire = asyncio.ensure_future(client.lock("still", ttl=2.0).acquire())
            await asyncio.sleep(0)
            # Longer than the lease: the engine has it and renews it.
            time.sleep(2.5)
            lease = await acquire
            assert lease.valid
            release = lease.release()
            time.sleep(0.3)
            assert lease.status == "released", "the engine has read it"
            assert await release

    asyncio.run(main())


@on_servers
def test_r04_a_caller_that_is_cancelled_leaves_nothing_behind(url: str) -> None:
    async def main() -> None:
        async with dlock.Client(url) as client:
            await warm(client)
            for number in range(PAIRS):
                acquire = asyncio.ensure_future(client.lock(f"cancelled {number}", ttl=600).acquire())
                await asyncio.sleep(0)
                if acquire.cancel():
                    with pytest.raises(asyncio.CancelledError):
                        await acquire
                else:
                    # The answer was faster.
                    await acquire.result().release()
                await warm(client)
            end = time.monotonic() + 5
            while await client.list_locks("cancelled"):
                assert time.monotonic() < end, "a key that nobody wants is held"
                await asyncio.sleep(0.01)

    asyncio.run(main())


@on_servers
def test_r04_a_loop_that_ends_leaves_nothing_behind(url: str) -> None:
    client = dlock.Client(url)

    async def main() -> None:
        await warm(client)
        # Nobody awaits it, and nobody reads the answer.
        asyncio.ensure_future(client.lock("ended", ttl=600).acquire())  # noqa: RUF006
        await asyncio.sleep(0)

    asyncio.run(main())
    with dlock.sync.Client(url) as other:
        assert other.lock("ended", wait=5).acquire().release()
    asyncio.run(main())
    asyncio.run(client.close())


@on_servers
def test_two_clients_of_one_loop_keep_their_readers(url: str) -> None:
    async def pairs(client: dlock.Client, name: str) -> None:
        for _ in range(100):
            async with client.lock(name):
                pass

    async def main() -> None:
        async with dlock.Client(url) as one, dlock.Client(url) as other:
            await warm(one)
            before = len(current()._sockets)
            await pairs(other, "other")
            assert (before, len(current()._sockets)) == (1, 2)
            since = time.monotonic()
            await asyncio.gather(pairs(one, "a"), pairs(other, "b"))
            # An answer that only the engine reads takes 50 ms.
            assert time.monotonic() - since < 2, "the engine reads them"

    asyncio.run(main())


@on_servers
def test_r13_a_forked_child_leaves_the_answer_of_its_parent_alone(url: str) -> None:
    async def main() -> None:
        # An answer that the child has taken would be asked for again after that time, and come all the same.
        async with dlock.Client(url, op_timeout=30) as client:
            await warm(client)
            (reader,) = current()._sockets.values()
            for number in range(PAIRS):
                acquire = asyncio.ensure_future(client.lock(f"forked {number}").acquire())
                await asyncio.sleep(0)
                socket = reader._descriptor.fileno()
                child = os.fork()
                if child == 0:
                    # As the parent's loop would do, if it ran on in the child. The answer is there: the parent waits for the child.
                    select.select([socket], [], [], 5)
                    reader()
                    del acquire
                    gc.collect()
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
                lease = await asyncio.wait_for(acquire, 5)
                assert lease.valid
                assert await lease.release()

    asyncio.run(main())


class Interrupted(BaseException):
    """What the signal handler raises."""


def interrupt(_number: int, _frame: object) -> None:
    raise Interrupted


def test_r10_ctrl_c_between_a_request_and_its_answer_leaves_nothing_behind(redis_server: RedisServer) -> None:
    before = signal.signal(signal.SIGALRM, interrupt)
    client = dlock.sync.Client(redis_server.url)

    def interrupted(call: Callable[[], object]) -> None:
        """Sends the request; no answer comes before the signal."""
        with redis_server.frozen():
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(Interrupted):
                call()

    try:
        for number in range(5):
            # As many pairs as it takes for lone requests to have a connection of their own.
            for _ in range(20):
                assert client.lock("warm").acquire().release()
            lease = client.lock("released", ttl=600).acquire()
            interrupted(lease.release)
            # What the interrupted call was answered is not the answer of the next one.
            with client.lock("after", ttl=600) as after:
                assert (after.key, after.valid) == ("after", True)
            interrupted(client.lock("acquired", ttl=600).acquire)
            assert client.lock("released", wait=5).acquire().release()
            assert client.lock("acquired", wait=5).acquire().release(), number
    finally:
        signal.signal(signal.SIGALRM, before)
        client.close()


def test_two_threads_and_a_loop_share_one_client(redis_server: RedisServer) -> None:
    client = dlock.sync.Client(redis_server.url)
    wrong: list[object] = []

    def pairs(name: str) -> None:
        for number in range(200):
            with client.lock(f"{name} {number % 3}") as lease:
                if not lease.valid:
                    wrong.append((name, number))

    threads = [threading.Thread(target=pairs, args=(name,)) for name in ("a", "b", "a")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)
    assert client.list_locks() == []
    client.close()


def test_a_loop_has_its_turn_whatever_is_over_at_once() -> None:
    async def main() -> int:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        async with dlock.Client("memory:") as client:
            lock = client.lock("k")
            for _ in range(1_000):
                async with lock:
                    pass
        counting.cancel()
        return turns

    assert asyncio.run(main()) >= 1_000 // 17


def test_a_server_that_hangs_up_is_no_reason_to_spin(redis_server: RedisServer) -> None:
    port = redis_server.url.rpartition(":")[2].split("/")[0]

    async def main() -> None:
        async with dlock.Client(redis_server.url) as client:
            await warm(client)
            # The link listens to a channel, so it is not of this type.
            killed = subprocess.run(["redis-cli", "-p", port, "CLIENT", "KILL", "TYPE", "normal"], capture_output=True, check=True)
            assert int(killed.stdout) > 0
            before = time.process_time()
            await asyncio.sleep(0.3)
            assert time.process_time() - before < 0.15, "the loop spins"
            async with client.lock("k"):
                pass
            await warm(client)

    asyncio.run(main())
