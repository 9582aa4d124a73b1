"""Rule 5: what a signal handler raises inside an acquire or a release leaves no lease behind."""

import asyncio
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

import dlock
from dlock import sync
from polling import eventually, until

INTERRUPTS = int(os.environ.get("INTERRUPTS", "2000"))


@pytest.mark.parametrize("face", ["sync", "async"])
def test_r05_a_signal_handler_that_raises_leaves_no_lease_behind(url: str, face: str) -> None:
    name = f"{url}-{face}" if url.startswith("memory") else url
    command = [sys.executable, str(Path(__file__).with_name("interrupted.py")), face, name, str(INTERRUPTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + INTERRUPTS / 10, check=False)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-1000:]
    inside = int(done.stdout.split()[-1])
    print(f"{inside} of {INTERRUPTS} interrupts came inside of a call")
    # Of asyncio's, most of the time goes to the loop.
    assert inside > (INTERRUPTS / 20 if face == "sync" else 0)


def test_r05_a_body_that_never_begins_is_released(key: str) -> None:
    """From Python 3.14 on `with` runs signal handlers when `__enter__` has returned: this is what it does then."""
    client = sync.Client("memory:")
    for lock in (client.lock(key), client.lock(key, reentrant=True)):
        with pytest.raises(ZeroDivisionError):
            print(lock.__exit__, lock.__enter__(), 1 / 0)
        assert lock._entered == []
        until(lambda: not client.is_locked(key), "the lease is released")
        with lock, pytest.raises(ZeroDivisionError):
            print(lock.__exit__, 1 / 0)
        assert client.stats().held == 0


def test_r05_a_body_that_never_begins_inside_of_another_one_takes_back_one_entry(key: str) -> None:
    client = sync.Client("memory:")
    lock = client.lock(key, reentrant=True)
    with lock as lease:
        with pytest.raises(ZeroDivisionError):
            print(lock.__exit__, lock.__enter__(), 1 / 0)
        assert lease.valid
        assert lock._entered == [lease]
    assert lease.status == "released"


def test_r05_a_lease_that_is_never_stored_is_released(key: str) -> None:
    client = sync.Client("memory:")
    lock = client.lock(key)
    for take in (lock.acquire, lock.try_acquire):
        with pytest.raises(ZeroDivisionError), pytest.warns(ResourceWarning, match=key):
            print(take(), 1 / 0)
        until(lambda: not client.is_locked(key), "the lease is released")


def test_an_exit_stack_releases_what_it_entered_and_what_it_lost(key: str) -> None:
    client = sync.Client("memory:")
    lock = client.lock(key)
    with ExitStack() as stack:
        lease = stack.enter_context(lock)
        kept = stack.pop_all()
    assert lease.valid
    threading.Thread(target=kept.close).start()
    until(lambda: not lease.valid, "the stack is closed elsewhere")
    lost = ExitStack()
    lost.enter_context(lock)
    del lost
    until(lambda: not client.is_locked(key), "nobody can leave the body any more")


def test_r05_the_same_for_asyncio(key: str) -> None:
    async def is_free(client: dlock.Client) -> bool:
        return not await client.is_locked(key)

    async def main() -> None:
        client = dlock.Client("memory:")
        for lock in (client.lock(key), client.lock(key, reentrant=True), client.lock(key, on_lost="raise")):
            with pytest.raises(ZeroDivisionError):
                print(lock.__aexit__, await lock.__aenter__(), 1 / 0)
            assert lock._entered == []
            await eventually(lambda: is_free(client), "the lease is released")
            with pytest.raises(ZeroDivisionError), pytest.warns(ResourceWarning, match=key):
                print(await lock.acquire(), 1 / 0)
            await eventually(lambda: is_free(client), "the lease is released")
            async with lock as lease:
                pass
            assert lease.status == "released"

    asyncio.run(main())


def test_r10_what_is_cancelled_before_its_grant_is_delivered_is_released(url: str, key: str) -> None:
    """Cancelled at each step of an acquire, and at each of a release."""

    async def pair(lock: dlock.Lock) -> None:
        async with lock:
            await asyncio.sleep(0)

    async def main() -> None:
        async with dlock.Client(url) as client:
            lock = client.lock(key, wait=10)
            for steps in range(12):
                task = asyncio.create_task(pair(lock))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                assert lock._entered == []
                async with lock:
                    pass
            assert client.stats().held == 0

    asyncio.run(main())


def test_releases_may_be_made_where_no_loop_runs(key: str) -> None:
    """As code does that drives a loop of its own, call by call."""
    client = dlock.Client("memory:")
    lock = client.lock(key)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        lease = loop.run_until_complete(lock.acquire())
        assert loop.run_until_complete(lease.release()) is True
        lease = loop.run_until_complete(lock.acquire())
        assert loop.run_until_complete(lock.release()) is True
        lease = loop.run_until_complete(lock.__aenter__())
        loop.run_until_complete(lock.__aexit__(None, None, None))
        assert lease.status == "released"
