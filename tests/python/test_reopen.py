"""Rule 14: a client that was closed by its owner works again after `reopen`, and so do the locks and functions made before."""

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

import dlock
from dlock import sync
from polling import eventually, until


def test_r14_an_asyncio_client_works_again_with_all_that_was_made_before(url: str, key: str) -> None:
    client = dlock.Client(url)
    lock = client.lock(key, ttl=5)

    @client.locked(key + ":{order_id}", ttl=5)
    async def ship(order_id: int) -> int:
        return dlock.current_lease().token

    @client.locked(key + ":plain", ttl=5)
    def pack() -> int:
        return dlock.current_lease().token

    async def life() -> tuple[int, int, int]:
        client.reopen()
        try:
            async with lock as lease:
                return lease.token, await ship(7), await asyncio.to_thread(pack)
        finally:
            await client.close(5)
            with pytest.raises(dlock.ClientClosed):
                await lock.acquire()
            with pytest.raises(dlock.ClientClosed):
                await ship(7)

    # As a web server's lifespan in one test after the other: each on a loop of its own.
    lives = [asyncio.run(life()) for _ in range(3)]
    assert lives == sorted(lives)
    assert all(before < after for before, after in zip(lives[0], lives[1], strict=True))


def test_r14_a_sync_client_works_again(url: str, key: str) -> None:
    client = sync.Client(url)
    lock = client.lock(key, ttl=5)
    lost = lock.acquire()
    client.reopen()
    assert lost.valid, "an open client is left alone"
    client.close()
    with pytest.raises(dlock.ClientClosed):
        lock.acquire()
    client.reopen()
    client.reopen()
    with lock as lease:
        assert lease.token > lost.token
    assert (lost.status, client.health().status) == ("lost", "ok")
    with client:
        pass
    client.reopen()
    client.ping()


def test_r14_observers_and_counts_go_on(key: str) -> None:
    client = sync.Client(f"memory:{key}")
    heard: list[str] = []
    client.on("acquired", lambda event: heard.append(event.key))
    for name in "ab":
        with client.lock(name):
            pass
        client.close()
        client.reopen()
    until(lambda: heard == ["a", "b"], "both are told")
    assert (client.stats().acquired, client.stats().released) == (2, 2)


def test_r14_observers_on_a_loop_go_on(key: str) -> None:
    async def main() -> None:
        client = dlock.Client(f"memory:{key}")
        heard: list[str] = []
        client.on("acquired", lambda event: heard.append(event.key))
        for name in "ab":
            async with client.lock(name):
                pass
            await client.close()
            client.reopen()

        async def told() -> bool:
            return heard == ["a", "b"]

        await eventually(told, "both are told")

    asyncio.run(main())


def test_r14_reopening_does_not_wait_for_a_close_that_drains(key: str) -> None:
    async def main() -> None:
        client = dlock.Client(f"memory:{key}")
        lease = await client.lock("k").acquire()
        closing = asyncio.create_task(client.close(30))

        async def refuses() -> bool:
            return (await client.health()).status == "down"

        await eventually(refuses, "the client is closing")
        client.reopen()
        async with client.lock("other") as other:
            assert other.valid
            assert lease.valid
            assert not closing.done()
            assert await client.lock("k").try_acquire() is None, "it is still held"
            await lease.release()
            await closing
            assert other.valid, "it belongs to the session that was opened since"
        async with client.lock("k") as after:
            assert after.token > lease.token

    asyncio.run(main())


@pytest.mark.parametrize("use", [sync.Client.ping, sync.Client.reopen], ids=["ping", "reopen"])
def test_r13_a_child_does_not_reopen_its_parents_client(use: Callable[[Any], Any], key: str) -> None:
    client = sync.Client(f"memory:{key}")
    client.ping()
    client.close()
    child = os.fork()
    if child == 0:
        try:
            use(client)
        except dlock.ForkedError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    client.reopen()
    child = os.fork()
    if child == 0:
        with client.lock("k"):  # opened, and not used since
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    client.ping()


def test_r14_threads_that_lock_while_a_client_is_reopened_are_served_or_told(key: str) -> None:
    client = sync.Client(f"memory:{key}")
    lock = client.lock("k")
    done = threading.Event()
    counts = {"served": 0, "told": 0}
    strange: list[BaseException] = []

    def work() -> None:
        while not done.is_set():
            try:
                with lock:
                    counts["served"] += 1
            except (dlock.ClientClosed, dlock.LockLost):
                counts["told"] += 1
            except BaseException as error:
                strange.append(error)
                return

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        client.close(5)
        client.reopen()
    until(lambda: counts["served"] > 50 or bool(strange), "work goes on")
    done.set()
    for thread in threads:
        thread.join(10)
    assert strange == []
    gc.collect()
    with lock:
        assert client.stats().held == 1
